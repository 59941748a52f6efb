"""The monitor benchmark: both trainings end with the same weights, and the share of time is judged."""

import json
from pathlib import Path

import monitor as bench
import pytest

SMALL = "--model resnet8:width=2 --batch-size 8 --steps 4 --turn 2 --probe 16 --every 2"


@pytest.mark.parametrize(("goal", "said"), [(1e9, "met"), (-1e9, "MISSED")])
def test_a_short_training_with_and_without(
    goal: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "GOAL", goal)
    found = bench.main([*SMALL.split(), "--json", str(tmp_path / "found.json")])
    assert found["same weights"]
    assert found["measured at"] == [0, 2, 4]
    assert found["more, %"] == pytest.approx(100 * (found["seconds with"] / found["seconds without"] - 1))
    assert f"at most {goal:g} % more: {said}\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text()) == found
