"""Means over seeds with Student intervals, and Holm's adjustment of many p-values: what needs numpy and scipy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95
Values: TypeAlias = "Sequence[float] | np.ndarray | pd.Series"


@dataclass(frozen=True)
class Interval:
    """The mean of `count` values, one a seed, and its Student t interval at 95 % (NaN where there is none)."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def known(self) -> bool:
        return self.high > self.low

    def verdict(self, null: float = 0.0) -> str:
        """`higher` or `lower` than `null` where the interval says so, else `not resolved`."""
        if self.known and self.low > null:
            return "higher"
        if self.known and self.high < null:
            return "lower"
        return "not resolved"

    def scaled(self, factor: float) -> Interval:
        """The interval of `factor` (> 0) times what this is of."""
        return Interval(factor * self.mean, factor * self.low, factor * self.high, self.count)

    def exp(self) -> Interval:
        """The interval of a ratio whose logarithm this is."""
        return Interval(math.exp(self.mean), math.exp(self.low), math.exp(self.high), self.count)


def student(values: Values) -> Interval:
    """Mean and 95 % interval ``mean ± t(n-1) · s / √n`` of independent values."""
    array = np.asarray(values, dtype=float)
    count = len(array)
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(array.mean())
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * array.std(ddof=1) / math.sqrt(count))
    # Differences that agree to rounding have no spread to judge by.
    half = half if half > 1e-12 * max(1.0, abs(mean)) else math.nan
    return Interval(mean, mean - half, mean + half, count)


def p_value(values: Values) -> float:
    """Two-sided p of Student's test that the mean is 0; 1 where the values do not allow one."""
    interval = student(values)
    if not interval.known:
        return 1.0
    error = (interval.high - interval.mean) / float(stats.t.ppf((1 + LEVEL) / 2, interval.count - 1))
    return float(2 * stats.t.sf(abs(interval.mean) / error, interval.count - 1))


def bootstrap(values: Values, draws: int = 9999) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of the mean, values drawn again with replacement from a fixed seed.

    With few values it is too narrow: a check of Student's interval, not a substitute.
    """
    array = np.asarray(values, dtype=float)
    means = np.random.default_rng(0).choice(array, (draws, len(array))).mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: the k-th smallest of m times m - k + 1, made monotone and at most 1."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted
