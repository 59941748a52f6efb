"""Studies in a folder: every point is kept, a study that was stopped goes on, and bad input is named."""

import dataclasses
import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small
import torch

from icsbound import records
from icsbound._check import InputError
from icsbound.records import PointRecord, SeedRecord, StudyRecord
from icsbound.study import run as runner
from icsbound.study.registry import STUDIES
from icsbound.study.run import StudyConfig, run
from icsbound.study.setting import Panel, Setting, Study
from icsbound.study_command import NAMES
from icsbound.training import loop
from icsbound.training.progress import Event

CALLS: list[int] = []


def three_points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """Of the seed alone."""
    for x in range(3):
        CALLS.append(seed)
        yield Panel("noise", "noise alone", seed, 10).point("curve", x, seed + x, seed + x, "equal")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, "noise", Study("noise", three_points, 3))
    CALLS.clear()


def without_clocks(folder: Path) -> list[records.Record]:
    return [records.without_clock(record) for record in records.read(folder / "records.jsonl")]


def test_points_do_not_depend_on_the_device_that_torch_has_as_its_default(tmp_path: Path) -> None:
    config = StudyConfig(studies=("dimension",), seeds=(0,))
    run(config, tmp_path / "plain")
    with torch.device("meta"):  # where what is drawn would have no values
        run(config, tmp_path / "meta")
    assert without_clocks(tmp_path / "meta") == without_clocks(tmp_path / "plain")


@pytest.mark.usefixtures("quick")
def test_every_point_lies_between_the_begin_of_a_study_and_the_end_of_its_seed(tmp_path: Path) -> None:
    events: list[Event] = []
    run(StudyConfig(studies=("noise",)), tmp_path, progress=events.append)
    first, *rest = records.read(tmp_path / "records.jsonl")
    assert isinstance(first, StudyRecord)
    assert (first.study, first.seeds, first.full) == ("noise", [0, 1, 2], False)
    assert first.versions["torch"]
    assert [type(r) for r in rest] == [PointRecord, PointRecord, PointRecord, SeedRecord] * 3
    assert [(e.step, e.steps) for e in events] == [(1, 3), (2, 3), (3, 3)]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"studies": ["noise"], "seeds": None, "full": False, "runs": None}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("caught", [signal.SIGINT, signal.SIGTERM])
def test_a_study_that_was_stopped_keeps_its_points_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caught: signal.Signals
) -> None:
    config = StudyConfig(studies=("noise",), seeds=(4, 7))
    run(config, tmp_path / "whole")

    def stopped(seed: int, setting: Setting) -> Iterator[PointRecord]:
        for number, point in enumerate(three_points(seed, setting)):
            if (seed, number) == (7, 1):
                signal.raise_signal(caught)
            yield point

    monkeypatch.setitem(STUDIES, "noise", Study("noise", stopped, 3))
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt if caught == signal.SIGINT else SystemExit) as stop:
        run(config, out)
    if caught == signal.SIGINT:
        assert str(stop.value) == f"stopped; what was measured is kept; go on with: icsbound study --resume {out}"
    else:
        assert stop.value.code == 143
    kept = records.read(out / "records.jsonl")
    assert sum(isinstance(r, PointRecord) for r in kept) == 5
    assert sum(isinstance(r, SeedRecord) for r in kept) == 1

    monkeypatch.setitem(STUDIES, "noise", Study("noise", three_points, 3))
    CALLS.clear()
    run(StudyConfig.load(out), out)
    assert set(CALLS) == {7}
    assert without_clocks(out) == without_clocks(tmp_path / "whole")
    before = (out / "records.jsonl").read_bytes()
    run(config, out)  # finished: nothing is measured again
    assert (out / "records.jsonl").read_bytes() == before


@pytest.mark.usefixtures("quick")
def test_half_a_line_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    config = StudyConfig(studies=("noise",), seeds=(0, 1))
    run(config, tmp_path / "whole")
    run(config, tmp_path / "killed")
    path = tmp_path / "killed" / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-300])
    run(config, tmp_path / "killed")
    assert without_clocks(tmp_path / "killed") == without_clocks(tmp_path / "whole")


