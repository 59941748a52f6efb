"""The calibration by simulation: what is promised holds in a small one, and a procedure that breaks it is seen."""

import json
from pathlib import Path

import inference
import pytest
import torch

from icsbound.measure.emd import emd
from icsbound.measure.floor import Estimate, HeldOut

SMALL = ["--n", "24", "--d", "2"]


def test_what_is_promised_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inference.main(["--trials", "40", "--digits", *SMALL, "--json", str(tmp_path / "lines.json")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("level 0.05; trials with the seeds 0 to 39\n")
    assert said.endswith("24 lines, 0 broken\n")
    lines = json.loads((tmp_path / "lines.json").read_text())["lines"]
    assert {line["claim"] for line in lines} == {
        "false alarm",
        "bound above W1",
        "shown above W1",
        "moved too far",
        "discoveries",
        "step alarm",
        "E[EM_n] missed",
    }
    assert all(0 <= line["share"] <= line["high"] for line in lines)
    missed = next(line for line in lines if line["claim"] == "E[EM_n] missed")
    assert missed["share"] < 0.25
    assert missed["promised"] is None
    assert "\nE[EM_n]: 0.05 is what its interval tends to as n grows; shown, and promised at no n\n" in said


def test_a_bound_that_is_not_held_out_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The optimal potential on the inputs it was fitted on: its mean is EM_n, which exceeds W1."""

    def fitted(a: torch.Tensor, b: torch.Tensor) -> HeldOut:
        result = emd(a, b)
        terms = result.u + result.v
        estimate = Estimate(float(terms.mean()), float(terms.std()) / len(a) ** 0.5)
        return HeldOut(estimate, estimate, estimate)

    monkeypatch.setattr(inference, "held_out", fitted)
    assert inference.main(["--trials", "30", *SMALL]) == 1
    said = capsys.readouterr().out
    broken = {line.split("  ")[0] for line in said.splitlines() if line.endswith("BROKEN")}
    assert broken == {"false alarm", "bound above W1", "shown above W1", "moved too far"}


def test_the_seed_fixes_the_trials(capsys: pytest.CaptureFixture[str]) -> None:
    def said(seed: str) -> str:
        inference.main(["--trials", "20", "--seed", seed, "--n", "12", "--d", "1"])
        return capsys.readouterr().out

    assert said("3") == said("3") != said("4")
