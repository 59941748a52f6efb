import io
from pathlib import Path

import pytest
from rich.console import Console
from small import config, few_digits

from icsbound.training import loop
from icsbound.training.progress import Bar, Event, quiet


def shown(*events: Event, runs: int) -> str:
    file = io.StringIO()
    with Bar(runs, console=Console(file=file, width=160, force_terminal=True, color_system=None)) as bar:
        for event in events:
            bar(event)
    return file.getvalue()


def test_shows_runs_and_all_of_them() -> None:
    text = shown(
        Event("bn-seed0", 0, 4),
        Event("bn-seed0", 2, 4, loss=1.25, accuracy=0.875),
        Event("unitized-seed0", 1, 4, note="goes on from step 1 of 4 [bold]"),
        Event("bn-seed0", 4, 4, loss=0.5),
        runs=2,
    )
    last = text.rsplit("all runs", 1)[1]
    assert "62%" in last  # (4/4 + 1/4) of two runs
    assert "1 of 2" in last
    assert "unitized-seed0: goes on from step 1 of 4 [bold]" in text  # no markup is read out of a note
    assert "bn-seed0" not in last  # a finished run makes room


def test_a_single_run_shows_its_figures() -> None:
    text = shown(Event("bn-seed0", 1, 4), Event("bn-seed0", 3, 4, loss=1.25, accuracy=0.875), runs=1)
    assert "all runs" not in text
    assert "loss 1.250, accuracy 87.5%" in text
    assert "steps/s" in text
    assert "distances/s" in shown(Event("m", 1, 4, unit="distances"), Event("m", 3, 4, unit="distances"), runs=1)


def test_memory_is_shown_and_a_word_before_the_first_step_draws_no_bar() -> None:
    text = shown(
        Event("a", 0, 0, note="on node 1"),
        Event("a", 1, 4, memory=300 << 20),
        Event("a", 2, 4, memory=1500 << 20),
        runs=2,
    )
    assert "a: on node 1" in text
    assert "1,500 MiB" in text
    assert "25%" in text.rsplit("all runs", 1)[1]  # 2 of 4 steps of one of two runs


def test_a_run_tells_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    seen: list[Event] = []
    loop.train(config(monitor=None, recipe={"epochs": 1}), tmp_path, progress=seen.append)
    assert all(20 << 20 < event.memory < 1 << 40 for event in seen if not event.note)


def test_quiet_shows_nothing(capfd: object) -> None:
    quiet(Event("bn-seed0", 0, 4, note="something"))
    assert capfd.readouterr() == ("", "")  # type: ignore[attr-defined]
