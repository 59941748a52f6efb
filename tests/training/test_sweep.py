import dataclasses
from pathlib import Path

import pytest
from small import config, few_digits

from icsbound._check import InputError
from icsbound.report.results.contrasts import contrasts
from icsbound.training import loop, results
from icsbound.training.sweep import SweepConfig, sweep

BASE = config(monitor=None, dropout=0.0, split="validation", recipe={"epochs": 1})
TWO = SweepConfig(arms=("bn", "unitized"), seeds=(0, 1), batch_sizes=(4, 32), base=BASE, setting="batches")


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch, train=64)


def test_a_sweep_is_arms_times_batches_times_seeds(tmp_path: Path) -> None:
    runs = TWO.runs()
    assert len(runs) == 8
    assert list(runs)[:3] == ["bn-batch4-seed0", "unitized-batch4-seed0", "bn-batch32-seed0"]
    assert runs["bn-batch4-seed0"].recipe.lr == pytest.approx(0.1 * 4 / 16)
    assert dataclasses.replace(TWO, scale_lr=False).runs()["bn-batch4-seed0"].recipe.lr == 0.1


def test_writes_a_line_a_run_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    table = tmp_path / "results.jsonl"
    first = sweep(TWO, tmp_path, jobs=1, shard=(1, 2))
    assert [(one.arm, one.batch_size, one.seed) for one in first] == [
        ("bn", 4, 0), ("bn", 32, 0), ("bn", 4, 1), ("bn", 32, 1),
    ]  # fmt: skip
    assert results.read(table) == first
    assert SweepConfig.load(tmp_path) == dataclasses.replace(TWO, base=TWO.base.resolved())
    # a process killed between a run and its line: the line is added, and the run is not run again
    table.write_bytes(b"".join(table.read_bytes().splitlines(True)[1:]))
    before = (tmp_path / "bn-batch4-seed0" / "records.jsonl").stat().st_mtime_ns
    lines = sweep(TWO, tmp_path, jobs=1)
    assert (tmp_path / "bn-batch4-seed0" / "records.jsonl").stat().st_mtime_ns == before
    assert len(lines) == len(results.read(table)) == 8
    assert len({one.key for one in results.read(table)}) == 8
    assert lines[0].accuracy == first[0].accuracy
    assert (lines[0].split, {one.images for one in lines}) == ("validation", {40})
    sweep(TWO, tmp_path, jobs=1)
    assert len(results.read(table)) == 8
    assert {(dict(c.group)["batch_size"], c.seeds) for c in contrasts(lines)} == {(4, (0, 1)), (32, (0, 1))}


def test_keeps_the_states_that_are_asked_for(tmp_path: Path) -> None:
    sweep(dataclasses.replace(TWO, arms=("bn",), batch_sizes=(32,)), tmp_path, jobs=1, snapshots="1steps")
    for seed in TWO.seeds:
        kept = sorted(path.name for path in (tmp_path / f"bn-batch32-seed{seed}" / "snapshots").iterdir())
        assert kept == ["step-000000001.safetensors", "step-000000002.safetensors"]


def test_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^batch_sizes must name at least one, each once, got \(4, 4\)$"):
        dataclasses.replace(TWO, batch_sizes=(4, 4))
    with pytest.raises(InputError, match=r"^split must be 'test' in phase confirm, got 'validation'$"):
        dataclasses.replace(TWO, phase="confirm")
    with pytest.raises(InputError, match=r"^shard must be i/n with 1 <= i <= n, got '3/2'$"):
        sweep(TWO, tmp_path, shard=(3, 2))
    with pytest.raises(InputError, match=r"^batch_size must be at most the 64 training images, got 65$"):
        sweep(dataclasses.replace(TWO, batch_sizes=(4, 65)), tmp_path / "out")
    for jobs in (0, -1, True):
        with pytest.raises(InputError, match=rf"^jobs must be an integer of at least 1, got {jobs}$"):
            sweep(TWO, tmp_path / "out", jobs=jobs)
    with pytest.raises(InputError, match=r"^snapshots must be a number of epochs, such as 1, or of steps, such as "):
        sweep(TWO, tmp_path / "out", snapshots="often")
    assert list(tmp_path.iterdir()) == []
    sweep(dataclasses.replace(TWO, seeds=(0,), arms=("bn",), batch_sizes=(32,)), tmp_path, jobs=1)
    with pytest.raises(InputError, match=r"holds another run and cannot go on as this one \(arms: "):
        sweep(TWO, tmp_path)
    assert loop.finished(tmp_path / "bn-batch32-seed0") is not None
