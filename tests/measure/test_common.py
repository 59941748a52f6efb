"""Shared and repeated points: what is left of two clouds without them, and that the distance stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import distances, draw
from scipy.optimize import linear_sum_assignment

from icsbound import _native
from icsbound.measure import assignment, common, cost
from icsbound.measure.certificate import certify
from icsbound.measure.emd import emd

native = pytest.mark.skipif(_native.library() is None, reason="no native library was built here")


def resampled(g: np.random.Generator, n: int, d: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Two clouds of n rows drawn with repetition from few points, some of which both clouds share."""
    a, b, label = draw(g, n, d)
    few = max(1, int(n * g.choice([0.1, 0.3, 0.7])))
    shared = int(g.integers(0, few + 1))
    pool = torch.cat([a[:shared], b[shared:few]])
    paired = bool(g.integers(2))
    at = g.integers(few, size=n)
    moved = np.where(g.random(n) < 0.7, at, g.integers(few, size=n)) if paired else g.integers(few, size=n)
    return a[at], pool[moved], f"{label}, {few} points, {shared} of them shared"


def fuzz(cases: int, seed: int) -> int:
    """The cases in which shared points were left in place."""
    g = np.random.default_rng(seed)
    used = 0
    for _ in range(cases):
        a, b, label = resampled(g, int(g.choice([2, 3, 5, 20, 60, 130])), int(g.choice([2, 3, 8])))
        c = distances(a, b)
        right, result = float(c[linear_sum_assignment(c)].mean()), emd(a, b)
        assert result.value == pytest.approx(right, rel=1e-9, abs=1e-14 * result.scale), label
        assert result.certified, label
        assert result.matching is not None
        assert sorted(result.matching.tolist()) == list(range(len(a))), label
        # What the certificate promises: an entry of the matrix may be off by 1e-10 of itself (see `cost.NEAR`).
        slack = torch.from_numpy((1 + 1e-9) * c) - result.u[:, None] - result.v
        assert float(slack.min()) >= -1e-15 * result.scale, label
        used += "stay in place" in result.estimator
    return used


@native
def test_equals_scipy_where_points_are_repeated_and_shared() -> None:
    assert fuzz(200, seed=0) > 60


@native
@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_equals_scipy_on_ten_thousand_clouds_of_repeated_points(seed: int) -> None:
    assert fuzz(1000, seed=200 + seed) > 300


