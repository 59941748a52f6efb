"""Numbers as the page writes them."""

from __future__ import annotations

import math

import pytest

from icsbound.report import wording
from icsbound.report.statistics import Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (-0.25, "−0.250"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (999.9, "1,000"),
        (1e-4, "0.000100"),
        (3.2e-13, "3.2 × 10⁻¹³"),
        (-5e9, "−5.0 × 10⁹"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert wording.number(value) == text


def test_signed_and_percent() -> None:
    assert wording.signed(0.5) == "+0.50"
    assert wording.signed(-0.004) == "0.00"  # no minus before a zero
    assert wording.percent(0.9625) == "96.2 %"


@pytest.mark.parametrize(("value", "text"), [(1, "1 run"), (2, "2 runs"), (0, "0 runs"), (1234, "1,234 runs")])
def test_count(value: int, text: str) -> None:
    assert wording.count(value, "run") == text


def test_listed() -> None:
    assert wording.listed([]) == ""
    assert wording.listed(["a"]) == "a"
    assert wording.listed(["a", "b", "c"]) == "a, b and c"
    assert wording.listed(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"


def test_intervals() -> None:
    known = Interval(0.5, 0.25, 1.5, 3)
    assert wording.times(known) == "0.50 times (95 % interval 0.25 to 1.50)"
    assert wording.points(known) == "+50.00 points (95 % interval +25.00 to +150.00)"
    assert wording.change(known, " %", 2) == " (95 % interval 0.25 to 1.5 %)"
    assert wording.times(Interval(0.004, math.nan, math.nan, 1)) == "0.0040 times (one seed: no interval)"
    assert wording.change(Interval(1, math.nan, math.nan, 3)) == " (the same at every seed: no interval)"
    assert wording.times(Interval(math.nan, math.nan, math.nan, 0)) == "– times (no pair of finished runs)"


def test_an_end_is_never_rounded_onto_the_null() -> None:
    assert wording.times(Interval(1.1, 1.001, 1.2, 3)) == "1.10 times (95 % interval 1.001 to 1.200)"
    assert wording.times(Interval(1.2, 0.99996, 1.5, 3)) == "1.20 times (95 % interval 0.99996 to 1.50000)"
    assert wording.points(Interval(0.01, 0.00004, 0.02, 3)) == "+1.00 points (95 % interval +0.004 to +2.000)"
