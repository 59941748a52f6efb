"""The tables of the page: accuracy and shift by arm, every run, every layer. The page formats and sorts their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from icsbound.report import statistics as st
from icsbound.report import verdicts as judged
from icsbound.report.runs import Study
from icsbound.report.wording import measure, split

CELLS = 30_000  # of all tables of one page, so that it stays small whatever was recorded
SHIFTS = (
    "Ratio: geometric mean of scale-free ICS over the control's, paired by seed, layer and steps; from and to end the "
    "95 % Student interval over seeds; early and late: first and last third of the captures."
)


@dataclass(frozen=True)
class Table:
    """Column headings and rows; a cell is text, a number, or None where there is none.

    The first `kept` rows are shown whatever there is room for.
    """

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[Any]]
    folded: bool = False  # shown only when asked for
    kept: int = 0


def all_tables(study: Study) -> list[Table]:
    """Every table that the records allow."""
    return fitting([arms(study), shifts(study), verdicts(study), runs(study), layers(study)], "records.jsonl")


def fitting(tables: Sequence[Table], file: str) -> list[Table]:
    """Those of `tables` that have rows, with `CELLS` cells in all at most: what short ones leave, long ones may take.

    One that is cut shows rows evenly spread, and its note says so, and in which file the others are.
    """
    found = [table for table in tables if table.rows]
    shown, left = {}, CELLS
    for k, table in enumerate(sorted(found, key=lambda table: len(table.rows) * len(table.columns))):
        shown[table.name] = bounded(table, left // (len(found) - k) // len(table.columns), file)
        left -= len(shown[table.name].rows) * len(table.columns)
    return [shown[table.name] for table in found]


def bounded(table: Table, most: int, file: str) -> Table:
    """`table` with at most `most` rows."""
    if len(table.rows) <= most:
        return table
    kept, others = table.rows[: min(table.kept, most)], table.rows[table.kept :]
    rows = kept + st.evenly(others, most - len(kept))
    first = f"the first {len(kept):,} and then " if kept else ""
    note = f"{table.note} {len(rows):,} of {len(table.rows):,} rows, {first}evenly spread: {file} has what all rest on."
    return replace(table, note=note, rows=rows)


def arms(study: Study) -> Table:
    """One row an arm: accuracy, and its paired difference to the control."""
    columns = [
        "arm",
        "finished runs",
        "accuracy %",
        "lowest",
        "highest",
        "control",
        "difference",
        "from",
        "to",
        "verdict",
    ]
    rows: list[list[Any]] = []
    for arm in study.arms:
        accuracy, control = st.accuracy(study, arm), study.control(arm)
        row: list[Any] = [arm, len(accuracy)]
        row += [100 * v for v in (accuracy.mean(), accuracy.min(), accuracy.max())] if len(accuracy) else [None] * 3
        rows.append(
            [*row, control, *_interval(st.accuracy_difference(study, arm, control) if control else None, 100.0)]
        )
    note = (
        f"On the {split(study)}. Differences to the control in percentage points, paired by seed; from and to end the "
        "95 % Student interval."
    )
    return Table("results", "Accuracy by arm", note, columns, rows if any(r.info for r in study.runs) else [])


def shifts(study: Study) -> Table:
    """One row an arm and view: scale-free ICS, and its ratio to the control's."""
    columns = [
        "arm",
        "view",
        "scale-free ICS",
        "control",
        "ratio",
        "from",
        "to",
        "verdict",
        "early",
        "late",
        "layers lower",
    ]
    columns += ["layers higher", "of"]
    main = study.finished(st.main_part(study.distances))
    means = main.groupby(["arm", "view"])["scale_free"].mean()
    rows: list[list[Any]] = []
    for arm, view in ((arm, view) for view in st.views(main) for arm in study.arms if (arm, view) in means.index):
        control = study.control(arm)
        ratios = st.log_ratios(study, arm, control, view) if control else None
        row: list[Any] = [arm, view, means[arm, view], control]
        if ratios is None or ratios.empty:
            rows.append(row + [None] * 9)
            continue
        verdicts = list(st.ratio_by_layer(study, ratios)["verdict"])
        row += _interval(st.ratio(ratios), null=1.0) + [part.mean for part in st.early_and_late(ratios)]
        rows.append([*row, verdicts.count("lower"), verdicts.count("higher"), len(verdicts)])
    return Table("shift", "Shift by arm and view", f"{SHIFTS} {measure(main)}", columns, rows)


def _interval(found: st.Interval | None, factor: float = 1.0, null: float = 0.0) -> list[Any]:
    """Mean, ends and verdict of an interval as four cells."""
    if found is None or not found.count:
        return [None] * 4
    return [factor * found.mean, factor * found.low, factor * found.high, found.verdict(null)]


def verdicts(study: Study) -> Table:
    """One row a layer and view that was measured with verdicts, over all pairs of steps."""
    columns = ["run", "layer", "view", "pairs", *judged.VERDICTS, "largest EM", "in spreads", "floor there"]
    columns += ["W1 at least", "least p"]
    table = judged.frame(study)
    rows = [[*list(vars(row).values())[:-1], judged.probability(row.p)] for row in judged.by_layer(table)]
    note = (
        "Floor: EM between two disjoint halves of the first cloud, which sampling alone gives. W1 at least: the lower "
        "bound, fitted on other inputs, that stands furthest above its error. p: adjusted for all distances judged "
        f"together. {measure(table)}"
    )
    return Table("verdicts", "Verdicts by layer", note, columns, [[_whole(cell) for cell in row] for row in rows])


def runs(study: Study) -> Table:
    """One row a run."""
    columns = [
        "run",
        "arm",
        "seed",
        "state",
        "step",
        "accuracy %",
        "loss",
        "distances",
        "seconds",
        "peak MiB",
        "records",
    ]
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
    return Table(
        "runs", "Every run", "Seconds and memory are those of the machine named below.", columns, rows, folded=True
    )


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
    note = (
        "Means over captures and seeds. EM and bounds in units of the layer's output, scale-free ICS in units of "
        f"its spread. {measure(main)}"
    )
    return Table("layers", "Every layer", note, columns, rows, folded=True)


def _whole(cell: Any) -> Any:
    """A float that counts something as an int, so that it is written as one."""
    return int(cell) if isinstance(cell, float | np.floating) and math.isfinite(cell) and cell == int(cell) else cell
