"""Every bound of two clouds against exact W1 (scipy's) on adversarial families, and statements that must be refuted."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from clouds import distances, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import Ledger
from scipy.linalg import hadamard
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

from icsbound._check import InputError
from icsbound.measure import bounds, cost
from icsbound.measure.emd import emd

Tensor = torch.Tensor


def exact(a: Tensor, b: Tensor) -> float:
    """W1 by scipy, at unit scale."""
    c = distances(a, b)
    if len(a) == len(b):
        i, j = linear_sum_assignment(c)
        return float(c[i, j].mean())
    return emd(a, b).value  # verified against POT in test_emd


def magnitude(a: Tensor, b: Tensor) -> float:
    """What rounding errors are proportional to: the clouds' norms about one of their points."""
    return float((a - a[0]).norm(dim=1).mean() + (b - a[0]).norm(dim=1).mean())


def orthonormal(g: np.random.Generator, d: int) -> Tensor:
    return torch.from_numpy(np.linalg.qr(g.normal(size=(d, d)))[0])


def verify_pair(book: Ledger, g: np.random.Generator, a: Tensor, b: Tensor, unit: float, label: str) -> None:
    """All bounds of one pair; the bounds see the clouds times `unit`, W1 is computed without it."""
    w1, rounding = exact(a, b), 1e-13 * magnitude(a, b) + 1e-15 * float(a.abs().max() + b.abs().max())
    d = a.shape[1]
    x, y = a * unit, b * unit

    def lower(name: str, value: float) -> None:
        book.claim(name, value / unit, w1, rounding, label)

    def upper(name: str, value: float) -> None:
        book.claim(name, w1, value / unit, rounding, label)

    for bound in bounds.bracket(x, y).bounds:
        (lower if bound.side == "lower" else upper)(bound.name, bound.value)
    centre = x[0] + torch.from_numpy(g.normal(size=d)) * magnitude(a, b) * unit
    away = float((centre / unit - a[0]).norm()) * 1e-13
    book.claim("radius about a point", w1, bounds.radius(x, y, centre) / unit, rounding + away, label)
    book.claim("norms about a point", bounds.norms(x, y, centre) / unit, w1, rounding + away, label)
    reach = float((a - a.mean(0)).norm(dim=1).max()) * unit
    for power in (1.0, 1.5, 2.0, 4.0, 10.0):
        cut = (reach or unit) * 10 ** g.uniform(-4, 1)
        lower("truncated moment", bounds.truncated_moment(x, y, power, cut))
        moment = bounds.truncated_moment(x, y, power, cut, centre) / unit
        book.claim("truncated moment <= norms", moment, bounds.norms(x, y, centre) / unit, rounding + away, label)
        lower("untruncated moment", bounds.untruncated_moment(x, y, power, power + float(g.choice([0.5, 1, 2, 4]))))
    basis = orthonormal(g, d)
    lower("marginals of a random basis", bounds.marginals(x, y, basis))
    if d > 1:
        cut_at = int(g.integers(1, d))
        lower("blocks", bounds.blocks(x, y, [cut_at, d - cut_at]))
    for smaller, larger in (
        (bounds.mean_shift, bounds.marginals),
        (bounds.independent_coupling, bounds.independent),
        (bounds.nearest_neighbour, bounds.independent_coupling),
    ):
        name = f"{smaller.__name__} <= {larger.__name__}"
        book.claim(name, smaller(x, y) / unit, larger(x, y) / unit, rounding, label)


def verify(cases: int, seed: int) -> Ledger:
    book, g = Ledger(), np.random.default_rng(seed)
    for _ in range(cases):
        n, d = int(g.choice([1, 2, 3, 5, 8, 16, 40])), int(g.choice([1, 2, 3, 5, 10, 33]))
        a, b, label = draw(g, n, d)
        if g.random() < 0.2:
            b = b[: int(g.integers(1, n + 1))]
        verify_pair(book, g, a, b, 10.0 ** float(g.choice([0, 0, -100, 100, -7, 7, -200, 200])), label)
    return book


def test_no_bound_is_violated() -> None:
    book = verify(330, seed=0)
    assert book.total >= 5_000
    assert min(book.count.values()) >= 100
    assert book.violated() == {}


def test_only_claims_that_could_fail_are_counted() -> None:
    book = Ledger()
    for left, right, rounding in ((1.0, math.inf, 0.0), (1e-9, 1.0, 1e-8), (0.5, 1.0, 0.0)):
        book.claim("any", left, right, rounding)
    assert book.total == 1


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_no_bound_is_violated_in_fifty_thousand_evaluations(seed: int) -> None:
    book = verify(330, seed=1000 + seed)
    assert book.total >= 5_000
    assert book.violated() == {}


