"""What the studies of trained networks say: reduction, moments, alpha, information, shift."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from icsbound.report.intervals import student
from icsbound.report.studies.points import Studies
from icsbound.report.studies.reading import (
    FAILS,
    HOLDS,
    OPEN,
    brief,
    point,
    power,
    rank,
    row,
    share,
    together,
    values,
    word,
)
from icsbound.report.wording import count, listed, number, percent, points, times

NEGLIGIBLE = 0.05  # a share of the shift below which it does not matter
STILL = 0.01  # a change of alpha below which no channel trained
FASTER = "trained, rate × 10"  # the curve of alpha at ten times its rate
PUBLISHED, SCALED = "as published", "batch norm, γ × √(L/C)"
KEPT = f"{PUBLISHED}, κ keeps the rms"


def reduction(studies: Studies) -> tuple[str, str]:
    """How often the shift is larger after batch norm than before, and by how much it changes."""
    text = ""
    built = row(studies, "reduction", "construction", "W1 after / before")
    if built is not None:
        text = f"A pair of laws moves {number(built['mean'])} times as far after batch norm as before, at equal "
        text += "variance. "
    shares, ratios = [], {}
    for curve in dict.fromkeys(studies.panel("reduction", "share")["curve"]):
        larger = student(values(studies, "reduction", "share", curve).mean(axis=1))
        ratio = student(np.log(values(studies, "reduction", "training", curve)).mean(axis=1)).exp()
        if larger.count:
            shares.append(larger)
            ratios[curve] = ratio
            text += (
                f"In training ({curve}) it enlarged the shift in {share(larger)} of all layers and pairs of states, "
            )
            text += f"and on average made it {times(ratio)} as large. "
    if not shares:
        return OPEN, text
    if all(larger.mean == 0 and larger.count > 1 for larger in shares):
        return FAILS, text + "It never enlarged it: the construction shows a possibility and no more."
    if any(ratio.verdict(1.0) == "lower" for curve, ratio in ratios.items() if curve.startswith("scale-free")):
        text += "It need not reduce the shift, but on average it did, in units of the spread as well."
    return HOLDS if any(larger.known and larger.low > 0 for larger in shares) else OPEN, text


def moments(studies: Studies) -> tuple[str, str]:
    """How much of the shift is left once means and variances are matched."""
    pairs = studies.panel("moments", "pairs")
    text = ""
    if len(pairs):
        last = pairs[pairs["x"] == pairs["x"].max()]
        each = [f"{brief(point(one))} ({one['curve']})" for _, one in last.iterrows()]
        text = f"Laws with equal means and variances lie {listed(each)} of √(2d) apart at d = {last['x'].iloc[0]:g}. "
    survive = student(values(studies, "moments", "training", "survives matching").mean(axis=1))
    if not survive.count:
        return OPEN, text
    text += f"In training, {share(survive)} of the shift survives matching of means and variances in every channel. "
    if survive.known and survive.high < NEGLIGIBLE:
        text += f"That is negligible, less than {percent(NEGLIGIBLE, 0)}. "
    for panel, what in (("training", "of all of it"), ("survivors", "of what survives")):
        seen = studies.by_seed("moments", panel)
        seen = seen[seen["curve"] != "survives matching"]
        if len(seen):
            each = [
                f"{bound.removeprefix('seen by: ')} {found}" for bound, found in _means(seen, seen["curve"], 1).items()
            ]
            text += f"Cheap lower bounds see, {what} and on average: {listed(each, 8)}. "
    return word(survive, NEGLIGIBLE, "higher"), text


def alpha(studies: Studies) -> tuple[str, str]:
    """Whether alpha moves, and whether accuracy is higher for it than with controls that take its part."""
    accuracy = {
        str(curve): rows.set_index("seed")["value"]
        for curve, rows in studies.by_seed("alpha", "accuracy").groupby("curve", sort=False)
    }
    # Runs of the user's may all have the higher rate.
    trained = "trained" if "trained" in accuracy else FASTER
    if trained not in accuracy:
        return OPEN, "No network with a trained alpha was measured."
    text = "Alpha was trained at ten times its rate alone. " if trained == FASTER else ""
    course, reach = (values(studies, "alpha", panel, trained) for panel in ("alpha", "reach"))
    farthest = student([] if reach.empty else reach.iloc[:, -1])
    if course.empty or reach.empty:
        text += "How far alpha went was not recorded: its runs were trained without a monitor. "
    else:
        text += f"In each layer, the channel of alpha that moved most is {power(farthest)} from its start in the end, "
        moved = student(course.iloc[:, -1] - course.iloc[:, 0])
        text += f"mean over layers; the mean over channels moved by {power(moved)}. "
    faster = values(studies, "alpha", "reach", FASTER)
    if len(faster) and trained != FASTER:
        text += f"At ten times the rate the farthest channel went {power(student(faster.iloc[:, -1]))}. "
    published = values(studies, "alpha", "reach", PUBLISHED)
    if len(published):
        text += f"As published, without a range, it went {power(student(published.iloc[:, -1]))}. "
    said: dict[str, str] = {}
    for reference, begin, controls in _judged(trained):
        if reference in accuracy:
            gains = {c: student((accuracy[reference] - accuracy[c]).dropna()) for c in controls if c in accuracy}
            said |= {curve: gain.verdict() for curve, gain in gains.items()}
            if gains:
                text += f"{begin}: " + "; ".join(f"{curve}, {points(gain)}" for curve, gain in gains.items()) + ". "
    if {PUBLISHED, KEPT} <= accuracy.keys():  # both unitize: told, and no control of either
        gain = student((accuracy[PUBLISHED] - accuracy[KEPT]).dropna())
        text += f"The published target norm adds to one that keeps the root mean square: {points(gain)}. "
    moves = word(farthest, STILL, "higher", exact=True)  # an alpha that nothing moves agrees over seeds
    if moves == FAILS:
        return FAILS, text + "Alpha stayed where it started."
    if better := [curve for curve, found in said.items() if found == "lower"]:
        return FAILS, text + f"More accurate than what it is a control of: {listed(better)}."
    if open_ := [curve for curve, found in said.items() if found == "not resolved"]:
        return OPEN, text + f"Not told apart from what it is a control of: {listed(open_)}."
    return moves if said else OPEN, text


def _judged(trained: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """What is trained, how its sentence begins, and the controls that take its part."""
    ended = ("frozen at its final values", "frozen at its final mean")
    frozen = (*ended, "frozen at 0 (batch norm)", "frozen at 0.5", "frozen at 1")
    return (
        (trained, "Accuracy with alpha trained, less that with alpha", frozen),
        (FASTER, "At ten times the rate, less that with alpha of the same values by chance", ("frozen at random",)),
        (PUBLISHED, "As published, less that with a gain alone", (f"{PUBLISHED}, batch scope", SCALED)),
    )


def information(studies: Studies) -> tuple[str, str]:
    """Whether a probe reads more from outputs unitized after batch norm than from raw ones unitized."""
    raw, first, whole = (
        values(studies, "information", "by layer", curve)
        for curve in ("raw, unitized", "batch norm, unitized", "batch norm")
    )
    if raw.empty or raw.shape != first.shape:
        return OPEN, "Raw and normalized outputs were not both measured."
    gap = student((first - raw).mean(axis=1))
    text = "On the layers of a trained network, a linear probe gains by normalizing before unitizing: "
    text += f"{points(gap)}. "
    if whole.shape == first.shape:
        text += f"It gains by not unitizing normalized outputs: {points(student((whole - first).mean(axis=1)))}. "
    own, full = (values(studies, "information", "trained", curve) for curve in ("α as trained", "α = 1"))
    if len(own) and own.shape == full.shape:
        text += "On those of a network whose alpha was trained, it gains by that alpha over alpha = 1: "
        text += f"{points(student((own - full).mean(axis=1)))}. "
    far = [row(studies, "information", "offset", curve) for curve in ("raw, unitized", "batch norm, unitized")]
    if (direct := far[0]) is not None and (normalized := far[1]) is not None:
        text += f"With means {direct['x']:,.0f} deviations away from 0 it is right in "
        text += f"{brief(point(direct), percent)} on raw outputs unitized, and in "
        text += f"{brief(point(normalized), percent)} on normalized ones. "
    least, most = (row(studies, "information", "norm", "linear probe", at) for at in (0, -1))
    if least is not None and most is not None:
        text += f"Of the variance of the norm, a linear probe explains {brief(point(least), percent)} at "
        text += f"α = {least['x']:g} and {brief(point(most), percent)} at α = {most['x']:g}."
    return word(gap, 0.0, "higher"), text


def shift(studies: Studies) -> tuple[str, str]:
    """Whether distances, and moments alone, rank conditions by what they cost; where batch norm's distance grows."""
    ranks = {which: student(_ranks(studies, which)) for which in ("distance", "moments")}
    if not ranks["distance"].count:
        return OPEN, "Too few conditions were measured to rank them."
    text = "Over conditions, accuracy has a rank correlation with the distance of the last normalization layer of "
    text += f"{power(ranks['distance'])}, and with what moments alone say of {power(ranks['moments'])}. "
    layers = studies.panel("shift", "by layer")
    parts = layers["curve"].str.split(" · ", n=1, expand=True)
    layers = layers.assign(condition=parts[0], arm=parts[1])
    moved = studies.by_seed("shift", "by layer")
    each = [f"{found} spreads in {arm}" for arm, found in _means(moved, _arms(moved)).items()]
    text += f"Layers move by {listed(each)} on average. "
    own = layers[layers["arm"] == "bn"]
    if len(own):
        first = own[own["place"] == 0].set_index("condition")["mean"]
        peak = own.loc[own.groupby("condition", sort=False)["mean"].idxmax()]
        grows = [one.condition for one in peak.itertuples() if one.mean > 1.25 * first[one.condition]]
        where = number(float(peak["place"].mean()), 2)
        text += f"In batch norm the distance is largest at layer {where} of 0 to {int(own['place'].max())} on average, "
        text += f"and in {len(grows)} of {count(len(peak), 'condition')} a quarter or more above that of the first. "
    left = studies.by_seed("shift", "accuracy")
    left = left[~left["curve"].str.startswith("none · ")]
    each = [f"{arm} {found}" for arm, found in _means(left, _arms(left), 1).items()]
    text += f"Accuracy that is left, mean over conditions: {listed(each)}."
    return together(*(word(found, 0.0, "lower") for found in ranks.values())), text


def _arms(rows: pd.DataFrame) -> pd.Series:
    """The arm in the names of curves "condition · arm"."""
    return rows["curve"].str.split(" · ", n=1).str[1]


def _means(rows: pd.DataFrame, by: pd.Series, decimals: int | None = None) -> dict[str, str]:
    """For each of `by` the mean over its rows, in words, with the interval over seeds; with `decimals` in percent."""
    said = number if decimals is None else partial(percent, decimals=decimals)
    means = rows.groupby([by.rename("by"), "seed"], sort=False)["value"].mean()
    return {str(name): brief(student(own), said) for name, own in means.groupby(level=0, sort=False)}


def _ranks(studies: Studies, which: str) -> list[float]:
    """Spearman's rank correlation over conditions, mean over networks, seed by seed."""
    rows = studies.by_seed("shift", f"{which} against accuracy")
    found: dict[int, list[float]] = {}
    for (seed, _), group in rows.assign(arm=rows["curve"].str.split(" · ").str[1]).groupby(["seed", "arm"]):
        if (one := rank(group)) is not None:
            found.setdefault(int(seed), []).append(one)
    return [float(np.mean(each)) for each in found.values()]
