"""Ctrl-C and SIGTERM between two steps instead of inside one, and a lock that dies with its process."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from icsbound._check import InputError


class Interrupts:
    """While entered, the first SIGINT or SIGTERM is kept in `caught` for the loop to act on; a second SIGINT stops at
    once.

    Outside the main thread, where Python delivers no signals, nothing is caught.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; the last checkpoint stands")
        self.caught = signal.Signals(number)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # What is ignored (SIGINT in a worker whose parent decides) stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


@contextlib.contextmanager
def only_here(folder: Path, patience: float = 5.0) -> Iterator[None]:
    """Hold `folder` for this process. The kernel lets go when the process ends, however it ends, so no stale lock
    remains.

    Waits `patience` seconds for a process that is just ending; then raises InputError.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none; there two runs in one folder are the user's to avoid
        yield
        return
    path = folder / ".lock"
    try:
        file = open(path, "w")  # noqa: SIM115  (held open for as long as the lock is)
    except OSError as error:
        raise InputError(f"out must be a folder that can be written, got {str(folder)!r}: {error.strerror}") from None
    with file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise InputError(f"{folder} is in use by another process that is still running") from None
                time.sleep(0.05)
        yield
