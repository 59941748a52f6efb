"""The end of a run in the terminal: one row an arm, as on the page, or the same as plain values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from icsbound.report import statistics as st
from icsbound.report.runs import load
from icsbound.report.wording import percent, points, times


def rows(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """For each arm with a finished run its accuracy, and its paired differences to the control, in units of records."""
    study = load(Path(folder))
    main = study.finished(st.main_part(study.distances))
    found = []
    for arm in study.arms:
        accuracy, control = st.accuracy(study, arm), study.control(arm)
        if not len(accuracy):
            continue
        row: dict[str, Any] = {
            "arm": arm,
            "seeds": len(accuracy),
            "accuracy": float(accuracy.mean()),
            "control": control,
        }
        if control is not None:
            row["difference"] = _plain(st.accuracy_difference(study, arm, control))
            row["ics_ratio"] = {
                view: _plain(st.ratio(st.log_ratios(study, arm, control, view))) for view in st.views(main)
            }
        found.append(row)
    return found


def lines(folder: str | os.PathLike[str]) -> list[str]:
    """The rows as a table: differences in percentage points, ratios of scale-free ICS, 95 % intervals over seeds."""
    found = rows(folder)
    views = list(dict.fromkeys(view for row in found for view in row.get("ics_ratio", {})))
    table = [["arm", "seeds", "accuracy", "against", "difference", *(f"ICS, {view} view" for view in views)]]
    for row in found:
        cells = [row["arm"], str(row["seeds"]), percent(row["accuracy"], 2), row["control"] or ""]
        cells.append(points(_interval(row["difference"])) if row["control"] else "")
        cells += [times(_interval(row["ics_ratio"][view])) if row["control"] else "" for view in views]
        table.append(cells)
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table]


def _plain(interval: st.Interval) -> dict[str, Any]:
    known = interval.known
    return {
        "mean": interval.mean if interval.count else None,
        "low": interval.low if known else None,
        "high": interval.high if known else None,
        "seeds": interval.count,
    }


def _interval(plain: dict[str, Any]) -> st.Interval:
    mean, low, high = (float("nan") if plain[key] is None else plain[key] for key in ("mean", "low", "high"))
    return st.Interval(mean, low, high, plain["seeds"])
