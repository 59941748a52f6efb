"""What a run says while it is under way: records to its file, scalars to a tracker, and how far it is to a callable."""

from __future__ import annotations

from pathlib import Path

from icsbound import records
from icsbound._check import InputError
from icsbound.records import EpochRecord
from icsbound.training import devices
from icsbound.training.progress import Event, Progress
from icsbound.training.session import Session
from icsbound.training.tracking import Tracker


class Journal:
    """The journal of `session` in folder `out`. In a process group the first process alone writes and speaks."""

    def __init__(self, session: Session, out: Path, progress: Progress, tracker: str | None) -> None:
        self.session, self.out, self._progress, self._name = session, out, progress, tracker
        self._writer: records.Writer | None = None
        self._tracker: Tracker | None = None

    def open(self, step: int, offset: int) -> None:
        """Begin, or go on after `step` with the records as far as `offset`."""
        if not self.session.main:
            return
        self._writer = records.Writer(self.out / "records.jsonl", offset=offset)
        if self._name is not None:
            self._tracker = Tracker(self._name, self.session.config, self.out, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._tracker is not None:
            self._tracker.close()

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files."""
        return self._writer is not None

    def write(self, *lines: records.Record) -> None:
        """Append `lines` to the records. Raises InputError where the disk is full."""
        if self._writer is None:
            return
        try:
            for line in lines:
                self._writer.write(line)
        except OSError as error:
            raise InputError(
                f"{self.out / 'records.jsonl'} cannot be written: {error.strerror}; what was measured is kept, and "
                f"the run goes on with: icsbound train --resume {self.out}"
            ) from None
        if self._tracker is not None:
            self._tracker.captured(lines)
            for line in lines:
                if isinstance(line, EpochRecord):
                    self._tracker.epoch(line, self.session.plain)

    def sync(self) -> int:
        """Force the records to the disk; returns how long they are."""
        assert self._writer is not None
        self._writer.sync()
        return self._writer.offset

    def track(self, step: int, loss: float | None) -> None:
        """Tell the tracker of an optimizer step that was taken."""
        if self._tracker is not None:
            self._tracker.step(step, loss, self.session.optimizer.param_groups[0]["lr"])

    def step(self, step: int, loss: float | None, accuracy: float | None) -> None:
        """Tell of an optimizer step that is done with, also with what belongs to it."""
        if not self.session.main:
            return
        memory = devices.peak_memory(self.session.accelerator.device)
        self._progress(Event(self.session.config.run, step, self.session.steps, loss, accuracy, memory=memory))

    def note(self, step: int, text: str) -> None:
        """Tell what the user should read."""
        if self.session.main:
            self._progress(Event(self.session.config.run, step, self.session.steps, note=text))
