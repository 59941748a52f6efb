"""How a run tells what it is doing: events to a callable, and a progress bar that is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icsbound._check import InputError


@dataclass(frozen=True)
class Event:
    """The state of a run after a step: `step` of `steps`, the last training loss, the last accuracy where one was
    taken.
    """

    run: str
    step: int
    steps: int
    loss: float | None = None
    accuracy: float | None = None
    note: str = ""  # something the user should read, such as a damaged checkpoint that was passed over


Progress = Callable[[Event], None]


def quiet(event: Event) -> None:
    """The progress that shows nothing."""


class Bar:
    """A bar over all runs with the time left, and a line for each run under way. Use as a context manager; call with
    events.

    `runs` and `steps` are how many runs there will be and how many steps they have together, finished ones included.
    """

    def __init__(self, runs: int, steps: int, *, console: Any = None) -> None:
        try:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        except ModuleNotFoundError:
            raise InputError(
                "the progress bar must have rich, which is not installed; pip install 'icsbound[train]', or be quiet"
            ) from None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._many = runs > 1
        self._all = self._bar.add_task("all runs", total=steps, figures=f"0 of {runs}", visible=self._many)
        self._runs, self._finished = runs, 0
        self._tasks: dict[str, Any] = {}
        self._done: dict[str, int] = {}
        self._accuracy: dict[str, float] = {}
        self._rate: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show `event`."""
        if event.note:
            self._bar.console.print(f"{event.run}: {event.note}")
        if event.run not in self._tasks:
            self._tasks[event.run] = self._bar.add_task(event.run, total=event.steps, figures="")
            self._rate[event.run] = (time.monotonic(), event.step)
        self._bar.advance(self._all, event.step - self._done.get(event.run, 0))
        self._done[event.run] = event.step
        if event.accuracy is not None:
            self._accuracy[event.run] = event.accuracy
        figures = [f"loss {event.loss:.3f}"] if event.loss is not None else []
        figures += [f"accuracy {100 * self._accuracy[event.run]:.1f}%"] if event.run in self._accuracy else []
        since, first = self._rate[event.run]
        if event.step > first:
            figures.append(f"{(event.step - first) / max(1e-9, time.monotonic() - since):.1f} steps/s")
        self._bar.update(self._tasks[event.run], completed=event.step, figures=", ".join(figures))
        if event.step >= event.steps and self._many:
            self._finished += 1
            self._bar.update(self._all, figures=f"{self._finished} of {self._runs}")
            self._bar.update(self._tasks[event.run], visible=False)
