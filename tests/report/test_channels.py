"""Alpha of every channel, from the networks that runs left: which are drawn, in which order, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recorded
import torch
from safetensors.torch import save_file

from icsbound.norm import UnitizedBatchNorm2d
from icsbound.records import LayerRecord
from icsbound.report import channels, plots
from icsbound.report.runs import load

ALPHA = {"stem.norm": [0.25, 0.5, 0.5], "block.norm1": [0.5], "block.norm2": [-1.5, 2.0]}


def drawn(folder: Path) -> channels.Figure:
    figure = channels.alpha_by_channel(channels.with_channels(load(folder)))
    assert figure is not None
    return figure


def test_a_row_for_each_channel_in_the_order_of_the_network(tmp_path: Path) -> None:
    recorded.comparison(tmp_path, arms=("bn", "unitized"), seeds=(0, 1))
    for seed in (0, 1):
        recorded.keep(tmp_path / f"unitized-seed{seed}", {name: np.add(ALPHA[name], seed) for name in ALPHA})
    figure = drawn(tmp_path)
    names = ["stem.norm"] * 3 + ["block.norm1"] + ["block.norm2"] * 2
    assert figure.data["layer"].tolist() == names
    assert figure.data["alpha"].tolist() == [0.25, 0.5, 0.5, 0.5, -1.5, 2.0]  # of the first seed
    assert figure.data["mark"].tolist() == [f"channel {k}" for k in (0, 1, 2, 0, 0, 1)]
    assert set(figure.data["start"]) == {0.5}  # all channels began there
    assert figure.basis == "unitized-seed0: the first finished run of each arm; n = 1 to 3 channels a layer."
    assert figure.alt.endswith("unitized −1.50 to 2.00, 2 of 6 channels outside of 0 to 1.")
    domain = figure.spec()["spec"]["layer"][-1]["encoding"]["x"]["scale"]["domain"]
    assert domain == [-1.5, 2.0]  # and 0 to 1 within


def test_networks_that_plain_training_left_are_read_by_the_layers_themselves(tmp_path: Path) -> None:
    model = torch.nn.Sequential(UnitizedBatchNorm2d(4, alpha_init=0.25), torch.nn.PReLU(4), torch.nn.BatchNorm2d(2))
    model.bfloat16()
    model.register_parameter("alpha", torch.nn.Parameter(torch.ones(4)))  # of no layer
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    found = channels.read(tmp_path / "m.safetensors")
    assert list(found) == ["0"]
    assert found["0"].tolist() == [0.25] * 4


def test_without_records_of_layers_they_come_by_their_names(tmp_path: Path) -> None:
    lines = [line for line in recorded.of_run("unitized", 0) if not isinstance(line, LayerRecord)]
    recorded.save(tmp_path, [line for line in lines if not hasattr(line, "layer")])
    recorded.keep(tmp_path, {"stages.10.norm": [0.1], "stages.2.norm": [0.2], "norm": [0.3]})
    figure = drawn(tmp_path)
    assert figure.data["layer"].tolist() == ["norm", "stages.2.norm", "stages.10.norm"]
    assert figure.data["start"].isna().all()
    plots.save([figure], tmp_path / "figures")  # without a mark for the start
    assert (tmp_path / "figures" / "alpha-channels.svg").is_file()


def test_only_finished_runs_count_and_a_run_without_network_yields_to_the_next(tmp_path: Path) -> None:
    recorded.comparison(tmp_path, arms=("unitized", "published"), seeds=(0, 1))
    recorded.keep(tmp_path / "unitized-seed1", ALPHA)
    recorded.keep(tmp_path / "published-seed0", ALPHA)
    recorded.save(tmp_path / "other", recorded.of_run("unitized-1", 0)[:-1])  # interrupted
    recorded.keep(tmp_path / "other", ALPHA)
    assert drawn(tmp_path).basis.startswith("unitized-seed1 and published-seed0: ")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 64, (9).to_bytes(8, "little") + b'{"a": []}', None],
    ids=["empty", "noise", "short", "not finite"],
)
def test_a_network_that_cannot_be_read_is_said(tmp_path: Path, content: bytes | None) -> None:
    recorded.save(tmp_path / "a", recorded.of_run("unitized", 0))
    if content is None:
        recorded.keep(tmp_path / "a", {"norm": [0.5, np.nan]})
    else:
        (tmp_path / "a" / "model.safetensors").write_bytes(content)
    study = channels.with_channels(load(tmp_path))
    (note,) = study.notes  # known before anything is drawn
    assert channels.alpha_by_channel(study) is None
    assert note.startswith("a/model.safetensors could not be read (")
    assert note.endswith("); its alpha by channel is left out.")


@pytest.mark.parametrize("count", [300, 301, 5_000])
def test_many_channels_become_quantiles_from_the_lowest_to_the_highest(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    own = pd.DataFrame({"arm": "a", "run": "a-seed0", "channel": range(count), "alpha": values, "start": np.nan})
    data = pd.concat([own.assign(layer=f"{k}") for k in range(10)], ignore_index=True)
    figure = channels.channels_of(data, ["a"])
    shown = figure.data.loc[figure.data["layer"] == "7", "alpha"]
    assert len(shown) == 300
    assert (shown.min(), shown.max()) == (values.min(), values.max())
    assert shown.median() == pytest.approx(np.median(values), abs=0.2)
    assert len(figure.data) == channels.MARKS
    assert ("Of a layer with more than 300 channels, 300 quantiles." in figure.basis) == (count > 300)


def test_very_many_layers_are_some_of_them(tmp_path: Path) -> None:
    arms, layers = [f"arm{k}" for k in range(10)], [f"l{k}" for k in range(200)]
    rows = [(arm, f"{arm}-seed0", name, k, 0.5, 0.5) for arm in arms for name in layers for k in range(12)]
    data = pd.DataFrame(rows, columns=["arm", "run", "layer", "channel", "alpha", "start"])
    figure = channels.channels_of(data, arms)
    assert len(figure.data) <= 16_000
    assert "177 of 200 layers, evenly spread." in figure.basis
