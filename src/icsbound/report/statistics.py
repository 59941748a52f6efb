"""The numbers of the page: means with Student intervals, paired by seed, and tables small enough to draw.

The seed is the unit of replication everywhere: layers and steps of one run are averaged first, and the interval is over
seeds. With one seed there is no interval, and with equal differences at every seed there is none that can be trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from icsbound.report.intervals import LEVEL, Interval, p_value, student
from icsbound.report.runs import Study

__all__ = ["LEVEL", "Interval", "p_value", "student"]  # of `intervals`, for those who take all numbers from here

CELLS = 16_000  # rows that one figure may hold, so that a page stays small whatever the run recorded
PANELS = 12  # layers drawn one by one; a heat map shows all of them
T = TypeVar("T")


def accuracy(study: Study, arm: str) -> pd.Series:
    """Final accuracy of `arm` by seed, finished runs only."""
    rows = study.results[study.results["arm"] == arm]
    return rows.groupby("seed")["accuracy"].last()


def accuracy_difference(study: Study, arm: str, control: str) -> Interval:
    """Accuracy of `arm` minus that of `control`, paired by seed."""
    return student((accuracy(study, arm) - accuracy(study, control)).dropna())


def views(distances: pd.DataFrame) -> list[str]:
    """The views in the order in which the page speaks of them."""
    order = {"pooled": 0, "sample": 1}
    return sorted(distances["view"].unique(), key=lambda view: order.get(view, 2))


def main_part(distances: pd.DataFrame) -> pd.DataFrame:
    """The distances that figures draw: one side and one law, outputs and stored statistics where they were taken."""
    for column, preferred in (("side", "outputs"), ("law", "eval")):
        present = list(distances[column].unique())
        if len(present) > 1:
            kept = preferred if preferred in present else present[0]
            distances = distances[distances[column] == kept]
    return distances


def log_ratios(study: Study, arm: str, control: str, view: str) -> pd.DataFrame:
    """log(ICS of `arm` / of `control`), scale-free, at equal seed, layer and steps; zero distances drop out."""
    rows = study.finished(main_part(study.distances))
    rows = rows[(rows["view"] == view) & (rows["scale_free"] > 0)]
    keys = ["seed", "layer", "step_a", "step_b"]
    left, right = (rows.loc[rows["arm"] == a, [*keys, "scale_free"]] for a in (arm, control))
    both = left.merge(right, on=keys, suffixes=("", "_control"))
    return both[keys].assign(log_ratio=np.log(both["scale_free"] / both["scale_free_control"]))


def ratio(ratios: pd.DataFrame) -> Interval:
    """Geometric mean ratio: every layer and step pair weighs the same within a seed, and the interval is over seeds."""
    by_layer = ratios.groupby(["seed", "layer"])["log_ratio"].mean()
    return student(by_layer.groupby("seed").mean()).exp()


def early_and_late(ratios: pd.DataFrame) -> tuple[Interval, Interval]:
    """The ratio over the first and over the last third of the captures."""
    steps = np.sort(ratios["step_b"].unique())
    third = max(1, len(steps) // 3)
    early, late = (ratios[ratios["step_b"].isin(part)] for part in (steps[:third], steps[-third:]))
    return ratio(early), ratio(late)


def ratio_by_layer(study: Study, ratios: pd.DataFrame) -> pd.DataFrame:
    """One row a layer: the ratio, its interval, and whether it is resolved with the false discovery rate at 5 %."""
    rows = []
    by_layer = ratios.groupby(["layer", "seed"])["log_ratio"].mean()
    for layer in study.layers_in(ratios):
        found = student(by_layer[layer]).exp()
        rows.append((layer, found.mean, found.low, found.high, found.count, p_value(by_layer[layer])))
    table = pd.DataFrame(rows, columns=["layer", "ratio", "low", "high", "count", "p"])
    adjusted = stats.false_discovery_control(table["p"]) if len(table) else []
    table["verdict"] = [
        "not resolved" if p > 1 - LEVEL else "higher" if r > 1 else "lower"
        for p, r in zip(adjusted, table["ratio"], strict=True)
    ]
    return table


def tightness(distances: pd.DataFrame) -> pd.Series:
    """EM / paired displacement of every exact distance whose paired displacement is not zero."""
    exact = distances[distances["value"].notna() & (distances["paired"] > 0)]
    return exact["value"] / exact["paired"]


@dataclass(frozen=True)
class Certificate:
    """The bracket checked on every exact distance of the page."""

    checked: int
    bracket_only: int  # distances of which only the cheap bounds were taken
    violations: int  # a bound on the wrong side of the value, beyond rounding
    loose: int  # gap above 1e-9 of the value and above rounding
    largest_gap: float  # value - dual value, in units of the layer's output
    largest_relative_gap: float


def certificate(distances: pd.DataFrame) -> Certificate:
    """Check ``mean shift, norms, dual <= value <= paired, independent`` on every record."""
    exact = distances[distances["value"].notna()]
    value, scale = exact["value"], exact["scale"]
    rounding = 1e-9 * value + 1e-12 * scale
    low = exact[["mean_shift", "norms", "lower"]].max(axis=1)
    high = exact[["paired", "independent"]].min(axis=1)
    gap = value - exact["lower"].fillna(-math.inf)
    relative = gap[value > 0] / value[value > 0]
    return Certificate(
        checked=len(exact),
        bracket_only=len(distances) - len(exact),
        violations=int(((low > value + rounding) | (high < value - rounding)).sum()),
        loose=int((gap > rounding).sum()),
        largest_gap=float(gap.max()) if len(exact) else 0.0,
        largest_relative_gap=float(relative.max()) if len(relative) else 0.0,
    )


def binned(frame: pd.DataFrame, step: str, limit: int) -> pd.DataFrame:
    """`frame` with at most `limit` different values of `step`: neighbours share the last of their steps.

    Bins hold equally many recorded steps, so a schedule that is dense at first keeps its detail there.
    """
    steps = np.sort(frame[step].unique())
    if len(steps) <= limit:
        return frame
    last = {s: part[-1] for part in np.array_split(steps, limit) for s in part}
    return frame.assign(**{step: frame[step].map(last)})


def evenly(items: list[T], limit: int) -> list[T]:
    """At most `limit` of `items`, evenly spread from the first to the last."""
    if len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def allowed(study: Study) -> pd.DataFrame:
    """Flattened exact distances beside R + R', what the layer's noise-free radius allows at the two steps.

    Only where both radii are finite. Every output lies within R of the bias, hence W1 <= |bias change| + R + R'.
    """
    keys = ["arm", "seed", "layer"]
    radius = study.layers.loc[np.isfinite(study.layers["bound"]), [*keys, "step", "bound"]]
    rows = main_part(study.distances)
    rows = rows[(rows["view"] == "sample") & rows["value"].notna()]
    for end in ("step_a", "step_b"):
        rows = rows.merge(radius.rename(columns={"step": end, "bound": f"radius_{end}"}), on=[*keys, end])
    return rows.assign(share=rows["value"] / (rows["radius_step_a"] + rows["radius_step_b"]))
