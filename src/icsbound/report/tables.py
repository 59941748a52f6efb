"""The tables of the page: results by arm, every run, every layer. Cells hold numbers; the page formats, sorts and saves them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from icsbound.report import statistics as st
from icsbound.report.runs import Study


@dataclass(frozen=True)
class Table:
    """Column headings and rows; a cell is text, a number, or None where there is none."""

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[Any]]
    folded: bool = False  # shown only when asked for


def all_tables(study: Study) -> list[Table]:
    """Every table that the records allow."""
    return [table for table in (arms(study), runs(study), layers(study)) if table.rows]


def arms(study: Study) -> Table:
    """One row an arm: accuracy, and the paired differences to its control."""
    views = st.views(st.main_part(study.distances))
    columns = ["arm", "control", "finished runs", "accuracy %", "lowest", "highest", "difference", "from", "to", "verdict"]
    for view in views:
        columns += [f"ICS ratio, {view}", "from", "to", "verdict"]
    rows: list[list[Any]] = []
    for arm in study.arms:
        accuracy, control = st.accuracy(study, arm), study.control(arm)
        row: list[Any] = [arm, control, len(accuracy)]
        row += [100 * v for v in (accuracy.mean(), accuracy.min(), accuracy.max())] if len(accuracy) else [None] * 3
        row += _interval(st.accuracy_difference(study, arm, control) if control else None, factor=100.0)
        for view in views:
            row += _interval(st.ratio(st.log_ratios(study, arm, control, view)) if control else None, null=1.0)
        rows.append(row)
    note = (
        "Differences in percentage points, ratios of scale-free ICS, both against the control and paired by seed; from and to "
        "are the ends of the 95 % Student interval."
    )
    return Table("results", "Results by arm", note, columns, rows if any(r.info for r in study.runs) else [])


def _interval(found: st.Interval | None, factor: float = 1.0, null: float = 0.0) -> list[Any]:
    """Mean, ends and verdict of an interval as four cells."""
    if found is None or not found.count:
        return [None] * 4
    return [factor * found.mean, factor * found.low, factor * found.high, found.verdict(null)]


def runs(study: Study) -> Table:
    """One row a run."""
    columns = ["run", "arm", "seed", "state", "step", "accuracy %", "loss", "distances", "seconds", "peak MiB", "records"]
    rows: list[list[Any]] = []
    counts = study.distances.groupby(["arm", "seed"]).size()
    for run in study.runs:
        end = run.result
        state = "measured" if run.info is None else "finished" if end else "interrupted"
        row: list[Any] = [run.name, run.arm, run.seed, state, run.reached]
        row += [100 * end.accuracy, end.loss] if end else [None] * 2
        row.append(int(counts.get((run.arm, run.seed), 0)))
        row += [end.seconds, end.peak_memory / 2**20] if end else [None] * 2
        rows.append([*row, run.path])
    rows += [[name, None, None, "missing", *[None] * 7] for name in study.missing]
    return Table("runs", "Every run", "Seconds and memory are those of the machine named below.", columns, rows, folded=True)


def layers(study: Study) -> Table:
    """One row an arm and layer: means over captures and seeds."""
    main = st.main_part(study.distances)
    views = st.views(main)
    columns = ["arm", "layer"]
    for view in views:
        columns += [f"{name}, {view}" for name in ("d", "EM", "paired", "independent", "lower bound", "scale-free ICS")]
    columns += ["alpha at the end", "R at the end"]
    main = main.assign(cheap=main[["mean_shift", "norms"]].max(axis=1))
    names = ["d", "value", "paired", "independent", "cheap", "scale_free"]
    means = main.groupby(["arm", "layer", "view"])[names].mean()
    last = study.layers.groupby(["arm", "seed", "layer"])[["alpha_mean", "bound"]].last()
    ends = last.groupby(["arm", "layer"]).mean() if len(last) else last
    rows: list[list[Any]] = []
    for arm in study.arms:
        for layer in study.layer_names:
            row: list[Any] = [arm, layer]
            for view in views:
                row += list(means.loc[(arm, layer, view)]) if (arm, layer, view) in means.index else [None] * len(names)
            row += list(ends.loc[(arm, layer)]) if (arm, layer) in ends.index else [None] * 2
            if any(isinstance(cell, float) and not math.isnan(cell) for cell in row):
                rows.append([_whole(cell) for cell in row])
    note = "Means over captures and seeds. EM and bounds in units of the layer's output, scale-free ICS in units of its spread."
    return Table("layers", "Every layer", note, columns, rows, folded=True)


def _whole(cell: Any) -> Any:
    """A float that counts something as an int, so that it is written as one."""
    return int(cell) if isinstance(cell, float | np.floating) and math.isfinite(cell) and cell == int(cell) else cell
