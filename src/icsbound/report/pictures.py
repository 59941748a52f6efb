"""Pictures of one layer on a plane: its outputs as ridges over steps, and the transport between two steps."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

from icsbound.records import TransportRecord
from icsbound.report.figure import TABLE, WIDTH, Figure, menu, tips
from icsbound.report.runs import Study
from icsbound.report.statistics import evenly
from icsbound.report.wording import count, number, percent

PAIRS = 24  # pairs of steps that can be chosen
RUNS = 8  # runs that can be chosen
RIDGES = 14  # steps drawn one above the other
GRID = 90  # places along a ridge
COLOURS = ["#2f6fde", "#d9482b"]  # from the first step to the last, seen on white and on black


def transports(study: Study) -> list[TransportRecord]:
    """The recorded transports that are drawn, in the order of their steps: of an arm those of its first seed alone."""
    first: dict[str, list[TransportRecord]] = {}
    for run in sorted(study.runs, key=lambda run: (study.arms.index(run.arm), run.seed)):
        found = [r for r in run.records if isinstance(r, TransportRecord)]
        if found:
            first.setdefault(run.arm, found)
    return sorted(
        (r for found in evenly(list(first.values()), RUNS) for r in found), key=lambda r: (r.step_a, r.step_b)
    )


def _where(records: list[TransportRecord]) -> str:
    """Which layer is drawn, of how many inputs, and how much of it the plane holds."""
    first, shares = records[0], sorted(r.share for r in records)
    share = percent(shares[0]) + (f" to {percent(shares[-1])}" if shares[-1] > shares[0] else "")
    runs = len({r.run for r in records})
    several = f" Of {count(runs, 'run')}, each on a plane of its own." if runs > 1 else ""
    return (
        f"{first.layer}, {first.view} view: {count(first.n, 'input')}, d = {first.d:,}; the plane holds {share} of the "
        f"variance at the first state.{several}"
    )


def _step(study: Study) -> str:
    """What the numbers of states count: those of two networks, or of one on several data sets, count no training."""
    networks, data = study.config.get("checkpoints"), study.config.get("data_b")
    return "state" if data or (isinstance(networks, list) and len(networks) > 1) else "optimizer step"


def ridge(study: Study) -> Figure | None:
    """The outputs along the direction of largest variance, a density a step, one above the other."""
    records = transports(study)
    if not records:
        return None
    parts, runs = [], list(dict.fromkeys(r.run for r in records))
    for run in runs:
        states: dict[int, list[float]] = {}
        for r in records:
            if r.run == run:
                states.setdefault(r.step_a, r.x_a)
                states.setdefault(r.step_b, r.x_b)
        parts.append(_ridges(states, evenly(sorted(states), RIDGES)).assign(run=run))
    data = pd.concat(parts, ignore_index=True)
    # Every ridge has the step's number to its left, at its foot.
    x = alt.X("x:Q", title="along the direction of largest variance", scale=alt.Scale(nice=False, padding=4))
    step = _step(study)
    # Places on this axis are no steps: who hears the figure is told the step of a ridge instead.
    axis = alt.Axis(labels=False, ticks=False, grid=False, aria=False)
    y, heard = alt.Y("foot:Q", title=step, axis=axis), alt.Description("heard:N")
    colour = alt.Color("foot:Q", scale=alt.Scale(range=COLOURS[::-1]), legend=None)
    base = alt.Chart(TABLE).transform_filter("datum.run == run").transform_calculate(heard=f"'{step} ' + datum.step")
    areas = base.mark_area(opacity=0.75, line={"strokeWidth": 1.2}).encode(
        x=x, y=y, y2="top:Q", color=colour, detail="foot:O", description=heard, tooltip=tips(step=step, x="place")
    )
    names = (
        base.transform_filter("isValid(datum.name)")
        .mark_text(align="left", baseline="bottom", dx=3, dy=-2, fontSize=11, opacity=0.85)
        .encode(x=alt.value(0), y=y, text="name:N", color=colour, description=heard)
    )
    levels = int(data.groupby("run")["foot"].nunique().max())
    chart = alt.layer(areas, names).properties(width=WIDTH, height=60 + 30 * levels).add_params(menu("run", runs))
    return Figure(
        name="picture-ridge",
        section="shift",
        title="The outputs of one layer, step by step",
        reading="Each ridge is the density of the layer's outputs along one direction, the one in which they varied "
        "most at the first state. A ridge that moves sideways is a shift of the mean; one that widens or splits is "
        "more.",
        basis=_where(records),
        alt=f"Densities of the outputs of {records[0].layer} at {count(levels, 'state')}, from "
        f"{number(data['x'].min())} to {number(data['x'].max())}.",
        chart=chart,
        data=data,
    )


def _ridges(states: dict[int, list[float]], steps: list[int]) -> pd.DataFrame:
    """Densities on one grid, the first step at the top, each as high as 1.6 distances of neighbours at most."""
    values = np.concatenate([states[step] for step in steps])
    low, high = float(values.min()), float(values.max())
    margin = 0.08 * (high - low) or 1.0
    grid = np.linspace(low - margin, high + margin, GRID)
    densities = [_density(np.asarray(states[step]), grid) for step in steps]
    highest = max(float(d.max()) for d in densities)
    parts = []
    for k, (step, density) in enumerate(zip(steps, densities, strict=True)):
        foot = len(steps) - 1 - k
        names = [str(step)] + [None] * (GRID - 1)
        top = foot + 1.6 * density / highest
        parts.append(pd.DataFrame({"step": step, "foot": foot, "top": top, "x": grid, "name": names}))
    return pd.concat(parts, ignore_index=True)


def _density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A Gaussian kernel estimate; a single peak where all values agree."""
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        width = (grid[1] - grid[0]) or 1.0
        return np.asarray(stats.norm.pdf(grid, values.mean(), width))
    return np.asarray(stats.gaussian_kde(values)(grid))


