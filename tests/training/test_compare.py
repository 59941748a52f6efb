"""Comparisons and their worker processes, on the real digits."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import config, few_digits, measured

from icsbound._check import InputError
from icsbound.training import checkpoint, compare, loop, pool
from icsbound.training.compare import CompareConfig
from icsbound.training.config import MonitorConfig
from icsbound.training.progress import Event

# Workers are processes of their own and see all 4,000 digits: large batches keep their epoch short.
BASE = config(model="resnet8:width=1", monitor=None, recipe={"epochs": 1, "batch_size": 500})
TWO = CompareConfig(arms=("bn", "unitized"), seeds=(1,), base=BASE)


def test_a_comparison_is_arms_times_seeds_and_comes_back_from_its_file(tmp_path: Path) -> None:
    made = CompareConfig(arms=("bn", "unitized:alpha_init=0.3"), seeds=(3, 4), base=BASE)
    assert list(made.runs()) == [
        "bn-seed3",
        "unitized_alpha_init=0.3-seed3",
        "bn-seed4",
        "unitized_alpha_init=0.3-seed4",
    ]
    assert [run.arm for run in made.runs().values()][1] == "unitized:alpha_init=0.3"
    again = CompareConfig.from_dict(made.to_dict())
    assert again.to_dict() == made.to_dict()
    assert again.runs() == made.runs()


def test_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^arms must name at least one, each once, got \('bn', 'bn'\)$"):
        CompareConfig(arms=("bn", "bn"))
    with pytest.raises(InputError, match=r"^seeds must name at least one, each once, got \(\)$"):
        CompareConfig(seeds=())
    with pytest.raises(InputError, match=r"^arm must be one of .* \(did you mean 'bn'\?\)$"):
        CompareConfig(arms=("bn", "b"), base=BASE).runs()
    with pytest.raises(
        InputError, match=r"^a comparison's config must hold lists of arms and seeds, got None and None$"
    ):
        CompareConfig.from_dict({})
    too_many = dataclasses.replace(BASE, monitor=MonitorConfig(probe=2000))
    with pytest.raises(InputError, match=r"^probe must be at most the 1000 images of the test part, got 2000$"):
        compare.compare(CompareConfig(base=too_many), tmp_path / "out")
    # the second arm's layers do not fit this network: known before the first is trained
    narrow = dataclasses.replace(BASE, model="resnet8:width=12")
    with pytest.raises(InputError, match=r"^group_size must divide the 24 channels"):
        compare.compare(CompareConfig(arms=("bn", "gn"), base=narrow), tmp_path / "out")
    with pytest.raises(InputError, match=r"^jobs must be an integer of at least 1, got 0$"):
        compare.compare(TWO, tmp_path / "out", jobs=0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """Two runs in two worker processes."""
    out, events = tmp_path_factory.mktemp("compare"), list[Event]()
    results = compare.compare(TWO, out, jobs=2, progress=events.append)
    assert list(results) == ["bn-seed1", "unitized-seed1"]
    assert results == {name: loop.finished(out / name) for name in results}
    return out, events


def test_workers_give_what_the_loop_gives(side_by_side: tuple[Path, list[Event]], tmp_path: Path) -> None:
    out, events = side_by_side
    compare.compare(TWO, tmp_path, jobs=1)
    for name in ("bn-seed1", "unitized-seed1"):
        assert (out / name / "model.safetensors").read_bytes() == (tmp_path / name / "model.safetensors").read_bytes()
        assert measured(out / name) == measured(tmp_path / name)
        assert [e for e in events if e.run == name][-1].step == 8


def test_finished_runs_are_skipped(side_by_side: tuple[Path, list[Event]], tmp_path: Path) -> None:
    shutil.copytree(side_by_side[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "unitized-seed1")
    before = (tmp_path / "bn-seed1" / "records.jsonl").stat().st_mtime_ns
    compare.compare(TWO, tmp_path, jobs=1)
    assert (tmp_path / "bn-seed1" / "records.jsonl").stat().st_mtime_ns == before
    assert measured(tmp_path / "unitized-seed1") == measured(side_by_side[0] / "unitized-seed1")
    with pytest.raises(InputError, match=r"holds another run and cannot go on as this one \(arms: "):
        compare.compare(dataclasses.replace(TWO, arms=("bn",)), tmp_path)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_run_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    few_digits(monkeypatch)
    good = dataclasses.replace(BASE, recipe=dataclasses.replace(BASE.recipe, batch_size=96))
    wild = dataclasses.replace(
        good, monitor=None, recipe=dataclasses.replace(good.recipe, lr=1e30, epochs=9, warmup=0.0)
    )
    tasks = [pool.Task(wild, tmp_path / "wild"), pool.Task(good, tmp_path / "good")]
    with pytest.raises(pool.Failed, match=r"^1 of 2 runs failed \(wild: unitized-seed0 diverged at step \d"):
        pool.run(tasks, jobs=jobs)
    assert loop.finished(tmp_path / "good") is not None


def test_what_goes_wrong_here_loses_no_run_that_is_under_way(tmp_path: Path) -> None:
    long = dataclasses.replace(BASE, seed=1, recipe=dataclasses.replace(BASE.recipe, epochs=100))
    tasks = [pool.Task(BASE, tmp_path / "short"), pool.Task(long, tmp_path / "long")]
    begun: set[str] = set()

    def full(event: Event) -> None:
        begun.update([event.run] if event.step > 0 else [])
        if begun == {"short", "long"}:
            raise InputError("the disk is full")

    with pytest.raises(InputError, match=r"^the disk is full$"):
        pool.run(tasks, jobs=2, progress=full)
    assert checkpoint.paths(tmp_path / "long" / "checkpoints")


def test_a_worker_that_dies_is_reported_and_replaced(tmp_path: Path) -> None:
    tasks = [pool.Task(dataclasses.replace(BASE, seed=seed), tmp_path / str(seed)) for seed in range(2)]
    killed: list[int] = []

    def kill_one(event: Event) -> None:
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
        ).stdout.split()
        if not killed and event.step > 0:
            workers = [pid for pid in map(int, children) if b"training.worker" in command(pid)]
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    def command(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""

    if not Path("/proc").is_dir():
        pytest.skip("the test finds its workers in /proc")
    with pytest.raises(pool.Failed, match=r"^1 of 2 runs failed \(\d: its process ended with exit code -9\)$"):
        pool.run(tasks, jobs=2, progress=kill_one)
    assert sum(loop.finished(tmp_path / str(seed)) is not None for seed in range(2)) == 1


PARENT = """
import sys
sys.path.insert(0, {tests!r})
from test_compare import TWO
from icsbound.training import compare
compare.compare(TWO, {out!r}, jobs=2, progress=lambda event: print(event.step, flush=True))
"""


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.full)],
    ids=lambda number: number.name,
)
def test_no_worker_outlives_its_parent_and_nothing_is_lost(
    side_by_side: tuple[Path, list[Event]], tmp_path: Path, number: signal.Signals
) -> None:
    program = PARENT.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    while int(parent.stdout.readline()) < 1:
        pass
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=120)
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert parent.returncode in (expected, -2 if number == signal.SIGINT else expected), errors
    if number == signal.SIGINT:
        assert "go on with: icsbound compare --resume" in errors
    # a worker may need a moment to write its checkpoint; the lock of its folder tells when it is gone
    end = time.monotonic() + 60
    while time.monotonic() < end and any(in_use(folder) for folder in tmp_path.glob("*-seed1")):
        time.sleep(0.05)
    compare.compare(TWO, tmp_path, jobs=1)
    for name in ("bn-seed1", "unitized-seed1"):
        assert measured(tmp_path / name) == measured(side_by_side[0] / name)


def in_use(folder: Path) -> bool:
    from icsbound.training import interrupts

    try:
        with interrupts.only_here(folder, patience=0.0):
            return False
    except InputError:
        return True