def test_what_is_left_is_the_difference_of_the_clouds() -> None:
    g = np.random.default_rng(1)
    for n in (1, 2, 17, 300):
        of_a, of_b = (torch.from_numpy(g.integers(max(1, n // 3), size=n)) for _ in range(2))
        left = common.without_common(of_a, of_b)
        stay = torch.nonzero(left.matching >= 0)[:, 0]
        assert torch.equal(of_a[stay], of_b[left.matching[stay]])  # matched rows are of one point
        assert sorted([*stay.tolist(), *left.rows.tolist()]) == list(range(n))
        assert sorted([*left.matching[stay].tolist(), *left.columns.tolist()]) == list(range(n))
        assert not set(of_a[left.rows].tolist()) & set(of_b[left.columns].tolist())  # no more can be taken out
        both = len(set(left.rows.tolist()) & set(left.columns.tolist()))
        assert torch.equal(left.rows[:both], left.columns[:both])  # pairs of one input stay on the diagonal


def test_clouds_of_the_same_points_in_another_order_are_at_distance_zero() -> None:
    a = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    b = a[torch.randperm(120, generator=torch.Generator().manual_seed(1))]
    result = emd(a, b)
    assert result.value == result.gap == 0.0
    assert torch.equal(a, b[result.matching])


@native
def test_repeated_points_that_are_not_shared_take_no_second_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are told which of them are one point, and the matrix is assigned as it lies."""
    g, numbered, assign = torch.Generator().manual_seed(4), [], assignment.assign

    def seen(matrix: torch.Tensor, *arguments: object) -> assignment.Assignment:
        numbered.append((matrix.data_ptr(), arguments[-1]))
        return assign(matrix, *arguments)

    monkeypatch.setattr(assignment, "assign", seen)
    a, b = (torch.randn(40, 3, generator=g, dtype=torch.float64).repeat(3, 1) + shift for shift in (0, 1))
    pair = cost.pair(a, b)
    matrix = cost.matrix(pair)
    found = assignment.solve(matrix, torch.zeros(120).double(), pair=pair)
    assert found.solver == "lazy assignment"
    assert found.value == pytest.approx(float(matrix.numpy()[linear_sum_assignment(matrix)].mean()), rel=1e-12)
    (at, points), *others = numbered
    assert not others
    assert at == matrix.data_ptr()
    assert sorted(points.bincount().tolist()) == [3] * 40


def test_equal_sums_are_not_taken_for_equal_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "GOLDEN", 0.0)  # all weights are equal: (1, 2) and (2, 1) have the same sum
    a = torch.tensor([[1.0, 2], [2, 1], [1, 2], [0, 0]]).repeat(5, 1)
    of_a, of_b = common.repeated(cost.pair(a, a)) or (None, None)
    assert of_a is not None
    assert torch.equal(of_a, of_b)
    assert len({tuple(row) for row in zip(of_a.tolist(), a[:, 0].tolist(), strict=True)}) == len(of_a.unique()) == 3


def test_points_of_many_columns_are_told_apart_by_all_of_them() -> None:
    """A part of the columns is looked at first: there all points agree, some, or none."""
    step, d = 3, 3 * common.SAMPLE
    g = torch.Generator().manual_seed(0)
    wide = torch.randn(20, d, generator=g, dtype=torch.float64)
    assert common.repeated(cost.pair(wide, wide + 1)) is None
    flat = wide.clone()
    flat[:, ::step] = 0
    assert common.repeated(cost.pair(flat, flat + wide[:1])) is None
    pair = cost.pair(flat, flat.roll(5, 0))
    numbers = common.repeated(pair)
    assert numbers is not None
    of_a, of_b = numbers
    assert torch.equal(of_a.roll(5), of_b)
    assert len(of_a.unique()) == 20


def test_different_points_are_left_alone() -> None:
    a, b = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    assert common.repeated(cost.pair(a, b)) is None
    zeros = common.repeated(cost.pair(torch.tensor([[0.0], [-0.0]]), torch.tensor([[-0.0], [0.0]])))
    assert zeros is not None  # 0 and -0 are one point
    assert len(torch.cat(zeros).unique()) == 1


def test_potentials_are_carried_over_without_loss() -> None:
    g = np.random.default_rng(2)
    for _ in range(20):
        a, b, label = resampled(g, 40, 3)
        c = torch.from_numpy(distances(a, b))
        of = torch.unique(torch.cat([a, b]), dim=0, return_inverse=True)[1]
        left = common.without_common(of[:40], of[40:])
        if not len(left.rows):
            continue
        part = c[left.rows[:, None], left.columns]
        plan = assignment._by_simplex(part)
        proof = common.carried_over(c, left, plan.certificate.v)
        assert proof.lower * 40 == pytest.approx(plan.certificate.lower * len(part), rel=1e-9, abs=1e-12), label


@native
def test_rows_of_one_point_are_reached_once_and_nothing_changes() -> None:
    g = np.random.default_rng(3)
    for n in (30, 200, 500):
        a, b = (np.maximum(np.round(g.normal(size=(n, 3)) + shift, 1 if n > 100 else 0), 0) for shift in (0, 0.5))
        c = torch.from_numpy(distances(torch.from_numpy(a), torch.from_numpy(b)))
        points = torch.from_numpy(np.unique(a, axis=0, return_inverse=True)[1].reshape(-1))
        assert len(points.unique()) < n
        start, paired = certify(c, torch.zeros(n).double()), float(c.diagonal().mean())
        plain, merged = (
            assignment._lazily(_native.library(), c, start, paired, 1e-13 * paired, p) for p in (None, points)
        )
        assert plain is not None
        assert merged is not None
        assert merged.value == pytest.approx(plain.value, rel=1e-12)
        assert abs(merged.gap) <= 1e-12 * merged.value