@pytest.mark.usefixtures("quick")
def test_another_study_does_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    run(StudyConfig(studies=("noise",), seeds=(0,)), tmp_path)
    with pytest.raises(InputError, match=r"holds another run and cannot go on as this one \(full: false there, true"):
        run(StudyConfig(studies=("noise",), seeds=(0,), full=True), tmp_path)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Finished runs of three arms that do not share their seeds; all hold the same network, which no plan looks at."""
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        small.few_digits(patch)
        loop.train(small.config(arm="bn", seed=5, monitor=None, recipe={"epochs": 1}), folder / "bn-seed5")
    for arm, seed in (("bn", 6), ("gn", 5), ("gn", 7), ("published", 8)):
        copy = shutil.copytree(folder / "bn-seed5", folder / f"{arm}-seed{seed}") / "config.json"
        config = json.loads(copy.read_text(encoding="utf-8"))
        copy.write_text(json.dumps({**config, "arm": arm, "seed": seed}), encoding="utf-8")
    return str(folder)


def test_seeds_come_from_the_flags_the_runs_or_the_study(table: str) -> None:
    both = StudyConfig(studies=("noise", "shift"))
    assert both.plan() == {"noise": (0, 1, 2, 3, 4), "shift": (0, 1, 2)}
    assert dataclasses.replace(both, seeds=(9,)).plan() == {"noise": (9,), "shift": (9,)}
    assert dataclasses.replace(both, runs=table).plan() == {"noise": (0, 1, 2, 3, 4), "shift": (5, 6, 7)}


def test_each_study_takes_the_seeds_at_which_its_arms_are_there(table: str) -> None:
    several = StudyConfig(studies=("reduction", "shift", "information"), runs=table)
    assert several.plan() == {"reduction": (5, 6), "shift": (5, 6, 7), "information": (5, 6)}
    assert dataclasses.replace(several, seeds=(6,)).plan() == dict.fromkeys(several.studies, (6,))
    assert Study("both", three_points, 3, ("bn", "gn")).seeds_of({"bn": {5, 6}, "gn": {5, 7}}) == (5,)


@pytest.mark.parametrize(
    ("study", "seeds", "why"),
    [
        ("alpha", None, "runs must hold finished runs of unitized at one seed for the study 'alpha', got {} with no "
         "unitized"),
        ("moments", (5, 7, 8), "runs must hold finished runs of bn at seeds 7, 8 for the study 'moments', got {} with "
         "bn at seeds 5, 6"),
        ("shift", (8,), "runs must hold finished runs of bn or gn or unitized or unitized-1 at seed 8 for the study "
         "'shift', got {} with bn at seeds 5, 6, gn at seeds 5, 7, no unitized, no unitized-1"),
    ],
)  # fmt: skip
def test_runs_that_lack_an_arm_are_refused_before_anything_is_written(
    table: str, tmp_path: Path, study: str, seeds: tuple[int, ...] | None, why: str
) -> None:
    config = StudyConfig(studies=("noise", study), seeds=seeds, runs=table)
    with pytest.raises(InputError, match="^" + re.escape(why.format(repr(table)))):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"studies": ()}, r"^studies must name at least one, each once, got \(\)$"),
        ({"studies": ("noise", "noise")}, r"^studies must name at least one, each once, got \('noise', 'noise'\)$"),
        ({"studies": ("shifts",)}, r"^study must be one of .*, got 'shifts' \(did you mean 'shift'\?\)$"),
        ({"studies": ("noise",), "seeds": ()}, r"^seeds must name at least one, each once, got \(\)$"),
        ({"studies": ("noise",), "seeds": (-1,)}, r"^seed must be an integer of at least 0, got -1$"),
        (
            {"studies": ("noise",), "runs": "x"},
            r"^runs must come with a study of trained networks \(reduction, moments, .*shift\), got 'x'$",
        ),
    ],
)
def test_bad_input_is_named(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        StudyConfig(**settings)


def test_a_folder_without_runs_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = StudyConfig(studies=("shift",), runs=str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"^runs must be a folder with finished runs, in itself or one level below"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "config.json").write_text('{"studies": ["shift"], "arm": "bn"}')
    with pytest.raises(InputError, match="'arm'"):
        StudyConfig.load(tmp_path)
    (tmp_path / "config.json").write_text('{"full": true}')
    with pytest.raises(InputError, match=r"must hold the config of studies: .*'studies'"):
        StudyConfig.load(tmp_path)


def test_the_command_line_spells_the_studies_out() -> None:
    assert tuple(STUDIES) == NAMES
    assert all(study.name == name and study.seeds >= 3 for name, study in STUDIES.items())
    assert runner.STUDIES is STUDIES
