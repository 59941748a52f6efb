"""Reads curves off the points of studies, and puts intervals into words: what all verdicts are written with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from icsbound.report.intervals import Interval, student
from icsbound.report.studies.points import Studies
from icsbound.report.wording import change, number

HOLDS, FAILS, OPEN = "holds", "fails", "not resolved"


def values(studies: Studies, study: str, panel: str, curve: str) -> pd.DataFrame:
    """The values of one curve: a row a seed, a column a point; seeds that were cut short drop out."""
    rows = studies.by_seed(study, panel)
    rows = rows[rows["curve"] == curve]
    place = rows.groupby("seed").cumcount()
    return rows.assign(place=place).pivot_table(index="seed", columns="place", values="value").dropna()


def row(studies: Studies, study: str, panel: str, curve: str, at: int = -1) -> pd.Series | None:
    """The averaged point of a curve at one place, by default the last; None where there is none."""
    rows = studies.panel(study, panel)
    rows = rows[rows["curve"] == curve]
    return rows.iloc[at] if len(rows) else None


def point(averaged: pd.Series) -> Interval:
    """The interval of an averaged point."""
    return Interval(averaged["mean"], averaged["low"], averaged["high"], int(averaged["seeds"]))


def xs(studies: Studies, study: str, panel: str, curve: str) -> np.ndarray:
    """Where the points of a curve lie."""
    rows = studies.panel(study, panel)
    return np.asarray(rows.loc[rows["curve"] == curve, "x"], dtype=float)


def exponent(studies: Studies, study: str, panel: str, curve: str) -> Interval:
    """The power of x that the curve grows like, by least squares in logarithms, seed by seed."""
    found, x = values(studies, study, panel, curve), xs(studies, study, panel, curve)
    if found.empty or found.shape[1] != len(x) or len(x) < 2:
        return student([])
    return student([float(np.polyfit(np.log(x), np.log(one), 1)[0]) for one in found.to_numpy()])


def last_over_first(studies: Studies, study: str, panel: str, curve: str) -> Interval:
    """The last value of the curve over its first, as a geometric mean over seeds."""
    found = values(studies, study, panel, curve)
    return student(np.log(found.iloc[:, -1] / found.iloc[:, 0])).exp() if len(found) else student([])


def over(studies: Studies, study: str, panel: str, curve: str, other: str) -> Interval:
    """One curve over another, seed by seed, as a geometric mean over their points and over seeds."""
    one, two = (values(studies, study, panel, name) for name in (curve, other))
    if one.empty or one.shape[1] != two.shape[1]:
        return student([])
    return student(np.log(one / two).dropna().mean(axis=1)).exp()


def rank(rows: pd.DataFrame) -> float | None:
    """Spearman's rank correlation of x and value; None where too few of them differ."""
    if len(rows) < 3 or min(rows["x"].nunique(), rows["value"].nunique()) < 2:
        return None
    return float(stats.spearmanr(rows["x"], rows["value"]).statistic)


def ranks(rows: pd.DataFrame) -> Interval:
    """The mean over seeds of `rank`."""
    found = [rank(group) for _, group in rows.groupby("seed")]
    return student([one for one in found if one is not None])


def word(interval: Interval, null: float, wanted: str, *, exact: bool = False) -> str:
    """`HOLDS` where the interval lies on the wanted side ("higher", "lower") of `null`, `FAILS` on the other.

    Where chance has no part (`exact`), several seeds may agree to rounding, which leaves no interval: their common
    value then decides. One seed never does.
    """
    said = interval.verdict(null)
    if exact and interval.count > 1 and not interval.known and interval.mean != null:
        said = "higher" if interval.mean > null else "lower"
    return HOLDS if said == wanted else OPEN if said == "not resolved" else FAILS


def together(*words: str) -> str:
    """One claim of several parts: it holds where all do."""
    return FAILS if FAILS in words else OPEN if OPEN in words or not words else HOLDS


def power(interval: Interval) -> str:
    """An exponent with its interval."""
    return number(interval.mean) + change(interval)


def brief(interval: Interval, said: Callable[[float], str] = number) -> str:
    """A mean and the ends of its interval; where there is none the mean alone."""
    low, high = (said(end).removesuffix(" %") for end in (interval.low, interval.high))
    return said(interval.mean) + (f" ({low} to {high})" if interval.known else "")


def share(interval: Interval) -> str:
    """A fraction as a percentage with its interval."""
    hundredfold = interval.scaled(100)
    return f"{number(hundredfold.mean)} %{change(hundredfold)}"
