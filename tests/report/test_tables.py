"""What a page's tables show where there is not room for all."""

from __future__ import annotations

from pathlib import Path

import pytest
import recorded

from icsbound.report import tables
from icsbound.report.runs import load
from icsbound.report.tables import Table


def table(name: str, rows: int, columns: int = 2, kept: int = 0) -> Table:
    return Table(name, name, "A note.", ["c"] * columns, [[k] * columns for k in range(rows)], kept=kept)


def test_what_short_tables_leave_long_ones_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CELLS", 100)
    shown = tables.fitting([table("long", 90), table("none", 0), table("short", 5, 4), table("longer", 900)], "x.jsonl")
    assert [one.name for one in shown] == ["long", "short", "longer"]
    assert [len(one.rows) for one in shown] == [20, 5, 20]  # 40 cells each, beside 20
    assert shown[1].note == "A note."
    assert shown[0].note == "A note. 20 of 90 rows, evenly spread: x.jsonl has what all rest on."
    assert [row[0] for row in shown[0].rows][::19] == [0, 89]


def test_the_first_rows_may_be_kept() -> None:
    shown = tables.bounded(table("a", 100, kept=3), 6, "x.jsonl")
    assert [row[0] for row in shown.rows] == [0, 1, 2, 3, 51, 99]
    assert shown.note == "A note. 6 of 100 rows, the first 3 and then evenly spread: x.jsonl has what all rest on."
    assert [row[0] for row in tables.bounded(table("a", 100, kept=50), 6, "x.jsonl").rows] == list(range(6))


def test_the_tables_of_many_layers_and_runs_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts on 200 layers in 4 runs would be a megabyte."""
    monkeypatch.setattr(tables, "CELLS", 1_500)
    layers = [f"stages.{k}.norm" for k in range(20)]
    for seed in range(3):
        lines = recorded.of_run(f"arm{seed}", seed, layers=layers, steps=(0, 1), dataset="elsewhere")
        recorded.save(tmp_path / str(seed), recorded.judged(lines))
    shown = {one.name: one for one in tables.all_tables(load(tmp_path))}
    assert sum(len(one.rows) * len(one.columns) for one in shown.values()) <= tables.CELLS
    assert len(shown["runs"].rows) == 3
    assert "of 120 rows, evenly spread: records.jsonl has what all rest on." in shown["verdicts"].note
