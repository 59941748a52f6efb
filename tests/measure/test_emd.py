"""The exact distance: against scipy and POT, its certificate, known answers, scales, and what it refuses."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable

import numpy as np
import ot
import pytest
import torch
from clouds import distances, draw
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

from icsbound._check import InputError
from icsbound.measure import bounds, cost, estimates
from icsbound.measure.emd import EMDResult, emd

Tensor = torch.Tensor


def check(result: EMDResult, a: Tensor, b: Tensor, label: str = "") -> None:
    """Every promise of a result that can be verified from the clouds alone, at unit scale."""
    c = torch.from_numpy(distances(a.double(), b.double()))
    rounding = 1e-13 * float(c.max())
    assert result.certified, label
    assert result.gap == result.value - result.lower >= 0, label
    slack = c - result.u[:, None] - result.v
    assert float(slack.min()) >= -rounding, label  # (u, v) is feasible, so `lower` is a true lower bound
    if result.matching is not None:
        assert sorted(result.matching.tolist()) == list(range(len(a))), label
        assert float(c[torch.arange(len(a)), result.matching].mean()) == pytest.approx(result.value, 1e-12, rounding)
        assert float((result.u + result.v).mean()) == pytest.approx(result.lower, 1e-9, rounding), label
        assert result.paired is not None
        assert result.paired >= result.value * (1 - 1e-12) - rounding, label


def fuzz(cases: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    for _ in range(cases):
        n, d = int(g.choice([1, 2, 3, 5, 8, 17, 40, 90])), int(g.choice([1, 2, 3, 4, 10, 33]))
        a, b, label = draw(g, n, d)
        exponent = int(g.choice([0, 0, 0, -150, -20, 20, 150]))
        c = distances(a, b)
        rows, columns = linear_sum_assignment(c)
        right = float(c[rows, columns].mean())
        result = emd(a, b)
        check(result, a, b, label)
        assert result.value == pytest.approx(right, rel=1e-9, abs=1e-14 * result.scale), label
        unit = 2.0 ** round(math.log2(10.0) * exponent)  # a power of two: every digit must stay
        moved = emd(a * unit, b * unit)
        assert moved.value == pytest.approx(result.value * unit, rel=1e-12, abs=1e-14 * moved.scale), label
        assert moved.certified, label


def test_equals_scipy_on_every_family_and_scale() -> None:
    fuzz(250, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_equals_scipy_on_ten_thousand_cases(seed: int) -> None:
    fuzz(1000, seed=100 + seed)


@pytest.mark.parametrize("sizes", [(5, 7), (40, 13), (1, 9), (9, 1), (12, 12)])
@pytest.mark.parametrize("d", [1, 4])
def test_unequal_sizes_and_weights_equal_pot(sizes: tuple[int, int], d: int) -> None:
    g = torch.Generator().manual_seed(sum(sizes) + d)
    a, b = (torch.randn(n, d, generator=g, dtype=torch.float64) for n in sizes)
    wa, wb = (torch.rand(n, generator=g, dtype=torch.float64) * (torch.arange(n) != 3) for n in sizes)
    for weights_a, weights_b in ((None, None), (wa, None), (wa, wb)):
        result = emd(a, b, weights_a=weights_a, weights_b=weights_b)
        masses = [
            np.full(n, 1 / n) if w is None else (w / w.sum()).numpy()
            for n, w in zip(sizes, (weights_a, weights_b), strict=True)
        ]
        assert result.value == pytest.approx(float(ot.emd2(*masses, distances(a, b))), rel=1e-9)
        assigned = len(a) == len(b) and weights_a is None and weights_b is None
        assert (result.matching is not None) == (result.paired is not None) == assigned
        check(result, a, b)


def test_line_equals_scipy() -> None:
    g = np.random.default_rng(0)
    for n, m in ((1, 1), (6, 6), (6, 9), (300, 300)):
        x, y = np.round(g.normal(size=n), 1), np.round(g.normal(size=m), 1)
        result = emd(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None])
        assert result.value == pytest.approx(wasserstein_distance(x, y), rel=1e-12, abs=1e-15)
        assert result.certified
        assert (result.matching is not None) == (n == m)


def test_common_weights_keep_the_paired_bound() -> None:
    a = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    w = torch.tensor([1.0, 2, 3, 0, 1, 1])
    result = emd(a, a + 1, weights_a=w, weights_b=2 * w)
    assert result.paired == pytest.approx(math.sqrt(3), rel=1e-6)
    assert result.value == pytest.approx(math.sqrt(3), rel=1e-6)  # a common shift: the mean shift is a lower bound
    assert emd(a, a + 1, weights_a=torch.full((6,), 0.3)).matching is not None  # equal weights are no weights


def test_weights_of_any_float_dtype() -> None:
    a, w = torch.randn(4, 3), torch.tensor([1.0, 2.0, 0.5, 4.0])
    right = emd(a, a + 1, weights_a=w).value
    for dtype in (torch.float8_e4m3fn, torch.float16, torch.float64):  # all hold these numbers
        assert emd(a, a + 1, weights_a=w.to(dtype)).value == right


def test_known_answers() -> None:
    a = torch.randn(50, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    shuffle = torch.randperm(50, generator=torch.Generator().manual_seed(4))
    assert emd(a, a).value == 0.0
    assert emd(a, a[shuffle]).value == 0.0
    assert torch.equal(a[shuffle][emd(a, a[shuffle]).matching], a)
    assert emd(a, a + 2.0).value == pytest.approx(2 * math.sqrt(7), rel=1e-14)
    one, other = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert emd(one, other).value == 5.0


def test_float32_clouds_are_measured_in_float64() -> None:
    a = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    b = a + 1e-6 * torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    right = float((a.double() - b.double()).norm(dim=1).mean())
    assert emd(a, b).value == pytest.approx(right, rel=1e-12)  # in float32 arithmetic this is off by 10 % and more
    for dtype in (torch.float16, torch.bfloat16):
        assert emd(a.to(dtype), b.to(dtype)).value == emd(a.to(dtype).double(), b.to(dtype).double()).value


def test_a_large_constant_column_hides_nothing() -> None:
    g = np.random.default_rng(2)
    a, b = (torch.from_numpy(np.c_[np.full(30, 1e150), g.normal(size=(30, 3))]) for _ in range(2))
    assert emd(a, b).value == pytest.approx(emd(a[:, 1:], b[:, 1:]).value, rel=1e-12)


def test_near_pairs_are_measured_directly() -> None:
    g = torch.Generator().manual_seed(5)
    a = torch.randn(64, 16, generator=g, dtype=torch.float64)
    a[32:] = a[:32]  # every point twice: the matrix product alone leaves 1e-8 where 0 is right
    b = a + 1e-9 * torch.randn(64, 16, generator=g, dtype=torch.float64)
    p = cost.pair(a, b)
    found, right = cost.matrix(p).numpy() * 2.0**p.exponent, distances(a, b)
    assert np.abs(found / right - 1).max() < 1e-10
    assert emd(a, b).certified
    repeated = torch.ones(64, 3, dtype=torch.float64) * torch.tensor([[1.0], [2.0]]).double().repeat(32, 1)
    q = cost.pair(repeated, repeated)  # half of all pairs are near
    assert np.array_equal(cost.matrix(q).numpy() * 2.0**q.exponent, distances(repeated, repeated))


def test_a_near_pair_is_found_in_whichever_block_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "BLOCK_BYTES", 8 * 64)  # one row: all others have no near pair
    a, b = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for row in (0, 40, 63):
        near = b.clone()
        near[5] = a[row] + 1e-9
        p = cost.pair(a, near)
        found, right = cost.matrix(p).numpy() * 2.0**p.exponent, distances(a, near)
        assert np.abs(found / right - 1).max() < 1e-10


def test_row_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = draw(np.random.default_rng(7), 50, 6)
    whole = emd(a, b)
    monkeypatch.setattr(cost, "BLOCK_BYTES", 1000)
    parts = emd(a, b)
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.certified


def test_a_few_sweeps_prove_the_identity() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.relu(torch.randn(300, 32, generator=g, dtype=torch.float64))
    b = 1.2 * a + 0.02 * torch.randn(300, 32, generator=g, dtype=torch.float64)
    result = emd(a, b)
    assert result.estimator == "exact: the identity is optimal"
    assert torch.equal(result.matching, torch.arange(300))
    assert result.value == result.paired


def test_a_wrong_solver_shows_as_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (torch.randn(30, 4, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    right = emd(a, b)

    def wrong(*args: object, **kwargs: object) -> tuple[np.ndarray, dict[str, object]]:
        return np.eye(30)[::-1] / 30, {"u": np.zeros(30), "v": np.zeros(30), "cost": 0.0}

    monkeypatch.setattr(ot, "emd", wrong)
    monkeypatch.setattr("icsbound._native.library", lambda: None)
    result = emd(a, b)
    assert not result.certified
    assert result.estimator.startswith("stopped with a gap of ")
    assert result.lower <= right.value <= result.value


def test_no_trace_of_gradients() -> None:
    a = torch.randn(20, 3, requires_grad=True)
    result = emd(a, a * 2)
    assert not result.u.requires_grad
    assert a.grad is None


@pytest.mark.parametrize(
    ("a", "b", "weights", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 1), None, r"a must be a floating-point tensor of shape \(n, d\)"),
        (torch.zeros(3, 1), np.zeros((3, 1)), None, r"b must be a torch tensor of shape \(n, d\)"),
        (torch.zeros(0, 2), torch.zeros(1, 2), None, "a must have at least one row and one column"),
        (torch.zeros(3, 2), torch.zeros(3, 4), None, "a and b must have the same number of columns, got 2 and 4"),
        (torch.zeros(2, 2), torch.tensor([[0.0, 1], [0, math.nan]]), None, "b must be finite.*first is row 1"),
        (torch.zeros(2, 2), torch.zeros(2, 2, device="meta"), None, "a and b must be on one device, got cpu and meta"),
        (
            torch.zeros(2, 2),
            torch.zeros(2, 2),
            torch.ones(3),
            r"weights_a must be a floating-point tensor of shape \(2,\)",
        ),
        (
            torch.zeros(2, 2),
            torch.zeros(2, 2),
            torch.tensor([1.0, -1]),
            "weights_a must be nonnegative.*least entry of -1",
        ),
        (torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2), "weights_a must be nonnegative with a positive sum"),
        (torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([1.0, math.inf]), "weights_a must be finite"),
        (
            torch.full((1, 9), 1e308, dtype=torch.float64),
            torch.full((1, 9), -1e308, dtype=torch.float64),
            None,
            "a and b must lie closer together: their distance exceeds the largest float64",
        ),
    ],
)
def test_bad_input_is_named(a: Tensor, b: Tensor, weights: Tensor | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        emd(a, b, weights_a=weights)


@pytest.mark.parametrize(
    "call",
    [emd, bounds.bracket, bounds.dual, estimates.sinkhorn, lambda a, b: emd(a, b[:-1])],
    ids=["emd", "bracket", "dual", "sinkhorn", "transport"],
)
def test_too_large_a_matrix_is_refused_before_it_is_allocated(call: Callable[..., object]) -> None:
    """n = 30,000: 7.2 GB, of which not a thousandth is asked for."""
    a = torch.randn(30_000, 2)
    needed = (
        "max_bytes must be at least 7,(200,000,000 for the cost matrix of 30000 x 30000 rows|199,760,000 for the cost "
        "matrix of 30000 x 29999 rows, of which transport between unequal sizes or weights takes about five times as "
        "much)"
    )
    instead = (
        r"got 4,294,967,296; a subsample of the rows needs less, and icsbound.bounds.bracket\(a, b, quadratic=False\) "
        "and icsbound.measure.estimates.sliced need no matrix"
    )
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen,
        pytest.raises(InputError, match=f"{needed}, {instead}"),
    ):
        call(a, a + 1)
    changes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert np.cumsum([0, *changes]).max() < 7.2e6


def test_what_is_named_instead_takes_no_matrix() -> None:
    """What the refusal tells: a subsample, the bounds without the matrix, and those by blocks of its rows."""
    a = torch.randn(30_000, 2)
    b = a + torch.tensor([3.0, 4.0])
    found = bounds.bracket(a, b, quadratic=False)
    assert found.lower.value == pytest.approx(5, rel=1e-6)
    assert found.upper.value == pytest.approx(5, rel=1e-6)
    assert emd(a[::100], b[::100]).value == pytest.approx(5, rel=1e-6)
    assert 0 < estimates.sliced(a, b, projections=10).value <= 5
    assert cost.LARGEST == 23_170
    assert 8 * cost.LARGEST**2 <= cost.MAX_BYTES < 8 * (cost.LARGEST + 1) ** 2


@pytest.fixture
def no_pot(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pot(name: str, *args: object, **kwargs: object) -> object:
        if name == "ot":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_pot)


@pytest.mark.usefixtures("no_pot")
def test_missing_pot_names_the_extra() -> None:
    message = r"^the Earth Mover distance of these clouds needs POT, .*: pip install 'icsbound\[emd\]'$"
    with pytest.raises(InputError, match=message):
        emd(torch.randn(3, 2), torch.randn(4, 2))


@pytest.mark.usefixtures("no_pot")
def test_without_the_native_library_pot_is_needed_for_equal_sizes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (torch.randn(30, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    monkeypatch.setattr("icsbound._native.library", lambda: None)
    message = (
        r"^the Earth Mover distance of these clouds \(without the native library\) needs POT, which is not installed: "
        r"pip install 'icsbound\[emd\]'$"
    )
    with pytest.raises(InputError, match=message):
        emd(a, b)
