"""A small run in float64, alone or by each process of a group: ``python two_processes.py OUT ARM STOP`` (STOP: steps,
0 for all).
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from small import config, few_digits

from icsbound.training import loop

# 95 = 5·16 + 15: the last batch of an epoch falls to two processes as 8 and 7 images.
TRAIN = 95


def main(out: Path, arm: str, stop: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch, train=TRAIN)
        counted = iter(range(1, 10**6))
        # Dropout draws for the images a process has, so that it differs from what one process draws.
        made = config(arm=arm, dtype="float64", dropout=0.0, recipe={"epochs": 4})
        with contextlib.suppress(KeyboardInterrupt):
            loop.train(made, out, stop=lambda: next(counted) == stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
