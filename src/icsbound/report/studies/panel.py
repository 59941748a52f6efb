"""What a figure of a study is, and what the readings of several say alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scale = Literal["linear", "log", "symlog", "sqrt"]

MEASURED = "Dots: measured, with 95 % intervals over seeds; lines: predicted (dashed where it is a bound). "


@dataclass(frozen=True)
class Panel:
    """One figure of a study. `kind`: lines over x, dots (a value a curve), or a scatter of two measured values.

    In `split` panels a curve reads "part · curve", and each part has its own small chart. Intervals of a `fraction`
    are drawn within 0 to 1. `setting` says what layers were measured: under which law, and their scope, κ and ε.
    """

    study: str
    name: str
    title: str
    reading: str
    x: str
    y: str
    kind: str = "lines"
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    split: bool = False
    fraction: bool = False
    setting: str = ""
