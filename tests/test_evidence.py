"""What estimates with errors say, and that the line of a measurement and its table show the same bound."""

import dataclasses
from pathlib import Path

import pytest
import torch

from icsbound import records
from icsbound._evidence import Estimate, HeldOut, adjusted, answer, farthest
from icsbound.measure.cheap import cheap_bracket
from icsbound.measure.entries import Place, distance_record, shift_record
from icsbound.measure.floor import shift_report
from icsbound.report import verdicts


def test_the_best_bound_is_farthest_above_0_in_its_errors_beyond_all_tails() -> None:
    """At 40 errors and more every tail is 0 to a float: the sharper bound counts, and not the larger."""
    near, sharp, below = Estimate(4.0, 0.1), Estimate(1.0, 0.01), Estimate(-9.0, 0.001)
    assert near.tail() == sharp.tail() == 0.0
    assert HeldOut(near, sharp, below).best is sharp
    assert HeldOut(sharp, below, near).best is sharp
    small = Estimate(0.1, 0.05)
    assert HeldOut(small, Estimate(0.3, 0.2), below).best is small  # at a few errors too
    exact = Estimate(1.0, 0.0), Estimate(2.0, 0.0), Estimate(0.0, 0.0)
    assert HeldOut(*exact).best is exact[1]
    values = [[4.0, 1.0, -9.0], [0.0, -1.0, -2.0], [-1.0, -2.0, -3.0]]
    errors = [[0.1, 0.01, 0.001], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    assert farthest(values, errors).tolist() == [1, 0, 1]  # many at once


def test_the_line_and_the_table_show_the_same_bound(tmp_path: Path) -> None:
    a = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    held_out = HeldOut(Estimate(4.0, 0.1), Estimate(1.0, 0.01), Estimate(0.0, 0.0))
    shift = dataclasses.replace(shift_report(a, a + 1), held_out=held_out)
    place = Place(run="r", layer="1", side="outputs", view="sample", law="eval", step_a=0, step_b=1)
    with records.Writer(tmp_path / "records.jsonl") as writer:
        writer.write(distance_record(place, 20, 3, cheap_bracket(a, a + 1), shift.em, 0.0))
        writer.write(shift_record(place, shift, 0.0))
    row = verdicts.rows(tmp_path)[0]
    assert (row["bound"], row["bound_error"]) == (1.0, 0.01)
    assert "W1 at least 1 ± 0.01 |" in str(shift)


def test_answers() -> None:
    assert answer(0.05, 0.05, 0.1, 0.2) == "moved"
    assert answer(0.06, 0.05, 0.2, 0.2) == "below the floor"
    assert answer(0.06, 0.05, 0.3, 0.2) == "not resolved"
    assert adjusted([]) == []
    assert adjusted([0.01, 0.5]) == pytest.approx([0.03, 0.75])  # times 2 (1 + 1/2) / rank
