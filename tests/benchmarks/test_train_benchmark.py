"""The benchmark of training steps takes the steps of the training itself, so it has to follow its signatures."""

import json
import sys
from pathlib import Path

import pytest
import train


def test_arms_are_timed_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "train.json"
    words = "train.py --model resnet8:width=2 --device cpu"
    words += f" --arms bn unitized --rounds 2 --steps 1 --json {out}"
    monkeypatch.setattr(sys, "argv", words.split())
    train.main()
    found = json.loads(out.read_text())["arms"]
    assert list(found) == ["bn", "unitized"]
    assert found["bn"]["ratio"]["median"] == 1.0
    for row in found.values():
        assert row["images/s"]["median"] > 0
        assert row["monitor records a capture"] > 0
        assert 0 < row["pipeline %"]["median"] < 100
        assert row["checkpoint seconds"] > 0
    assert "images/s" in capsys.readouterr().out
