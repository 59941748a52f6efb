"""Scalars: what is told, that a resumed run tells no point twice, and that telling changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import config, few_digits, measured

from icsbound import records
from icsbound._check import InputError
from icsbound.training import checkpoint, loop, tracking
from icsbound.training.progress import Event


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    monkeypatch.setattr(tracking, "EVERY", 2)


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> step and value of each point, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(p.step, p.value) for p in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        patch.setattr(tracking, "EVERY", 2)
        loop.train(config(), out, tracker="tensorboard")
    return out


def test_everything_of_the_list_is_told(whole: Path) -> None:
    told = points(whole)
    assert [step for step, _ in told["train/loss"]] == [step for step, _ in told["train/lr"]] == [2, 4, 6, 8, 10, 12]
    epochs = [r for r in measured(whole) if isinstance(r, records.EpochRecord)]
    assert [v for _, v in told["epoch/accuracy"]] == pytest.approx([e.accuracy for e in epochs])
    assert [v for _, v in told["epoch/loss"]] == pytest.approx([e.loss for e in epochs])
    assert [step for step, _ in told["epoch/images_per_second"]] == [6, 12]
    assert {tag for tag in told if tag.startswith("ics/")} == {"ics/pooled", "ics/sample"}
    shifts = [r for r in measured(whole) if isinstance(r, records.DistanceRecord) and r.view == "pooled"]
    last = [r.scale_free for r in shifts if r.step_b == 12 and r.scale_free is not None]
    assert told["ics/pooled"][-1] == (12, pytest.approx(sum(last) / len(last)))
    assert [step for step, _ in told["alpha/mean"]] == [6, 12]
    assert told["alpha/min"][-1][1] <= told["alpha/mean"][-1][1] <= told["alpha/max"][-1][1]
    layer = shifts[0].layer
    assert [step for step, _ in told[f"alpha/{layer}"]] == [0, 1, 5, 12]


# Stopped in order, with a checkpoint, and killed after one: the steps between it and the end are taken again.
@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_goes_on_tells_no_point_twice(whole: Path, tmp_path: Path, killed: bool) -> None:
    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if event.step == 9:
            raise Killed

    counted = iter(range(1, 100))
    if killed:
        with pytest.raises(Killed):
            loop.train(config(), tmp_path, tracker="tensorboard", checkpoint_every=5, progress=kill)
    else:
        with pytest.raises(KeyboardInterrupt):
            loop.train(
                config(), tmp_path, tracker="tensorboard", stop=lambda: next(counted) == 8
            )  # a step that is told
    loop.resume(tmp_path, tracker="tensorboard")
    expected, found = points(whole), points(tmp_path)
    assert set(found) == set(expected)
    for tag in expected:
        if tag != "epoch/images_per_second":
            assert found[tag] == expected[tag], tag
        assert [step for step, _ in found[tag]] == [step for step, _ in expected[tag]], tag


def test_telling_changes_no_number(whole: Path, tmp_path: Path) -> None:
    loop.train(config(), tmp_path)
    assert measured(tmp_path) == measured(whole)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / "tensorboard").exists()
    assert not checkpoint.paths(whole / "checkpoints")


Points = list[tuple[int, str]]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> dict[str, Points]:
    """The tracker "own" of Accelerate: run -> the points that it was sent."""
    from accelerate import tracking as theirs

    runs: dict[str, Points] = {}

    class Own(theirs.GeneralTracker):  # type: ignore[misc]  # the class of a library without types
        name = "own"
        requires_logging_directory = False
        tracker = None

        def __init__(self, run_name: str, run_id: str | None = None) -> None:
            super().__init__()
            self.run_id = run_id or f"{run_name}-{len(runs)}"

        def start(self) -> None:
            self.points = runs.setdefault(self.run_id, [])

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            self.points.append((-1, str(values["recipe"]["epochs"])))

        def log(self, values: dict[str, float], step: int = -1, **_: Any) -> None:
            assert values
            self.points += [(step, name) for name in values]

        def finish(self) -> None:
            self.points.append((-1, "finish"))

    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "own", Own)
    monkeypatch.setattr(theirs, "get_available_trackers", lambda: ["own"])
    return runs


def test_any_tracker_of_accelerate_is_told(whole: Path, tmp_path: Path, shelf: dict[str, Points]) -> None:
    loop.train(config(), tmp_path, tracker="own")
    ((run, told),) = shelf.items()
    assert run == "unitized-seed0-0"
    assert (told[0], told[-1]) == ((-1, "2"), (-1, "finish"))
    assert sorted(told[1:-1]) == sorted((step, tag) for tag, those in points(whole).items() for step, _ in those)


@pytest.mark.parametrize("knows", ["its own name", "a given name", "nothing"])
@pytest.mark.parametrize("end", ["stopped", "killed", "killed before a checkpoint"])
def test_a_tracker_goes_on_in_its_run_and_is_told_no_point_twice(
    tmp_path: Path, shelf: dict[str, Points], monkeypatch: pytest.MonkeyPatch, knows: str, end: str
) -> None:
    if knows == "its own name":
        monkeypatch.setitem(tracking._ASKED, "own", ("run_id", lambda tracker: tracker.run_id))
    elif knows == "a given name":
        monkeypatch.setitem(tracking._GIVEN, "own", lambda run: {"run_id": run})

    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if event.step == 9:
            raise Killed

    options: dict[str, Any] = {"tracker": "own", "checkpoint_every": 50 if "before" in end else 5}
    counted = iter(range(1, 100))
    if end == "stopped":
        with pytest.raises(KeyboardInterrupt):
            loop.train(config(), tmp_path / "run", stop=lambda: next(counted) == 8, **options)  # a step that is told
    else:
        with pytest.raises(Killed):
            loop.train(config(), tmp_path / "run", progress=kill, **options)
        with (tmp_path / "run" / "tracker-own.jsonl").open("ab") as file:
            file.write(b'{"step": 10, "val')  # under way when it was killed
    loop.resume(tmp_path / "run", **options)
    once = dict(shelf)
    loop.train(config(), tmp_path / "whole", tracker="own")
    (other,) = shelf.keys() - once.keys()
    told = [point for sent in once.values() for point in sent if point[0] >= 0]
    assert sorted(told) == sorted(point for point in shelf[other] if point[0] >= 0)
    assert len(once) == (2 if knows == "nothing" else 1)
    assert [point for sent in once.values() for point in sent].count((-1, "2")) == 1  # the config


@pytest.mark.parametrize(
    "line", ["[1]", '{"values": ["a"]}', '{"run": 3}', '{"step": [], "values": ["a"]}', "[" * 99_999]
)
def test_a_file_of_points_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "tracker-own.jsonl").write_text(line + "\n")
    with pytest.raises(
        InputError, match=r"tracker-own\.jsonl must hold what a tracker was told, one JSON object a line: "
    ):
        tracking.Told(tmp_path / "tracker-own.jsonl")


def test_an_unknown_or_missing_tracker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^tracker must be one of 'auto', 'none', .*, got 'tensorbord' \(did you"):
        loop.train(config(), tmp_path / "run", tracker="tensorbord")
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(InputError, match=r"^tracker wandb must be installed; install wandb$"):
        loop.train(config(), tmp_path / "run", tracker="wandb")
    assert list(tmp_path.iterdir()) == []
    assert tracking.chosen("auto") == "tensorboard"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tracking.chosen("auto") is None
    assert tracking.chosen("none") is None
