"""Verdicts on a page hold over all of its distances, however they were judged before."""

from pathlib import Path

import pytest
import torch
from torch import nn

from icsbound import records
from icsbound.measure.entries import judged
from icsbound.measure.monitor import ICSMonitor
from icsbound.records import Record, VerdictRecord
from icsbound.report import verdicts
from icsbound.report.runs import load


class Drawn(nn.Module):
    """Three layers whose outputs are drawn anew at every step, every second step half a spread away."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.layers = nn.ModuleList(nn.Identity() for _ in range(3))

    def forward(self, x: torch.Tensor) -> None:
        g = torch.Generator().manual_seed(self.step)
        for layer in self.layers:
            layer(torch.randn(len(x), 1, generator=g) + self.step % 2 / 2)


def monitored(smallest: float = 0.0) -> list[Record]:
    """Six steps, some of whose verdicts hold among three and not among eighteen."""
    model, found = Drawn(), list[Record]()
    monitor = ICSMonitor(
        model, torch.zeros(60, 1), layers=nn.Identity, every=1, views="sample", verdicts=True, smallest=smallest
    )
    for model.step in range(7):
        found += monitor.step(model.step)
    return found


def saved(folder: Path, lines: list[Record]) -> Path:
    folder.mkdir()
    with records.Writer(folder / "records.jsonl") as writer:
        for line in lines:
            writer.write(line)
    return folder


@pytest.mark.parametrize("smallest", [0.0, 0.1])
def test_what_a_monitor_judged_by_steps_is_judged_together(tmp_path: Path, smallest: float) -> None:
    lines = monitored(smallest)
    live = [line for line in lines if isinstance(line, VerdictRecord)]
    right = judged(lines, smallest=smallest)
    assert [line.verdict for line in live] != [line.verdict for line in right]
    rows = verdicts.rows(saved(tmp_path / "live", lines))
    said = [(row["layer"], row["step_b"], row["verdict"], row["p"], row["among"]) for row in rows]
    assert said == [(r.layer, r.step_b, r.verdict, r.p, r.among) for r in right]
    assert {row["among"] for row in rows} == {18}
    assert sum(layer.moved for layer in verdicts.by_layer(verdicts.frame(load(tmp_path / "live")))) == sum(
        line.verdict == "moved" for line in right
    )


def test_what_was_judged_together_stays_as_it_is(tmp_path: Path) -> None:
    lines = monitored()
    kept = [line for line in lines if not isinstance(line, VerdictRecord)]
    rows = verdicts.rows(saved(tmp_path / "together", [*kept, *judged(lines, rate=0.2)]))
    assert [(row["verdict"], row["p"], row["rate"]) for row in rows] == [
        (line.verdict, line.p, 0.2) for line in judged(lines, rate=0.2)
    ]


def test_a_distance_without_a_verdict_stays_without_one(tmp_path: Path) -> None:
    """A monitor that was killed between the last distances of a step and their verdicts."""
    lines = monitored()
    cut = max(i for i, line in enumerate(lines) if isinstance(line, VerdictRecord)) - 2
    rows = verdicts.rows(saved(tmp_path / "killed", lines[:cut]))
    assert [row["verdict"] is None for row in rows] == [False] * 15 + [True] * 3
    assert {row["among"] for row in rows[:15]} == {15}
    assert rows[-1]["p"] is None
