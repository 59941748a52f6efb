"""A small run that kills itself with SIGKILL at a chosen moment: ``python killed.py OUT MOMENT COUNT``.

MOMENT is where: "step" (inside a step, the optimizer not yet done), "record" (half a line of it written), "fsync" (a
checkpoint, the config or the model written beside its place and not yet safe), "replace" (safe, not yet in its place)
or "none". COUNT is at which of these it happens, from 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import config, few_digits

from icsbound import records
from icsbound.training import loop

EVERY = 2  # steps between two checkpoints


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at(count: int, act: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """`original`, but with `act` (given the same arguments) before its `count`-th call."""
    calls = iter(range(1, 10**6))

    def counted(*args: Any, **options: Any) -> Any:
        if next(calls) == count:
            act(*args, **options)
            kill()
        return original(*args, **options)

    return counted


def half_a_line(writer: Any, record: records.Record) -> None:
    line = records.to_line(record).encode()
    writer._file.write(line[: len(line) // 2])
    writer._file.flush()


def nothing(*_: Any, **__: Any) -> None:
    pass


def main(out: Path, moment: str, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        if moment == "step":
            patch.setattr(torch.optim.SGD, "step", at(count, nothing, torch.optim.SGD.step))
        elif moment == "record":
            patch.setattr(records.Writer, "write", at(count, half_a_line, records.Writer.write))
        elif moment in ("fsync", "replace"):
            patch.setattr(os, moment, at(count, nothing, getattr(os, moment)))
        loop.train(config(), out, checkpoint_every=EVERY)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
