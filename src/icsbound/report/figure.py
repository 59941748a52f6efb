"""What a figure of the page is, and the encodings that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from icsbound.report.runs import Study

# The control is drawn in gray; the others in colours that stay apart for colour-blind readers, on white and on black.
PALETTE = ["#7c8594", "#2f6fde", "#e08a00", "#0f9d77", "#c2468f", "#7a5be0", "#d9482b", "#2a9fc4", "#9c6b3f", "#8a9a1f"]
TABLE = alt.NamedData("table")
WIDTH = 640  # pixels of a saved figure; on the page a figure takes the width of its place
ROOM = alt.param(name="room", value=26)  # characters of a layer's name beside an axis; the page lowers it on a phone
PANEL = 230  # pixels of one panel of several, in a saved figure


@dataclass(frozen=True)
class Figure:
    """One figure: a chart over the small table `data`, how to read it, what it rests on, and its text alternative.

    `panels` is the least width of one panel where there are several: a narrow screen gets fewer columns.
    """

    name: str
    section: str
    title: str
    reading: str
    basis: str
    alt: str
    chart: Any
    data: pd.DataFrame
    panels: int = 0

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification without its data and its look."""
        spec: dict[str, Any] = self.chart.to_dict()
        spec.pop("config", None)
        return spec

    def chosen(self) -> dict[str, str]:
        """What the menus of the figure stand at to begin with, which is all that a saved figure shows."""
        menus = [p for p in self.spec().get("params", []) if p.get("bind", {}).get("input") == "select"]
        return {menu["name"]: menu["value"] for menu in menus}


def arm_colour(study: Study, data: pd.DataFrame, legend: bool = False) -> alt.Color:
    """The colour of an arm: the same in every figure."""
    return colour_of(study.arms_in(data), study.arms, legend)


def colour_of(arms: list[str], every: list[str], legend: bool = False) -> alt.Color:
    """The colours of `arms`, each that of its place among `every` arm of the page."""
    colours = [PALETTE[every.index(arm) % len(PALETTE)] for arm in arms]
    keys = alt.Legend(orient="top", symbolOpacity=1, symbolType="circle") if legend and len(arms) > 1 else None
    return alt.Color("arm:N", scale=alt.Scale(domain=arms, range=colours), title=None, legend=keys)


def step_axis(steps: pd.Series) -> alt.X:
    """Optimizer steps from left to right; a schedule that is dense at first gets a square-root scale."""
    values = np.sort(steps.unique())
    dense = len(values) > 3 and np.median(values) < 0.3 * values[-1]
    scale = alt.Scale(type="sqrt" if dense else "linear", nice=False, padding=6)
    axis = alt.Axis(format="~s", tickCount=5, labelFlush=True)
    return alt.X(f"{steps.name}:Q", title="optimizer step", scale=scale, axis=axis)


def layer_axis(layers: list[str]) -> alt.Y:
    """Layers from the input down; with many of them only some are named, and of a long name its end is shown.

    The chart needs the parameter `ROOM`.
    """
    ending = f"length(datum.label) > {ROOM.name} ? '…' + slice(datum.label, 1 - {ROOM.name}) : datum.label"
    axis = alt.Axis(labelOverlap="greedy", labelSeparation=2, labelExpr=ending)
    return alt.Y("layer:N", sort=layers, title=None, axis=axis)


def layer_step(layers: list[str], largest: int) -> alt.Step:
    """Pixels of one layer's row, so that many layers still fit a screen."""
    return alt.Step(max(3, min(largest, 600 // len(layers))))


def menu(name: str, options: list[str]) -> alt.Parameter:
    """A menu that chooses one of `options`; a constant where there is no choice. Filter by ``datum.NAME == NAME``."""
    bind = alt.binding_select(options=options, name=name.capitalize()) if len(options) > 1 else alt.Undefined
    return alt.param(name=name, value=options[0], bind=bind)


def tips(*texts: str, form: str = ".3~g", **numbers: str) -> list[alt.Tooltip]:
    """What a reader sees who points at a mark: columns of text, then numbers as ``column="its name"``."""
    shown = [alt.Tooltip(f"{name}:N") for name in texts]
    return shown + [alt.Tooltip(f"{name}:Q", title=title, format=form) for name, title in numbers.items()]


def null_line(base: Any, value: float) -> Any:
    """The dashed line at `value`, where there is no difference, through the whole chart that `base` is a layer of."""
    once = alt.Chart(base.data).transform_aggregate(rows="count()")  # not for each row of the data
    return once.mark_rule(size=1.5, strokeDash=[4, 3]).encode(x=alt.datum(value), color=alt.value("#888"))


def paired(base: Any, data: pd.DataFrame, *texts: str, ticks: int) -> list[Any]:
    """The layers of paired differences: no difference, the interval where there is one, the mean, and every seed.

    `data` has the difference as `points`, of a seed or, where `what` says so, of their mean, with `low` and `high`.
    """
    mean_only, seeds_only = (base.transform_filter(f"datum.what {sign} 'mean'") for sign in ("==", "!="))
    x = alt.X("points:Q", title="accuracy difference in points of %", axis=alt.Axis(tickCount=ticks))
    tip = tips(*texts, form="+.2f", points="points", low="from", high="to")
    bars = mean_only.mark_rule(size=5, opacity=0.45).encode(x=alt.X("low:Q"), x2="high:Q", tooltip=tip)
    return [
        null_line(base, 0),
        *([bars] if data["low"].notna().any() else []),
        mean_only.mark_tick(thickness=3, size=22).encode(x=x, tooltip=tip),
        seeds_only.mark_circle(size=45, opacity=0.9).encode(x=x, tooltip=tip[:-2]),
    ]


def dots(size: int) -> alt.OverlayMarkDef:
    """The points on a line."""
    return alt.OverlayMarkDef(size=size, filled=True)
