"""A run small enough for a test, on real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from icsbound import records
from icsbound.training import data, loop, recipes
from icsbound.training.config import MonitorConfig, TrainConfig


def few_digits(monkeypatch: Any, train: int = 96, held_out: int = 40) -> None:
    """Let `data.load` return a few digits of every class, so that an epoch takes a fraction of a second."""
    whole = data.load

    def few(part: data.Dataset, n: int) -> data.Dataset:
        return part.take(torch.linspace(0, len(part) - 1, min(n, len(part)), device="cpu").long())

    def load(name: str, seed: int = 0, **options: Any) -> data.Splits:
        splits = whole(name, seed, **options)
        return data.Splits(few(splits.train, train), few(splits.validation, held_out), few(splits.test, held_out))

    monkeypatch.setattr(data, "load", load)


def config(**changes: Any) -> TrainConfig:
    """Two epochs of six batches for a network of width 2, with dropout and the monitor."""
    recipe = recipes.recipe(**{"epochs": 2, "batch_size": 16, **changes.pop("recipe", {})})
    settings: dict[str, Any] = {
        "model": "resnet8:width=2",
        "arm": "unitized",
        "dropout": 0.2,
        "threads": 1,
        "device": "cpu",
        "monitor": MonitorConfig(probe=12, captures=3),
        "recipe": recipe,
    }
    return TrainConfig(**{**settings, **changes})


def stopped_and_resumed(made: TrainConfig, folder: Path, *, steps: int) -> None:
    """Assert that a run of `steps` that is stopped after its second and goes on leaves the same weights as one that is
    not; the latter stays in ``folder/unbroken``.
    """
    loop.train(made, folder / "unbroken")
    stops = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        loop.train(made, folder / "stopped", stop=lambda: next(stops) == 2)
    assert loop.resume(folder / "stopped").step == steps
    one, other = (folder / name / "model.safetensors" for name in ("unbroken", "stopped"))
    assert one.read_bytes() == other.read_bytes()


def measured(folder: Path) -> list[records.Record]:
    """The records of a run with every clock set to 0."""
    return [records.without_clock(record) for record in records.read(folder / "records.jsonl")]