def arrows(study: Study) -> Figure | None:
    """Where the best transport on the plane moves each output, between two steps to choose."""
    records = transports(study)
    if not records:
        return None
    runs = list(dict.fromkeys(r.run for r in records))
    shown = [r for run in runs for r in evenly([r for r in records if r.run == run], max(1, PAIRS // len(runs)))]
    parts = []
    for r in shown:
        name = f"{r.step_a} to {r.step_b}" if len(runs) == 1 else f"{r.run}: {r.step_a} to {r.step_b}"
        parts.append(pd.DataFrame({"steps": name, "x": r.x_a, "y": r.y_a, "x2": r.x_b, "y2": r.y_b}))
    data = pd.concat(parts, ignore_index=True)
    data["length"] = np.hypot(data["x2"] - data["x"], data["y2"] - data["y"])
    names = list(dict.fromkeys(data["steps"]))
    plain = alt.Scale(nice=False, padding=12, zero=False)
    x = alt.X("x:Q", title="direction of largest variance", scale=plain)
    y = alt.Y("y:Q", title="second direction", scale=plain)
    base = alt.Chart(TABLE).transform_filter("datum.steps == steps")
    tip = tips("steps", length="moved by")
    moves = base.mark_rule(strokeWidth=1.1, opacity=0.6).encode(
        x=x, y=y, x2="x2:Q", y2="y2:Q", color=alt.value(COLOURS[0]), tooltip=tip
    )
    begins = base.mark_point(size=20, strokeWidth=1.2, opacity=0.8).encode(x=x, y=y, color=alt.value("#7c8594"))
    ends = base.mark_point(size=26, filled=True, opacity=0.95).encode(
        x=alt.X("x2:Q"), y=alt.Y("y2:Q"), color=alt.value(COLOURS[0]), tooltip=tip
    )
    chart = alt.layer(moves, begins, ends).properties(width=WIDTH, height=420).add_params(menu("steps", names))
    first = shown[0]  # which is drawn until another is chosen
    more = "" if len(shown) == len(records) else f" {len(shown)} of {len(records):,} pairs of steps."
    return Figure(
        name="picture-transport",
        section="shift",
        title="How the best transport moves the outputs of one layer",
        reading="Hollow: where an output lay at the first of both steps; filled: where the exact transport on this "
        "plane takes it. Long parallel lines are a shift of the mean, lines out of a centre a change of scale.",
        basis=f"{_where(records)} W1 on the plane, steps {names[0]}: {number(first.value)}.{more}",
        alt=f"Transport of {count(first.n, 'output')} of {first.layer} on a plane, steps {names[0]}: mean length "
        f"{number(first.value)}.",
        chart=chart,
        data=data,
    )
