"""Bookkeeping of claimed inequalities: how often each was tried, and the worst violation found."""

from __future__ import annotations

import math
from collections import defaultdict


class Ledger:
    """Collects claims ``left <= right``. A violation is relative to the larger side, beyond a rounding allowance.

    Claims that nothing could violate, since `right` is infinite or `left` no more than rounding, are not counted.
    """

    def __init__(self) -> None:
        self.count: dict[str, int] = defaultdict(int)
        self.worst: dict[str, float] = defaultdict(float)
        self.where: dict[str, str] = {}

    def claim(self, name: str, left: float, right: float, rounding: float, label: str = "") -> None:
        assert not math.isnan(left), (name, label)
        assert not math.isnan(right), (name, label)
        if right == math.inf:
            return
        self.count[name] += left > rounding
        violation = max(0.0, left - right - rounding) / max(abs(left), abs(right), 1e-290)
        if violation > self.worst[name]:
            self.worst[name], self.where[name] = violation, label

    @property
    def total(self) -> int:
        return sum(self.count.values())

    def violated(self, tolerance: float = 1e-9) -> dict[str, tuple[float, str]]:
        return {name: (worst, self.where[name]) for name, worst in self.worst.items() if worst > tolerance}
