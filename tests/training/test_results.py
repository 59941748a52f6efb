import dataclasses
import json
import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
from small import config

from icsbound._check import InputError
from icsbound.training import results


def line(**changes: Any) -> results.Line:
    measured = {"accuracy": 0.5, "seconds": 1.0, "versions": {"torch": "2"}}
    made = results.of_run(
        config(seed=changes.pop("seed", 0), arm=changes.pop("arm", "bn")), "demo", "explore", **measured
    )
    return dataclasses.replace(made, **changes)


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert results.read(path) == []
    lines = [line(), line(seed=1, shift="fog", severity=3, accuracy=0.25)]
    for one in lines:
        results.append(path, one)
    assert results.read(path) == lines
    assert lines[0].key != lines[1].key
    assert lines[0].key == line(accuracy=0.7, images=10, seconds=9.0, versions={}).key
    assert "data_dir" not in lines[0].config


def test_how_many_images_an_accuracy_is_over_may_be_known_or_not(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    lines = [line(images=10_000), line(seed=1)]
    for one in lines:
        results.append(path, one)
    assert results.read(path) == lines
    known, unknown = map(json.loads, path.read_text().splitlines())
    assert known["images"] == 10_000
    assert "images" not in unknown  # as in tables of before it was written
    results.append(path, dataclasses.replace(lines[1], images=5), once=True)
    assert results.read(path) == lines  # the same measurement
    for wrong, says in (
        (0, "an integer of at least 1, got 0"),
        ("9", "int | None, got '9'"),
        (True, "int | None, got T"),
    ):
        path.write_text(json.dumps({**known, "images": wrong}) + "\n")
        with pytest.raises(InputError, match=re.escape(f"line 1 is no line of results: images must be {says}")):
            results.read(path)


def test_a_line_cut_short_is_closed_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results.append(path, line())
    path.write_bytes(path.read_bytes()[:-20])
    results.append(path, line(seed=2))
    with pytest.warns(UserWarning, match=r"results.jsonl: line 1 was cut off and is left out$"):
        assert results.read(path) == [line(seed=2)]


def test_a_measurement_enters_once(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for accuracy in (0.25, 0.25, 0.5):
        results.append(path, line(accuracy=accuracy), once=True)
    assert results.read(path) == [line(accuracy=0.25)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no file that is always full")
def test_a_full_disk_is_said() -> None:
    with pytest.raises(
        InputError, match=r"^/dev/full cannot be written: No space left on device; the same command goes on from"
    ):
        results.append(Path("/dev/full"), line())


def write_many(path: Path, seed: int) -> None:
    for k in range(30):
        results.append(path, line(seed=seed, severity=k))


def test_processes_may_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, seed)) for seed in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted((one.seed, one.severity) for one in results.read(path)) == [
        (s, k) for s in range(2) for k in range(30)
    ]


def test_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^phase must be one of 'explore', 'confirm', got 'try'$"):
        line(phase="try")
    with pytest.raises(InputError, match=r"^accuracy must lie in \[0, 1\], got 97.5$"):
        line(accuracy=97.5)
    (tmp_path / "results.jsonl").write_text('{"setting": "demo"}\n')
    with pytest.raises(InputError, match=r"line 1 is no line of results: .*missing"):
        results.read(tmp_path / "results.jsonl")
