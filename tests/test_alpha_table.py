"""The table of alpha at the end of trainings, from networks whose alpha is known."""

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from icsbound.training import arms, models

ROOT = Path(__file__).parents[1]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["alpha_table.py", str(folder)])
    runpy.run_path(str(ROOT / "tools" / "alpha_table.py"), run_name="__main__")


def keep(folder: Path, arm: str, seed: int, alphas: torch.Tensor | None = None) -> None:
    model = models.network("resnet8:width=2", arms.parse(arm), classes=10, channels=1, size=28)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"arm": arm, "seed": seed}))
    state = model.state_dict()
    if alphas is not None:
        state["norm.alpha"] = alphas.reshape(state["norm.alpha"].shape)
    save_file(state, folder / "model.safetensors")


def test_each_layer_has_a_line_and_each_arm_a_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path / "a", "unitized", 1, torch.tensor([-0.5, 0.0, 0.25, 0.5, 0.5, 0.75, 0.96, 1.5]))
    keep(tmp_path / "b", "unitized", 2)
    keep(tmp_path / "c", "bn", 1)
    run(monkeypatch, tmp_path)
    said = capsys.readouterr()
    (tmp_path / "alpha.csv").write_text(said.out)
    table = pd.read_csv(tmp_path / "alpha.csv")
    assert list(table) == list(pd.read_csv(ROOT / "docs" / "results" / "alpha.csv"))  # the table that is kept
    assert (len(table), set(table["arm"]), list(table["seed"].unique())) == (14, {"unitized"}, [1, 2])
    one = table[(table["seed"] == 1) & (table["layer"] == "norm")].iloc[0]
    assert (one["channels"], one["min"], one["median"], one["max"]) == (8, -0.5, 0.5, 1.5)
    assert (one["below_0"], one["within_0.05_of_0"], one["within_0.05_of_1"], one["above_1"]) == (1 / 8,) * 4
    assert (table[table["seed"] == 2][["min", "max"]] == 0.5).all(axis=None)
    assert said.err.splitlines()[1].split()[:3] == ["unitized", "60", "-0.500"]


def test_networks_without_alpha_make_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "c", "bn", 1)
    with pytest.raises(SystemExit, match=r"^no network with unitized layers below "):
        run(monkeypatch, tmp_path)