finite = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)


@st.composite
def two_clouds(draw_value: st.DrawFn) -> tuple[Tensor, Tensor]:
    n, d = draw_value(st.integers(1, 5)), draw_value(st.integers(1, 3))
    rows = st.lists(st.lists(finite, min_size=d, max_size=d), min_size=n, max_size=n)
    a, b = (torch.tensor(draw_value(rows), dtype=torch.float64) for _ in range(2))
    return a, b


@given(two_clouds(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_bound_is_violated_on_chosen_numbers(clouds: tuple[Tensor, Tensor], seed: int) -> None:
    book = Ledger()
    verify_pair(book, np.random.default_rng(seed), *clouds, 1.0, "hypothesis")
    assert book.violated() == {}


# ------------------------------------------------------------------------------- statements the harness must refute


def gelbrich(a: Tensor, b: Tensor) -> float:
    """The distance between Gaussians of the same moments: at most W2, no bound of W1."""

    def root(s: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(s)
        return vectors * values.clamp_min(0).sqrt() @ vectors.T

    s, t = (torch.cov(z.T, correction=0).reshape(z.shape[1], -1) for z in (a, b))
    r = root(s)
    traces = s.trace() + t.trace() - 2 * root(r @ t @ r).trace()
    return math.sqrt(max(0.0, float((a.mean(0) - b.mean(0)).square().sum() + traces)))


def own_mean_radius(a: Tensor, b: Tensor) -> float:
    """The spread of both clouds about their own means, without the shift between them."""
    return float((a - a.mean(0)).norm(dim=1).mean() + (b - b.mean(0)).norm(dim=1).mean())


FALSE = {
    "W1 <= Gelbrich": lambda a, b: (exact(a, b), gelbrich(a, b)),
    "Gelbrich <= W1": lambda a, b: (gelbrich(a, b), exact(a, b)),
    "W1 <= mean shift": lambda a, b: (exact(a, b), bounds.mean_shift(a, b)),
    "paired <= W1": lambda a, b: (bounds.paired(a, b), exact(a, b)),
    "W1 <= radius about own means": lambda a, b: (exact(a, b), own_mean_radius(a, b)),
    "sum of marginals <= W1": lambda a, b: (
        sum(wasserstein_distance(a[:, j], b[:, j]) for j in range(a.shape[1])),
        exact(a, b),
    ),
    "moment of power 1/2 <= W1": lambda a, b: (
        2 * abs(float((a.norm(dim=1) ** 0.5).mean() - (b.norm(dim=1) ** 0.5).mean())),
        exact(a, b),
    ),
}


@pytest.mark.parametrize("statement", FALSE)
def test_false_statements_are_refuted(statement: str) -> None:
    book, g = Ledger(), np.random.default_rng(5)
    for _ in range(150):
        a, b, label = draw(g, int(g.integers(3, 20)), int(g.integers(2, 5)))
        if "offset" not in label and "columns" not in label:
            book.claim(statement, *FALSE[statement](a, b), rounding=1e-9 * magnitude(a, b), label=label)
    assert statement in book.violated()


# ------------------------------------------------------------------------------------------- extremal examples


@pytest.mark.parametrize("d", [2, 4, 8, 16, 32, 64])
def test_independent_bound_is_asymptotically_attained_with_all_moments_equal(d: int) -> None:
    """Signed Hadamard rows against scaled signed axes: equal means, covariances and norms, W1 = sqrt(2d - 2 sqrt d)."""
    h = torch.from_numpy(hadamard(d).astype(float))
    a = torch.cat([h, -h])
    b = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    w1 = emd(a, b).value
    assert w1 == pytest.approx(math.sqrt(2 * d - 2 * math.sqrt(d)), rel=1e-12)
    assert bounds.independent(a, b) == pytest.approx(math.sqrt(2 * d), rel=1e-12)
    assert max(bounds.mean_shift(a, b), bounds.norms(a, b), gelbrich(a, b) if d < 10 else 0) < 1e-6
    g = np.random.default_rng(d)
    for _ in range(3):  # and with any traces and mean shift
        s, t, shift = g.uniform(0.1, 5, size=3)
        x = torch.cat([s * a / math.sqrt(d), torch.zeros(2 * d, 1).double()], 1)
        y = torch.cat([t * b / math.sqrt(d), torch.full((2 * d, 1), shift, dtype=torch.float64)], 1)
        right = math.sqrt(s**2 + t**2 + shift**2 - 2 * s * t / math.sqrt(d))
        assert emd(x, y).value == pytest.approx(right, rel=1e-12)
        assert bounds.independent(x, y) == pytest.approx(math.sqrt(s**2 + t**2 + shift**2), rel=1e-12)


GOLDEN = (1 + math.sqrt(5)) / 2


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_mirrored_two_point_laws_differ_in_odd_moments_only(d: int) -> None:
    """iid {1/h w.p. p, -h w.p. 1-p} and its mirror image, p = (3 - sqrt 5)/4: W1 >= 4 φ^(-5/2) sqrt(d)."""
    p = (3 - math.sqrt(5)) / 4
    h = math.sqrt(p / (1 - p))
    up = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * d).reshape(-1, d)
    atoms = up / h - (1 - up) * h
    mass = (up * p + (1 - up) * (1 - p)).prod(1)
    w1 = emd(atoms, -atoms, weights_a=mass, weights_b=mass).value
    assert float(mass @ atoms.square()[:, 0]) == pytest.approx(1, rel=1e-12)
    assert abs(float(mass @ atoms[:, 0])) < 1e-12
    least = 4 * GOLDEN**-2.5 * math.sqrt(d)
    assert w1 >= least * (1 - 1e-12)
    assert w1 <= math.sqrt(2 * d)
    if d == 1:
        assert w1 == pytest.approx(4 * (1 - 2 * p) * h, rel=1e-12)
        assert w1 == pytest.approx(least, rel=1e-12)  # the best p
        for q in (0.5 * p, 0.9 * p, 1.1 * p, 0.45):
            assert 4 * (1 - 2 * q) * math.sqrt(q / (1 - q)) < least


def test_kurtosis_alone_separates() -> None:
    """Rademacher against {0, ±4} with P(±4) = 1/32: equal first two moments, W1 = 9/8 on the line."""
    signs = torch.tensor([-1.0, 1.0]).double().repeat(16)[:, None]
    rare = torch.cat([torch.tensor([-4.0, 4.0]), torch.zeros(30)]).double()[:, None]
    assert float(rare.var(correction=0)) == pytest.approx(1)
    assert emd(signs, rare).value == pytest.approx(1.125, rel=1e-12)
    assert bounds.marginals(signs, rare) == pytest.approx(1.125, rel=1e-12)
    assert bounds.marginals(signs.repeat(1, 9), rare.repeat(1, 9)) == pytest.approx(3 * 1.125, rel=1e-12)
    # In the plane, with independent coordinates: every atom of the two laws with its weight.
    signs, rare = (torch.tensor(z).double() for z in ([-1.0, 1.0], [-4.0, 0.0, 4.0]))
    mass = torch.tensor([1, 30, 1]).double() / 32
    atoms = (torch.cartesian_prod(z, z) for z in (signs, rare))
    w1 = emd(*atoms, weights_b=torch.cartesian_prod(mass, mass).prod(1)).value
    assert 1.125 * math.sqrt(2) * (1 - 1e-12) <= w1 <= math.sqrt(2 * 2)


# --------------------------------------------------------------------------------------------- the rest of the promises


def test_bracket_names_the_tightest_and_leaves_out_what_does_not_apply() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(60, 5, generator=g)
    b = a + 0.01 * torch.randn(60, 5, generator=g)
    found = bounds.bracket(a, b)
    assert found.upper.name == "paired"
    assert found.upper.value == bounds.paired(a, b)
    assert found.lower.name in ("dual", "nearest_neighbour")
    assert found.lower.value <= emd(a, b).value * (1 + 1e-12) <= found.upper.value * (1 + 2e-12)
    names = {bound.name for bound in found.bounds}
    assert names == {name for name, one in vars(bounds).items() if hasattr(one, "__signature__")} - {"blocks"}
    assert {"independent", "radius", "truncated_moment", "untruncated_moment", "max_sliced", "dual"} <= names
    cheap = {bound.name for bound in bounds.bracket(a, b, quadratic=False).bounds}
    assert names - cheap == {"independent_coupling", "nearest_neighbour", "dual"}
    assert {bound.name for bound in bounds.bracket(a, b[:50]).bounds} == names - {"paired", "paired_rms"}


def test_bounds_by_blocks_of_rows_are_those_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(50, 3, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    c = distances(a, b)
    monkeypatch.setattr(cost, "BLOCK_BYTES", 7 * 8 * 40)
    assert bounds.independent_coupling(a, b) == pytest.approx(c.mean(), rel=1e-12)
    assert bounds.nearest_neighbour(a, b) == pytest.approx(max(c.min(0).mean(), c.min(1).mean()), rel=1e-12)


def test_a_limit_is_passed_on_to_what_holds_the_matrix() -> None:
    a = torch.randn(20, 2)
    assert "dual" in {bound.name for bound in bounds.bracket(a, a + 1, max_bytes=3200).bounds}
    for call in (lambda: bounds.bracket(a, a, max_bytes=3199), lambda: bounds.dual(a, a, max_bytes=3199)):
        with pytest.raises(InputError, match="max_bytes must be at least 3,200 for the cost matrix of 20 x 20 rows"):
            call()


def test_max_sliced_finds_the_one_direction_that_moved() -> None:
    g = torch.Generator().manual_seed(1)
    direction = torch.nn.functional.normalize(torch.randn(20, generator=g, dtype=torch.float64), dim=0)
    a = torch.randn(400, 20, generator=g, dtype=torch.float64)
    b = a + (2 * (a @ direction))[:, None] * direction  # spread along one direction tripled, mean kept
    w1 = emd(a, b).value
    assert bounds.max_sliced(a, b) == pytest.approx(w1, rel=1e-6)
    assert bounds.marginals(a, b) < 0.9 * w1


def test_moments_by_default_cut_nothing_off() -> None:
    g = torch.Generator().manual_seed(2)
    a = torch.randn(50, 4, generator=g, dtype=torch.float64)
    b = 2 * torch.randn(50, 4, generator=g, dtype=torch.float64)
    centre = torch.cat([a, b]).mean(0)
    x, y = ((z - centre).norm(dim=1) for z in (a, b))
    largest = float(torch.maximum(x.max(), y.max()))
    right = float((y.square().mean() - x.square().mean()) / (2 * largest))
    assert bounds.truncated_moment(a, b) == pytest.approx(right, rel=1e-12)
    assert bounds.truncated_moment(a, b, 2.0, largest) == pytest.approx(right, rel=1e-12)
    assert bounds.untruncated_moment(a, b) == bounds.untruncated_moment(a, b, 2.0, 4.0) > 0
    assert bounds.truncated_moment(a[:1], a[:1]) == bounds.untruncated_moment(a[:1], a[:1]) == 0


def test_radius_pays_with_heavy_tails() -> None:
    a, b = (torch.zeros(1000, 2, dtype=torch.float64) for _ in range(2))
    a[0, 0], b[0, 1] = 1e3, -1e3
    assert bounds.radius(a, b) < 0.05 * bounds.independent(a, b)


def test_signatures_show_clouds() -> None:
    assert str(inspect.signature(bounds.radius)).startswith("(a: torch.Tensor, b: torch.Tensor, /, centre:")
    assert bounds.radius.__name__ == "radius"
    assert "geometric median" in (bounds.radius.__doc__ or "")


ONE, TWO = torch.zeros(3, 2), torch.ones(3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds.paired(ONE, TWO[:2]), "a and b must have the same number of rows to be paired, got 3 and 2"),
        (lambda: bounds.mean_shift(ONE, torch.ones(3, 1)), "a and b must have the same number of columns, got 2 and 1"),
        (lambda: bounds.norms(ONE, TWO, torch.zeros(3)), r"centre must be a floating-point tensor of shape \(2,\)"),
        (lambda: bounds.truncated_moment(ONE, TWO, 0.5, 1.0), r"power must lie in \[1, inf\], got 0.5"),
        (lambda: bounds.truncated_moment(ONE, TWO, 2.0, 0.0), "cut must be positive, got 0.0"),
        (lambda: bounds.untruncated_moment(ONE, TWO, 2.0, 2.0), "higher must exceed power = 2, got 2.0"),
        (lambda: bounds.marginals(ONE, TWO, torch.ones(2, 2)), "basis must have orthonormal columns"),
        (lambda: bounds.marginals(ONE, TWO, torch.eye(3)), r"basis must be a tensor of shape \(2, 2\)"),
        (lambda: bounds.blocks(ONE, TWO, [1, 2]), r"sizes must be positive and sum to d = 2, got \[1, 2\]"),
        (lambda: bounds.bracket(ONE, torch.full((3, 2), math.nan)), "b must be finite"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]
