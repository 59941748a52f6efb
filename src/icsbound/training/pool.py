"""Runs side by side, each worker a process of its own that trains one run after another.

A worker is ``python -m icsbound.training.worker``. It reads one JSON object a line from its standard input (a run to
train) and writes one a line to its standard output (events, results, failures). When its input ends, because the
parent wants to stop or was killed, it saves the run under way and leaves: so no worker outlives its parent, and no
signal has to reach it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icsbound import records
from icsbound._check import positive_int
from icsbound.training import devices, interrupts, loop
from icsbound.training.config import TrainConfig, usable
from icsbound.training.progress import Event, Progress, quiet

_TELL_EVERY = 0.25  # seconds
_PATIENCE = 120.0  # seconds that a worker has to save its run after it was let go


class Failed(RuntimeError):
    """Some runs failed while others were finished; the message lists them with their reasons."""


@dataclass(frozen=True)
class Task:
    """A run and the folder it is trained in; the network is kept every `snapshots` epochs."""

    config: TrainConfig
    out: Path
    snapshots: int | str | None = None


def default_jobs(tasks: Sequence[Task]) -> int:
    """One worker for each core this process may use; one on an accelerator, which a single run keeps busy."""
    if any(usable(task.config.device) != "cpu" for task in tasks):
        return 1
    return max(1, min(devices.cores(), len(tasks)))


def run(
    tasks: Sequence[Task],
    *,
    jobs: int | None = None,
    progress: Progress = quiet,
    again: str = "the same command",
    finished: Callable[[Task, records.ResultRecord], None] = lambda task, result: None,
) -> list[records.ResultRecord]:
    """Train all `tasks`, `jobs` side by side (default `default_jobs`), and return their results in order.

    Finished runs are not run again; `finished` is called with each result as soon as there is one. Ctrl-C or SIGTERM:
    every run under way writes a checkpoint, then KeyboardInterrupt (or SystemExit 143) says how to go on, by `again`.
    A run that fails does not stop the others: `Failed` is raised when they are done.
    """
    jobs = default_jobs(tasks) if jobs is None else positive_int("jobs", jobs)
    outcomes: dict[int, records.ResultRecord | str] = {}
    trained = _side_by_side(tasks, jobs, progress, again) if jobs > 1 else _in_turn(tasks, progress, again)
    with contextlib.closing(trained):  # at once, also where `finished` raises
        for index, result in trained:
            outcomes[index] = result
            if not isinstance(result, str):
                finished(tasks[index], result)
    return all_results(tasks, outcomes)


def all_results(
    tasks: Sequence[Task], outcomes: Mapping[int, records.ResultRecord | str]
) -> list[records.ResultRecord]:
    """The results in the order of `tasks`. Raises `Failed` where an outcome is the reason why there is none."""
    failures = {index: text for index, text in sorted(outcomes.items()) if isinstance(text, str)}
    if failures:
        reasons = "; ".join(f"{tasks[index].out.name}: {text}" for index, text in failures.items())
        raise Failed(f"{len(failures)} of {len(tasks)} runs failed ({reasons})")
    return [result for index in range(len(tasks)) if not isinstance(result := outcomes[index], str)]


def now_and_then(tell: Progress) -> Progress:
    """`tell`, but of events that only say how far a run is one in a quarter of a second: a bar shows no more."""
    last = 0.0

    def told(event: Event) -> None:
        nonlocal last
        if event.note or event.step >= event.steps or time.monotonic() - last > _TELL_EVERY:
            last = time.monotonic()
            tell(event)

    return told


Outcome = tuple[int, "records.ResultRecord | str"]


def stopped(caught: signal.Signals | None, again: str) -> BaseException:
    """What a caller is told by whose runs were stopped by a signal and saved."""
    if caught == signal.SIGTERM:
        return SystemExit(128 + signal.SIGTERM)
    return KeyboardInterrupt(f"stopped; what was measured is kept; go on with: {again}")


def _named(progress: Progress, name: str) -> Progress:
    return lambda event: progress(dataclasses.replace(event, run=name))


def _in_turn(tasks: Sequence[Task], progress: Progress, again: str) -> Generator[Outcome, None, None]:
    for index, task in enumerate(tasks):
        try:
            show = _named(progress, task.out.name)
            yield index, loop.train(task.config, task.out, progress=show, snapshots=task.snapshots)
        except KeyboardInterrupt:
            raise stopped(signal.SIGINT, again) from None
        except loop.EXPECTED as error:
            yield index, str(error)


class _Worker:
    """A worker process, the index of the task it has, and a thread that forwards what it says."""

    def __init__(self, inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]], jobs: int) -> None:
        cores = os.cpu_count() or 1
        self.task: int | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "icsbound.training.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # Its own session: the terminal's Ctrl-C goes to the parent alone, which then closes the inputs.
            start_new_session=True,
            # A module in the working directory that is named as one of ours or Python's is not to be imported.
            env={"OMP_NUM_THREADS": str(max(1, cores // jobs)), "PYTHONSAFEPATH": "1", **os.environ},
        )
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def _read(self, inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            inbox.put((self, json.loads(line)))
        inbox.put((self, None))

    def give(self, index: int, task: Task) -> None:
        """Hand `task` to the worker."""
        assert self.process.stdin is not None
        self.task = index
        try:
            message = {"config": task.config.to_dict(), "out": str(task.out), "snapshots": task.snapshots}
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died, and the end of its output says so

    def let_go(self) -> None:
        """End the worker's input: it saves the run under way, if any, and leaves."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


def _side_by_side(tasks: Sequence[Task], jobs: int, progress: Progress, again: str) -> Generator[Outcome, None, None]:
    waiting = deque(enumerate(tasks))
    inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    workers: list[_Worker] = []
    try:
        with interrupts.Interrupts() as signals:
            workers += [_Worker(inbox, jobs) for _ in range(min(jobs, len(tasks)))]
            for worker in workers:
                worker.give(*waiting.popleft())
            alive, told = len(workers), False
            while alive:
                if signals.caught is not None and not told:
                    told = True
                    for worker in workers:
                        worker.let_go()
                try:
                    # The wait is short, so that a signal is acted on soon on every system.
                    worker, message = inbox.get(timeout=0.2)
                except queue.Empty:
                    continue
                if message is None:
                    alive -= 1
                    code = worker.process.wait()
                    if worker.task is not None and not told:
                        yield worker.task, f"its process ended with exit code {code}"
                        if waiting:  # the others' work goes on in a fresh worker
                            workers.append(_Worker(inbox, jobs))
                            workers[-1].give(*waiting.popleft())
                            alive += 1
                elif "event" in message:
                    assert worker.task is not None
                    # The folder names a run where arm and seed alone do not.
                    progress(Event(**{**message["event"], "run": tasks[worker.task].out.name}))
                else:
                    index, worker.task = worker.task, None
                    assert index is not None
                    if "stopped" not in message:
                        yield index, message.get("failed") or result_of(message["result"])
                    if waiting and not told:
                        worker.give(*waiting.popleft())
                    else:
                        worker.let_go()
        if signals.caught is not None:
            raise stopped(signals.caught, again)
    finally:
        for worker in workers:
            worker.let_go()  # whatever went wrong here, the runs under way are saved
        for worker in workers:
            try:
                worker.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def result_of(values: dict[str, Any]) -> records.ResultRecord:
    """The result that `values`, a decoded line of records, tell of."""
    record = records.from_dict(values)
    assert isinstance(record, records.ResultRecord)
    return record


def event_line(event: Event) -> str:
    """`event` as a worker writes it."""
    return json.dumps({"event": dataclasses.asdict(event)})
