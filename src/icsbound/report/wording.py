"""How the page writes numbers: three digits, a true minus, powers of ten as powers, plurals that agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from icsbound.report.runs import Study
from icsbound.report.statistics import Interval

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits; powers of ten where plain digits would be long."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", "−")
    if abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:#.{digits}g}".rstrip(".") if value else "0"
    return text.replace("-", "−")


def signed(value: float, decimals: int = 2) -> str:
    """`value` with its sign, a true minus, and a plain zero."""
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{decimals}f}"


def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{100 * fraction:.{decimals}f} %".replace("-", "−")


def count(value: int, one: str, many: str = "") -> str:
    """`1 run`, `3 runs`, `1,200 runs`."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def listed(names: list[str], limit: int = 6) -> str:
    """`a, b and c`; beyond `limit`, the first ones and how many more."""
    if len(names) > limit:
        return ", ".join(names[:limit]) + f" and {len(names) - limit} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def points(interval: Interval) -> str:
    """A difference of accuracies with its interval, in percentage points."""
    mean, low, high = (100 * value for value in (interval.mean, interval.low, interval.high))
    if not interval.known:
        return f"{signed(mean)} points{_unknown(interval)}"
    decimals = _decimals(low, high, 0.0)
    return f"{signed(mean)} points (95 % interval {signed(low, decimals)} to {signed(high, decimals)})"


def times(interval: Interval) -> str:
    """A ratio with its interval."""
    if not interval.known:
        return f"{_ratio(interval.mean)} times{_unknown(interval)}"
    decimals = _decimals(interval.low, interval.high, 1.0)
    low, high = _ratio(interval.low, decimals), _ratio(interval.high, decimals)
    return f"{_ratio(interval.mean)} times (95 % interval {low} to {high})"


def change(interval: Interval, unit: str = "", digits: int = 3) -> str:
    """The interval alone, to stand behind its mean."""
    if interval.known:
        return f" (95 % interval {number(interval.low, digits)} to {number(interval.high, digits)}{unit})"
    return _unknown(interval)


def given(interval: Interval) -> str:
    """A mean, with its interval where there is one."""
    return number(interval.mean) + (change(interval) if interval.known else "")


def _ratio(value: float, decimals: int = 2) -> str:
    """A ratio near 1 with some decimals, any other with two digits."""
    return f"{value:.{decimals}f}" if 0.095 <= value < 100 else number(value, 2)


def _decimals(low: float, high: float, null: float) -> int:
    """Two decimals, or as many more as it takes that no end of an interval is written as `null` without being it."""
    ends = [abs(end - null) for end in (low, high) if end != null]
    return next((k for k in (2, 3, 4) if min(ends, default=1.0) >= 0.5 * 10.0**-k), 5)


def _unknown(interval: Interval) -> str:
    """Why there is no interval."""
    if interval.count > 1:
        return " (the same at every seed: no interval)"
    return " (one seed: no interval)" if interval.count else " (no pair of finished runs)"


def split(study: Study) -> str:
    """What accuracies were taken on."""
    info = next((run.info for run in study.runs if run.info), None)
    return f"{info.split} split of {info.evaluation_size:,} images" if info else "unknown split"


def measure(distances: pd.DataFrame) -> str:
    """n, d and estimator of some distances; nothing of none."""
    if distances.empty:
        return ""
    low, high = distances["d"].min(), distances["d"].max()
    d = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    n = listed([f"{n:,}" for n in sorted(distances["n"].unique())])
    return f"n = {n}, d = {d}; {'; '.join(sorted(distances['estimator'].unique()))}."


def some(shown: Sequence[object], names: Sequence[object]) -> str:
    """That a figure shows only some of the layers, where it does."""
    return "" if len(shown) == len(names) else f" {len(shown)} of {len(names)} layers, evenly spread."
