"""When to measure: a schedule is a plain ``step -> bool``, and the default one keeps to a share of training time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch

from icsbound import _check

Schedule: TypeAlias = int | Literal["budget"] | Callable[[int], bool] | None


class Pace:
    """How long training and measuring take, by the wall clock, all in seconds.

    Whatever lies between two calls of a monitor, data and evaluation included, counts as training.
    """

    def __init__(self) -> None:
        self.training = 0.0  # so far
        self.steps = 0  # that were taken meanwhile
        self.measuring = 0.0  # so far
        self.exact = 0.0  # the last measurement with exact distances
        self._before = (0.0, 0.0)  # training and measuring when that one ended
        self._left: tuple[int, float] | None = None  # the last step, and when it was left

    def enter(self, step: int) -> None:
        """A step of the training has been taken."""
        if self._left is not None:
            self.steps += max(0, step - self._left[0])
            self.training += time.perf_counter() - self._left[1]

    def settle(self) -> None:
        """Wait for what the training has asked of a GPU, so that none of it counts as measuring."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
            start = time.perf_counter()
            torch.cuda.synchronize()
            self.training += time.perf_counter() - start

    def leave(self, step: int) -> None:
        """The training goes on."""
        self._left = (step, time.perf_counter())

    def measured(self, seconds: float, exact: bool) -> float | None:
        """Note a measurement; returns the share of training time since the last exact one, None where none passed."""
        self.measuring += seconds
        training, measuring = self.training - self._before[0], self.measuring - self._before[1]
        if exact:
            self.exact, self._before = seconds, (self.training, self.measuring)
        return measuring / training if training > 0 else None

    @property
    def step(self) -> float | None:
        """The mean time of one training step, None before the first."""
        return self.training / self.steps if self.steps else None

    def state(self) -> list[float]:
        """All of it as numbers, for a checkpoint."""
        return [self.training, self.steps, self.measuring, self.exact, *self._before]

    def load(self, state: list[float]) -> None:
        """Go on from what `state` gave."""
        self.training, steps, self.measuring, self.exact, *before = state
        self.steps, self._before = int(steps), (before[0], before[1])
        self._left = None


class Budget:
    """A schedule under which measuring takes no more than a `share` of the time of the training.

    True at the first step, which is on credit (the training pays for it before the next), and then at every step
    divisible by `interval` that the share still affords. The interval is the least of 1, 2, 5, 10, 20, 50 ... steps
    whose training pays for one measurement, by the times measured so far; it may grow while they settle, and never
    falls. Since it follows the clock, two runs may differ in it: name an interval where runs are to be compared step by
    step.
    """

    def __init__(self, share: float = 0.05) -> None:
        self.share = _check.real("share", share, 0.0, 1.0)
        if share == 0:
            _check.fail("share", "be above 0", share)
        self.interval = 1
        self.pace = Pace()  # the monitor puts its own here

    def __call__(self, step: int) -> bool:
        pace = self.pace
        if not pace.exact:
            return True
        if pace.step is None:
            return False
        if pace.step > 0:
            self.interval = max(self.interval, _round(pace.exact / (self.share * pace.step)))
        affordable = pace.measuring + pace.exact <= self.share * pace.training
        return affordable and step % self.interval == 0


def _round(steps: float) -> int:
    """The least of 1, 2, 5, 10, 20, 50 ... that is not below `steps`."""
    power: int = 10 ** max(0, math.floor(math.log10(max(steps, 1.0))))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= steps)


def schedule(argument: str, every: Schedule, budget: bool = True) -> Callable[[int], bool]:
    """`every` as a function of the step; unless `budget`, one that follows the clock is refused."""
    if every is None:
        return lambda step: False
    if budget and every == "budget":
        return Budget()
    if isinstance(every, Budget):
        if budget:
            return Budget(every.share)  # a monitor's own, since it follows that monitor's times
    elif callable(every):
        return every
    elif isinstance(every, int) and not isinstance(every, bool) and every >= 1:
        interval = every
        return lambda step: step % interval == 0
    right = "a number of steps of at least 1, a function of the step or None"
    return _check.fail(argument, f"be 'budget', {right}" if budget else f"be {right}", every)
