import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icsbound._check import InputError
from icsbound.training import config, recipes
from icsbound.training.config import MonitorConfig, TrainConfig


def test_a_config_comes_back_from_its_file(tmp_path: Path) -> None:
    made = TrainConfig(
        data="cifar10",
        data_dir=str(tmp_path),
        arm="unitized:alpha_init=0.3",
        recipe=recipes.recipe("published", "cifar10", epochs=3),
        monitor=MonitorConfig(every=10, views=("pooled",)),
        device="cpu",
    ).resolved()
    config.claim(tmp_path, made.to_dict())
    assert TrainConfig.load(tmp_path) == made
    assert TrainConfig.load(tmp_path).recipe.milestones == (60, 120, 160)


def test_statistics_of_the_inputs_are_kept_where_they_were_given(tmp_path: Path) -> None:
    made = TrainConfig(mean=(0.5,), std=(0.25,), device="cpu").resolved()
    config.claim(tmp_path, made.to_dict())
    assert TrainConfig.load(tmp_path) == made
    assert {"mean", "std"}.isdisjoint(TrainConfig().to_dict())


def test_unknown_and_broken_configs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(InputError, match=rf"^{tmp_path} must be the folder of a run, and holds no config.json$"):
        TrainConfig.load(tmp_path)
    values = TrainConfig().to_dict()
    for broken, message in (
        ("{", r"^.*config.json cannot be read: "),
        ("[1]", r"^.*config.json must hold a JSON object, got \[1\]$"),
        (
            json.dumps({**values, "sead": 1}),
            r"^config must hold fields of TrainConfig, got 'sead' \(did you mean 'seed'\?\)$",
        ),
        (json.dumps({**values, "recipe": {"name": "short"}}), r"^recipe cannot be read: .*'epochs'"),
        (json.dumps({**values, "recipe": 3}), r"^recipe must be an object of names and values, got 3$"),
    ):
        path.write_text(broken)
        with pytest.raises(InputError, match=message):
            TrainConfig.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "bm"}, "arm must be one of"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"split": "train"}, "split must be one of 'test', 'validation', got 'train'"),
        ({"split": "validation", "hold_out": 0.0}, "hold_out must be above 0 to evaluate on the validation part"),
        ({"device": "gpu"}, "device must be one of 'auto', 'cpu', 'cuda', 'mps', got 'gpu'"),
        ({"dropout": 1.5}, r"dropout must lie in \[0, 0.99\], got 1.5"),
        ({"threads": 0}, "threads must be an integer of at least 1, got 0"),
        (
            {"mean": (0.5,)},
            r"mean and std must be given together, one number each for every channel, got \(\(0.5,\), None\)",
        ),
        ({"mean": (0.5,), "std": (0.2, 0.2)}, "mean and std must be given together, one number each for every channel"),
        (
            {"mean": (0.5,), "std": (0.2,), "standardize": True},
            "mean and std must be left out with standardize, which uses neither",
        ),
        ({"mean": (127.0,), "std": (0.2,)}, r"mean must lie in \[0, 1\], got 127.0"),
        ({"mean": (0.5, 0.5), "std": (0.2, 0.0)}, r"std must be above 0 in every channel, got \(0.2, 0.0\)"),
    ],
)
def test_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe": 1}, "probe must be an integer of at least 2, got 1"),
        ({"views": ()}, r"views must name at least one view, got \(\)"),
        ({"views": ("pixel",)}, "views must be one of 'sample', 'pooled', 'position', 'projection', got 'pixel'"),
        ({"every": 0}, "every must be an integer of at least 1, got 0"),
        ({"against": "last"}, "against must be one of 'previous', 'first', got 'last'"),
    ],
)
def test_names_what_is_wrong_with_a_monitor(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        MonitorConfig(**changes)


@settings(deadline=None, derandomize=True)
@given(captures=st.integers(1, 40), steps=st.integers(1, 10_000))
def test_captures_begin_with_0_end_with_the_last_step_and_thin_out(captures: int, steps: int) -> None:
    schedule = MonitorConfig(captures=captures).schedule(steps)
    taken = [step for step in range(steps + 1) if schedule(step)]
    assert taken[0] == 0
    assert taken[-1] == steps
    assert len(taken) <= captures + 1
    if steps >= captures**2:
        assert len(taken) == captures + 1
        gaps = [b - a for a, b in pairwise(taken)]
        assert all(b >= a - 1 for a, b in pairwise(gaps))  # up to rounding


def test_captures_may_come_at_a_fixed_distance() -> None:
    schedule = MonitorConfig(every=3).schedule(10)
    assert [step for step in range(11) if schedule(step)] == [0, 3, 6, 9]
