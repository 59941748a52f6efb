"""The command on the page is one that the command line takes, and it stands for the run that was made."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from icsbound import cli, commands, flags
from icsbound.report import reproduce
from icsbound.training.compare import CompareConfig
from icsbound.training.config import MonitorConfig, TrainConfig
from icsbound.training.pretrained import Pretrained
from icsbound.training.recipes import RECIPES
from icsbound.training.states import MeasureConfig
from icsbound.training.sweep import SweepConfig

RECIPE = dataclasses.replace(RECIPES["published"], epochs=2, batch_size=32, lr=0.05)
TRAIN = TrainConfig(
    arm="unitized:alpha_init=0.3,scope=position",
    seed=7,
    recipe=RECIPE,
    model="resnet8:width=8",
    dropout=0.4,
    monitor=MonitorConfig(probe=64, every=10),
    threads=1,
    split="validation",
)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TRAIN,
        TrainConfig(monitor=MonitorConfig(captures=3)),
        TrainConfig(mean=(0.5,), std=(0.25,)),
        *(TrainConfig(monitor=MonitorConfig(picture=picture)) for picture in ("stages.0.norm1", False)),
    ],
)
def test_train(config: TrainConfig) -> None:
    config = config.resolved()
    words = shlex.split(reproduce.command(config.to_dict()))
    assert words[:2] == ["icsbound", "train"]
    args = cli.parser().parse_args(words[1:])
    base = TrainConfig(monitor=None if args.no_monitor else MonitorConfig())
    assert flags.configured(args, base).resolved() == config


def test_weights_to_begin_at(tmp_path: Path) -> None:
    (tmp_path / "a b.pt").write_bytes(b"weights")
    config = dataclasses.replace(TRAIN, pretrained=Pretrained(file=str(tmp_path / "a b.pt"), new_head=True)).resolved()
    words = shlex.split(reproduce.command(config.to_dict()))
    again = flags.configured(cli.parser().parse_args(words[1:]), TrainConfig(monitor=MonitorConfig()))
    assert again.resolved().pretrained == config.pretrained


def test_weights_of_each_seed(tmp_path: Path) -> None:
    weights = Pretrained(file=str(tmp_path / "{seed}.pt"), by_seed=True)
    config = CompareConfig(arms=("bn",), base=dataclasses.replace(TRAIN, pretrained=weights))
    words = shlex.split(reproduce.command(config.to_dict()))
    again = flags.configured(cli.parser().parse_args(words[1:]), TrainConfig(monitor=MonitorConfig()))
    assert again.pretrained == weights


@pytest.mark.parametrize("config", [CompareConfig(), CompareConfig(arms=("bn", "gn"), seeds=(4, 5), base=TRAIN)])
def test_compare(config: CompareConfig) -> None:
    words = shlex.split(reproduce.command(config.to_dict()))
    assert words[:2] == ["icsbound", "compare"]
    args = cli.parser().parse_args(words[1:])
    assert (tuple(args.arms), tuple(args.seeds)) == (config.arms, config.seeds)
    again = CompareConfig(arms=config.arms, seeds=config.seeds, base=flags.configured(args, CompareConfig().base))
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("scale_lr", [True, False])
@pytest.mark.parametrize("monitor", [None, MonitorConfig(captures=3)])
def test_sweep(scale_lr: bool, monitor: MonitorConfig | None) -> None:
    base = dataclasses.replace(TRAIN, monitor=monitor)
    config = SweepConfig(arms=("bn", "gn"), seeds=(1, 2), batch_sizes=(8, 64), base=base, scale_lr=scale_lr)
    words = shlex.split(reproduce.command(config.to_dict()))
    assert words[:2] == ["icsbound", "sweep"]
    again = commands.sweep_config(cli.parser().parse_args(words[1:]))
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "config",
    [
        MeasureConfig(checkpoints=("a.pt", "b c.pt"), model="my.nets:make", data="digits", layers=("blocks.*", "norm")),
        MeasureConfig(checkpoints=("run",), data_b=("digits:shift=fog,severity=2",), views=("sample",), law="train"),
        MeasureConfig(checkpoints=("run",), side="inputs", probe=64, batch_size=32, seed=3, rate=0.1, device="cpu"),
        MeasureConfig(checkpoints=("run",), picture="stages.0.norm1"),
    ],
)
def test_measure(config: MeasureConfig) -> None:
    words = shlex.split(reproduce.command(config.to_dict()))
    assert words[:2] == ["icsbound", "measure"]
    assert commands.measure_config(cli.parser().parse_args(words[1:])) == config


@pytest.mark.parametrize("config", [{}, {"arms": ["bn"]}, {"monitor": 3}])
def test_no_command_where_the_config_is_of_something_else(config: dict[str, object]) -> None:
    assert reproduce.command(config) == ""


def test_names_are_quoted_for_the_shell() -> None:
    assert reproduce.command({"arm": "a; rm -rf x", "seed": 1}) == "icsbound train --arm 'a; rm -rf x' --seed 1"
