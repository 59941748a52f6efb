"""The tables of the page: every contrast, every case of every arm, every line."""

from __future__ import annotations

from typing import Any

import pandas as pd

from icsbound.report import statistics as st
from icsbound.report import tables as of_runs
from icsbound.report.results.contrasts import Contrast
from icsbound.report.results.groups import REST, case_name
from icsbound.report.results.table import Table as Results
from icsbound.report.tables import Table
from icsbound.report.wording import measure

_CONTRAST = ["experiment", "case", "arm", "control", "seeds", "accuracy %", "control %", "difference", "from", "to"]
_CONTRAST += ["resampled from", "to ", "p", "Holm p", "verdict"]


def all_tables(table: Results) -> list[Table]:
    """Every table that the lines allow."""
    note = (
        "Differences in percentage points, paired by seed; from and to end the 95 % Student interval, resampled ones "
        "the bootstrap's; Holm p is adjusted over the contrasts of one setting."
    )
    found = [
        Table("contrasts", "Arms against their controls", note, _CONTRAST, _contrasts(table, table.headline)),
        arms(table),
        shifts(table),
    ]
    if len(table.cells) > len(table.headline):
        every = note + " Here every case stands for itself, and the adjustment is over all of them."
        rows = _contrasts(table, table.cells)
        found.append(Table("cases", "Every case against its control", every, _CONTRAST, rows, folded=True))
    return of_runs.fitting([*found, lines(table)], "results.jsonl")


def _contrasts(table: Results, found: list[Contrast]) -> list[list[Any]]:
    titles = {group.where: group.title for group in table.groups}
    rows: list[list[Any]] = []
    for c in found:
        own, other = (100 * sum(values) / len(values) for values in (c.accuracies, c.controls))
        known = c.interval.known
        ends = [100 * end if known else None for end in (c.interval.low, c.interval.high, *c.boot)]
        row: list[Any] = [titles[c.group], case_name(c.case), c.arm, c.control, len(c.seeds), own, other]
        row += [100 * c.interval.mean, *ends, *([c.p, c.adjusted] if known else [None] * 2), c.verdict]
        rows.append(row)
    return rows


def arms(table: Results) -> Table:
    """One row an experiment, case and arm."""
    rows: list[list[Any]] = []
    for number, group in enumerate(table.groups):
        own = table.means[table.means["group"] == number]
        for case, part in own.groupby("case", sort=False):
            for arm in table.arms_in(part):
                values: pd.Series[float] = part.loc[part["arm"] == arm, "accuracy"]
                spread = float(values.std(ddof=1)) if len(values) > 1 else None
                rows.append(
                    [group.title, case, arm, len(values), float(values.mean()), spread, values.min(), values.max()]
                )
    columns = ["experiment", "case", "arm", "seeds", "accuracy %", "std over seeds", "lowest", "highest"]
    note = "Standard deviation with n − 1. Where a case is a mean, every run was averaged over its cases first."
    return Table("accuracy", "Accuracy by arm", note, columns, rows)


def shifts(table: Results) -> Table:
    """One row an experiment, arm and view: the shift of the layers in monitored runs, and the accuracy beside it."""
    rows: list[list[Any]] = []
    columns, note = list[str](), f"{of_runs.SHIFTS} Accuracy: of all runs as trained, monitored or not."
    for group in table.groups:
        if study := table.studies.get(group.where):
            part, own = of_runs.shifts(study), table.of(table.accuracy, group)
            reached = own[own["case"] == REST].groupby("arm")["accuracy"].mean()
            rows += [[group.title, row[0], reached.get(row[0]), *row[1:]] for row in part.rows]
            columns = ["experiment", "arm", "accuracy %", *part.columns[1:]]
            note += f" {group.title}: {measure(st.main_part(study.distances))}" if part.rows else ""
    return Table("shift", "Shift beside accuracy", note, columns, rows)


def lines(table: Results) -> Table:
    """One row a line of the file."""
    columns = ["experiment", "arm", "seed", "case", "accuracy %", "seconds", "device", "torch"]
    titles = [group.title for group in table.groups]
    rows: list[list[Any]] = []
    for row, line in zip(table.accuracy.itertuples(), table.lines, strict=True):
        where = [titles[row.group], row.arm, row.seed, row.case, row.accuracy]
        rows.append([*where, line.seconds, line.device, line.versions.get("torch")])
    note = "As results.jsonl has them; seconds are those of the machine that ran."
    return Table("lines", "Every run and evaluation", note, columns, rows, folded=True)
