import io

from rich.console import Console

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


def test_quiet_shows_nothing(capfd: object) -> None:
    quiet(Event("bn-seed0", 0, 4, note="something"))
    assert capfd.readouterr() == ("", "")  # type: ignore[attr-defined]
