"""What estimates with errors say, in plain numbers: `measure` judges clouds by it, and `report` what records hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from icsbound._check import InputError

Answer: TypeAlias = Literal["moved", "below the floor", "not resolved"]


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error, in the units of the clouds."""

    value: float
    error: float

    def tail(self, least: float = 0.0) -> float:
        """The probability of a value at least this large if the truth were `least`, by the normal approximation."""
        if self.error == 0:
            return 1.0 if self.value <= least else 0.0
        return 0.5 * math.erfc((self.value - least) / self.error / math.sqrt(2))

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g}"


@dataclass(frozen=True)
class HeldOut:
    """Lower bounds of W1 from functions fitted on other inputs; each has an expectation of at most W1."""

    potential: Estimate  # the optimal potential of the other half
    shift: Estimate  # the direction of the other half's mean shift
    norm: Estimate  # the distance from the other half's mean, with the sign of its difference there

    @property
    def p(self) -> float:
        """One-sided p-value of "the laws agree"."""
        return self.p_above(0.0)

    def p_above(self, least: float) -> float:
        """One-sided p-value of "W1 is at most `least`", Bonferroni's over the three functions."""
        return min(1.0, 3 * min(estimate.tail(least) for estimate in (self.potential, self.shift, self.norm)))

    @property
    def best(self) -> Estimate:
        """The one that is farthest above 0 in units of its error (the largest, if there are no errors).

        It is chosen after all three are known, so that its own expectation may exceed W1; `p_above` allows for that.
        """
        three = self.potential, self.shift, self.norm
        return three[int(farthest([one.value for one in three], [one.error for one in three]))]


def farthest(values: Any, errors: Any) -> Any:
    """Which along the last axis lies farthest above 0 in units of its error; the largest, where errors are 0.

    Tails of the normal law would not do: beyond 38 errors they are all 0.
    """
    values, errors = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        above = np.where(values == 0, 0.0, values / errors)
    return np.where(above == above.max(-1, keepdims=True), values, -np.inf).argmax(-1)


def answer(p: float, level: float, value: float, floor: float) -> Answer:
    """What a distance of `value` supports: "moved" by its p-value, or else whether it is above its floor at all."""
    if p <= level:
        return "moved"
    return "below the floor" if value <= floor else "not resolved"


def adjusted(ps: Sequence[float]) -> list[float]:
    """The p-values of all that is judged together, adjusted so that a level keeps the false discovery rate.

    Benjamini and Yekutieli's procedure (`scipy.stats.false_discovery_control`), which allows for any dependence:
    layers of one network and steps of one training are anything but independent.
    """
    try:
        from scipy.stats import false_discovery_control
    except ImportError:
        raise InputError(
            "the false discovery rate needs scipy, which is not installed: pip install 'icsbound[report]'"
        ) from None
    return [float(p) for p in false_discovery_control(ps, method="by")] if len(ps) else []
