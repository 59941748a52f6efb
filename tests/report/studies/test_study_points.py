"""Points averaged over seeds, and whether they contradict their predictions."""

import math

import made
import numpy as np
import pandas as pd
import pytest

from icsbound.records import PointRecord, Record
from icsbound.report.intervals import student


def only(*lines: list[Record]) -> pd.DataFrame:
    return made.studies(made.whole("noise", *lines)).means


def test_a_point_is_the_mean_over_seeds_with_its_interval() -> None:
    lines = made.curve("noise", "lag", "rate 0.1", [1.0, 2.0], lambda x: 10 * x, noise=0.1)
    means = only(lines)
    assert list(means["x"]) == [1.0, 2.0]
    found = student([r.value for r in lines if isinstance(r, PointRecord) and r.x == 2.0])
    assert means["mean"].iloc[1] == pytest.approx(found.mean)
    assert (means["low"].iloc[1], means["high"].iloc[1]) == pytest.approx((found.low, found.high))
    assert list(means["seeds"]) == [5, 5]
    assert list(means["verdict"]) == ["", ""]


def test_points_are_matched_by_their_place_and_not_by_x() -> None:
    lines = [
        line
        for seed in range(5)
        for line in made.curve("noise", "a", "c", [seed + 0.1, seed + 5.0], lambda x: x, noise=0, seeds=[seed])
    ]
    means = only(lines)
    assert list(means["x"]) == pytest.approx([2.1, 7.0])


@pytest.mark.parametrize(
    ("relation", "value", "verdict"),
    [
        ("equal", 1.0, "agrees"),
        ("equal", 1.5, "contradicts"),
        ("equal", 0.5, "contradicts"),
        ("at most", 0.5, "agrees"),
        ("at most", 1.001, "agrees"),  # within what seeds scatter
        ("at most", 1.5, "contradicts"),
        ("at least", 1.5, "agrees"),
        ("at least", 0.5, "contradicts"),
    ],
)
def test_a_point_is_judged_by_its_relation(relation: str, value: float, verdict: str) -> None:
    means = only(made.curve("noise", "a", "c", [1.0, 2.0], lambda x: value, lambda x: 1.0, relation))
    assert list(means["verdict"]) == [verdict, verdict]


def test_what_the_prediction_neglects_does_not_contradict_it() -> None:
    for tolerance, verdict in ((0.0, "contradicts"), (0.1, "agrees")):
        lines = made.curve("noise", "a", "c", [1.0], lambda x: 1.08, lambda x: 1.0, "equal", tolerance=tolerance)
        assert list(only(lines)["verdict"]) == [verdict]


def test_without_scatter_a_miss_decides_by_itself_and_rounding_does_not() -> None:
    for value, verdict in ((1.0 + 1e-12, "agrees"), (1.0 + 1e-6, "contradicts")):
        lines = made.curve(
            "noise", "a", "c", [1.0], lambda x, v=value: v, lambda x: 1.0, "equal", tolerance=1e-9, noise=0
        )
        assert list(only(lines)["verdict"]) == [verdict]


def test_a_prediction_of_zero_is_met_up_to_the_rounding_of_its_figure() -> None:
    small = made.curve("noise", "a", "zero", [1.0], lambda x: 1e-13, lambda x: 0.0, "equal", tolerance=1e-9)
    large = made.curve("noise", "a", "other", [1.0], lambda x: 4.0, lambda x: 4.0, "equal", tolerance=1e-9, noise=0)
    assert list(only(small, large)["verdict"]) == ["agrees", "agrees"]


def test_one_seed_can_agree_and_cannot_contradict() -> None:
    seeds = [0]
    near = made.curve("noise", "a", "near", [1.0], lambda x: 1.0, lambda x: 1.0, "equal", seeds=seeds, noise=0)
    far = made.curve("noise", "a", "far", [1.0], lambda x: 2.0, lambda x: 1.0, "equal", seeds=seeds, noise=0)
    means = only(near, far)
    assert list(means["verdict"]) == ["agrees", "not resolved"]
    assert math.isnan(means["low"].iloc[0])


def test_true_predictions_are_rarely_contradicted_however_many_there_are() -> None:
    """Without the adjustment 2 of 40 points that are right would stand out in every study."""
    g, wrong = np.random.default_rng(0), 0
    for _ in range(12):
        lines = [
            made.curve("noise", "a", "c", range(40), lambda x: 1 + float(g.normal()), lambda x: 1.0, "equal", seeds=[k])
            for k in range(5)
        ]
        wrong += "contradicts" in set(only(*lines)["verdict"])
    assert wrong <= 3


def test_seeds_that_are_missing_are_known() -> None:
    lines = made.whole("noise", made.curve("noise", "a", "c", [1.0], lambda x: x), finished=2)
    found = made.studies(lines)
    assert found.finished["noise"] == [0, 1]
    assert found.missing("noise") == [2, 3, 4]
    # The points of seeds that were cut short count all the same.
    assert list(found.means["seeds"]) == [5]
    assert made.studies(made.whole("noise")).missing("noise") == []
