"""How a run tells what it is doing: events to a callable, and a progress bar that is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icsbound._check import InputError


@dataclass(frozen=True)
class Event:
    """The state of a run after a step: `step` of `steps` (0 where that is not known yet), the last training loss, the
    last accuracy where one was taken.
    """

    run: str
    step: int
    steps: int
    loss: float | None = None
    accuracy: float | None = None
    memory: int = 0  # the most that was in use so far, bytes: on the device, or of the process on the CPU
    note: str = ""  # something the user should read, such as a damaged checkpoint that was passed over
    unit: str = "steps"  # what is counted


Progress = Callable[[Event], None]


def quiet(event: Event) -> None:
    """The progress that shows nothing."""


class Bar:
    """A bar over all runs with the time left, and a line for each run under way.

    Use it as a context manager around the training of `runs` runs, and as their `progress`.
    """

    def __init__(self, runs: int = 1, *, console: Any = None) -> None:
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
            speed_estimate_period=120.0,
        )
        self._lines: dict[str, _Line] = {}
        # A run counts 1, however many steps it has: arms of one comparison have equally many.
        self._all = self._bar.add_task("all runs", total=runs, figures=f"0 of {runs}", visible=runs > 1)
        self._runs = runs

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show `event`."""
        if event.note:
            self._bar.console.print(f"{event.run}: {event.note}", highlight=False, markup=False)
        if not event.steps:
            return  # a word about a run that has not begun
        if event.run not in self._lines:
            task = self._bar.add_task(event.run, total=event.steps, figures="")
            self._lines[event.run] = _Line(task, time.monotonic(), event.step)
        line = self._lines[event.run]
        if event.accuracy is not None:
            line.accuracy = event.accuracy
        self._bar.advance(self._all, (event.step - line.step) / event.steps)
        line.step = event.step
        self._bar.update(line.task, completed=event.step, figures=line.figures(event))
        if event.step >= event.steps and self._runs > 1:
            finished = sum(self._bar.tasks[other.task].finished for other in self._lines.values())
            self._bar.update(line.task, visible=False)
            self._bar.update(self._all, figures=f"{finished} of {self._runs}")


@dataclass
class _Line:
    task: Any
    since: float
    first: int  # the step at which the run was first seen
    step: int = 0
    accuracy: float | None = None

    def figures(self, event: Event) -> str:
        parts = [f"loss {event.loss:.3f}"] if event.loss is not None else []
        parts += [f"accuracy {self.accuracy:.1%}"] if self.accuracy is not None else []
        if event.step > self.first:
            parts.append(f"{(event.step - self.first) / max(1e-9, time.monotonic() - self.since):.1f} {event.unit}/s")
        parts += [f"{event.memory / 2**20:,.0f} MiB"] if event.memory else []
        return ", ".join(parts)
