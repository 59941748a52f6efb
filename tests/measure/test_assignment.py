"""The native assignment solver: equal to scipy on every family and forced stage, and never believed."""

from __future__ import annotations

import ctypes
import importlib.util
import math

import numpy as np
import pytest
import torch
from clouds import distances, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from icsbound import _native
from icsbound.measure import assignment, certificate
from icsbound.measure.assignment import assign
from icsbound.measure.certificate import Certificate, certify, identity_certificate
from icsbound.measure.emd import emd

native = pytest.mark.skipif(_native.library() is None, reason="no native library was built here")


def optimum(c: np.ndarray) -> float:
    i, j = linear_sum_assignment(c)
    return float(c[i, j].mean())


def starts(g: np.random.Generator, c: torch.Tensor) -> list[Certificate]:
    """Potentials a solver may be started from: none, columns' minima, a good guess, and a bad one."""
    rough = torch.from_numpy(g.normal(size=len(c))) * float(c.mean())
    return [certify(c, v) for v in (torch.zeros(len(c)).double(), c.amin(0), rough)]


def solve_from_every_start(g: np.random.Generator, c: torch.Tensor, label: str) -> None:
    right, largest = optimum(c.numpy()), float(c.max())
    paired = float(c.diagonal().mean())
    for start in starts(g, c):
        found = assignment._lazily(_native.library(), c, start, paired, 1e-13 * paired)
        assert found is not None, label
        assert found.value == pytest.approx(right, rel=1e-12, abs=1e-15 * largest), label
        assert found.certificate.lower == pytest.approx(right, rel=1e-12, abs=1e-14 * largest), label


def fuzz(cases: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    for _ in range(cases):
        n = int(g.choice([1, 2, 3, 7, 31, 32, 33, 64, 65, 100, 257]))  # sizes round the caches, blocks and streams
        a, b, label = draw(g, n, int(g.choice([1, 2, 3, 8])), float(g.choice([0, -100, 100])))
        unit = 10.0 ** -round(np.log10(float(a.abs().max()) or 1.0))
        solve_from_every_start(g, torch.from_numpy(distances(a * unit, b * unit)), label)


@native
def test_equals_scipy_from_every_start() -> None:
    fuzz(150, seed=0)


@native
@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_equals_scipy_from_every_start_in_ten_thousand_solves(seed: int) -> None:
    fuzz(400, seed=10 + seed)


@native
@pytest.mark.parametrize(
    ("family", "seed"), [("far", 0), ("far", 1), ("ties", 2), ("duplicates", 3), ("shuffled", 4), ("line", 5)]
)
def test_harder_problems_go_through_every_stage(family: str, seed: int) -> None:
    """n = 700, so that what a row remembers is chosen by bisection; the far pair and the line leave most rows unmatched
    after reduction, so that the auction runs.
    """
    g = np.random.default_rng(seed)
    z = g.normal(size=(700, 3))
    a = np.maximum(z @ g.normal(size=(3, 8)), 0)
    b = np.maximum(z @ g.normal(size=(3, 8)) * 2 + 1, 0)
    if family == "ties":
        a, b = np.round(a[:, :3], 1), np.round(b[:, :3], 1)
    if family == "duplicates":
        a, b = np.round(a[:, :2]), np.round(b[:, :2])
    if family == "shuffled":
        b = (a + 0.01 * g.normal(size=a.shape))[g.permutation(700)]
    if family == "line":
        a, b = a[:, :1] * np.ones(8), b[:, :1] * np.ones(8)
    solve_from_every_start(g, torch.from_numpy(distances(torch.from_numpy(a), torch.from_numpy(b))), family)


@native
def test_starts_from_a_part_of_the_rows_equal_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small clouds started as large ones are, from the exact potentials of every eighth row; then two large ones."""
    g, coarse, started = np.random.default_rng(11), assignment._coarse, []

    def counted(cost: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        started.append(len(cost))
        return coarse(cost, shift)

    monkeypatch.setattr(assignment, "_coarse", counted)

    def equal(a: torch.Tensor, b: torch.Tensor, label: str) -> None:
        c = torch.from_numpy(distances(a, b))
        rounding = 1e-15 * float(c.max())
        shift = (b - a.mean(0)) @ torch.nn.functional.normalize(b.mean(0) - a.mean(0), dim=0)
        right, found = optimum(c.numpy()), assignment.solve(c, shift, rounding)
        assert found.value == pytest.approx(right, rel=1e-12, abs=rounding), label
        assert found.certificate.lower == pytest.approx(right, rel=1e-11, abs=2 * rounding), label

    with monkeypatch.context() as small:
        small.setattr(assignment, "COARSE", 16)
        for _ in range(150):
            a, b, label = draw(g, int(g.choice([16, 17, 31, 64, 100, 130])), int(g.choice([1, 2, 3, 8])))
            unit = 10.0 ** -round(np.log10(float(a.abs().max()) or 1.0))
            equal(a * unit, b * unit, label)
    assert len(started) > 30
    started.clear()
    for d in (2, 16):
        a, b = torch.from_numpy(g.normal(size=(2, 600, d)))
        equal(a, b + 0.5, f"Gaussian, d = {d}")
    assert started == [600, 600]


def slices(c: torch.Tensor, start: Certificate, gap: float) -> int:
    """How many budgets of 1000 units the native solver takes."""
    library, taken = _native.library(), 0
    given = [ctypes.c_void_p(t.data_ptr()) for t in (c, start.v, start.u, start.at)]
    library.icsbound_assignment_new.restype = ctypes.c_void_p
    left = (ctypes.c_double(gap), ctypes.c_double(1e-13 * float(c.diagonal().mean())))
    solver = ctypes.c_void_p(library.icsbound_assignment_new(ctypes.c_int64(len(c)), *given, *left, None))
    while library.icsbound_assignment_run(solver, ctypes.c_int64(1000)) == 0 and taken < 2000:
        taken += 1
    library.icsbound_assignment_delete(solver)
    return taken


@native
def test_a_price_war_of_a_few_rows_is_ended_by_paths() -> None:
    """Nine rows far from all others want eight columns near by; the ninth column is further away, so that bids raise
    the prices to that distance, by one small margin after another.
    """
    g = np.random.default_rng(0)
    n, few = 600, 9
    z = g.normal(size=(n, 2))
    a, b = np.maximum(z @ g.normal(size=(2, 6)), 0), np.maximum(z @ g.normal(size=(2, 6)) * 2 + 1, 0)
    a[:few], b[:few] = (1e6 + 1e-3 * g.normal(size=(few, 6)) for _ in range(2))
    taken = {}
    for further in (1e3, 1e5):
        b[few - 1, 0] = 1e6 + further
        c = torch.from_numpy(distances(torch.from_numpy(a), torch.from_numpy(b)))
        start = certify(c, torch.zeros(n).double())
        taken[further] = slices(c, start, 0.05)
        solve_from_every_start(g, c, f"{further}")
    assert taken[1e5] < 2 * taken[1e3]


@native
def test_row_minima_equal_torch() -> None:
    g = torch.Generator().manual_seed(0)
    for n, m in ((1, 1), (3, 17), (5, 300), (64, 64), (131, 257)):
        c, v = torch.rand(n, m, generator=g, dtype=torch.float64), torch.rand(m, generator=g, dtype=torch.float64)
        columns = torch.empty(m, dtype=torch.float64)
        found = certify(c, v, columns)
        assert torch.equal(found.u, (c - v).amin(1))
        assert found.at is not None
        assert torch.equal(found.at, (c - v).argmin(1))
        assert torch.equal(columns, c.amin(0))
        assert torch.equal(certify(c, v).u, found.u)


@native
def test_potentials_that_fell_are_proved_by_few_rows() -> None:
    g = torch.Generator().manual_seed(1)
    c, v = torch.rand(90, 90, generator=g, dtype=torch.float64), torch.rand(90, generator=g, dtype=torch.float64)
    old = certify(c, v)
    for fallen in (0, 3, 20, 90):
        w = v.clone()
        w[torch.randperm(90, generator=g)[:fallen]] -= 0.3
        found, right = certificate.lowered(c, old, w), certify(c, w)
        assert torch.equal(found.u, right.u)
        assert torch.equal(found.at, right.at)
        assert found.lower == pytest.approx(right.lower, rel=1e-15)
    risen = certificate.lowered(c, old, v + 0.1 * torch.rand(90, generator=g, dtype=torch.float64))
    assert torch.equal(risen.u, (c - risen.v).amin(1))


def nearly_settled(
    g: np.random.Generator, n: int, exponent: int, decimals: int, swapped: bool, repeated: int
) -> torch.Tensor:
    """Distances of points that moved little; with `swapped` rows the identity just fails to be optimal."""
    a = np.round(g.normal(size=(n, 3)), decimals)
    a[: min(repeated, n)] = a[0]
    b = np.round(a * (1 + 0.1 * g.normal(size=3)) + 0.1 * g.normal(size=(n, 3)), decimals)
    if swapped and n > 1:
        b[[0, n - 1]] = b[[n - 1, 0]]
    unit = 2.0 ** round(math.log2(10.0) * exponent)
    return torch.from_numpy(distances(torch.from_numpy(a), torch.from_numpy(b))) * unit


@native
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 3, 8, 31, 32, 33, 65, 90]),
    exponent=st.sampled_from([-150, 0, 150]),
    decimals=st.sampled_from([0, 1, 15]),
    swapped=st.booleans(),
    repeated=st.sampled_from([0, 2, 8]),
)
def test_settled_rows_prove_the_identity_and_solve_equals_scipy(
    seed: int, n: int, exponent: int, decimals: int, swapped: bool, repeated: int
) -> None:
    c = nearly_settled(np.random.default_rng(seed), n, exponent, decimals, swapped, repeated)
    right, rounding = optimum(c.numpy()), 1e-15 * float(c.max())
    found = assignment.solve(c, torch.zeros(n).double(), rounding)
    assert found.value == pytest.approx(right, rel=1e-12, abs=rounding)
    assert found.certificate.lower == pytest.approx(right, rel=1e-11, abs=2 * rounding)
    lower = found.certificate
    assert bool((lower.u <= (c - lower.v).amin(1)).all())  # feasible, and no row was taken on trust


@native
def test_rows_are_settled_where_few_column_minima_lie_off_the_diagonal() -> None:
    """Points in pairs, of which one moves towards the other: its column's minimum is not its own. In four further pairs
    it comes from there, and its row's minimum is not its own.
    """
    near, far = torch.arange(20).double()[:, None] * 100, torch.arange(20).double()[:, None] * 100 + 1

    def start(moved: int, swapped: bool = False) -> tuple[torch.Tensor, Certificate]:
        number = torch.arange(20)[:, None]
        a = torch.cat([near, far - 0.75 * ((number >= 12) & (number < 16) & (number >= moved))])
        b = torch.cat([near, far - 0.75 * (number < moved)])
        c = torch.from_numpy(distances(a, b))
        if swapped:
            c[0, 0], c[0, 1], c[1, 0], c[1, 1] = 5.0, 1.0, 1.0, 5.0
        return c, identity_certificate(c, torch.zeros(40).double(), float(c.diagonal().mean()), hand_over=True)

    c, handed = start(8)
    assert torch.equal(handed.v, c.amin(0))
    assert handed.lower == pytest.approx(float(c.amin(0).mean()))
    assert handed.spread == 1
    assert slices(c, handed, 1.0) == 0  # done before a path is searched
    found = assign(c, handed, float(c.diagonal().mean()), 0.0)
    assert torch.equal(found.matching, torch.arange(40))
    assert found.certificate.lower == pytest.approx(found.value, rel=1e-12)
    c, handed = start(8, swapped=True)  # a cycle of two rows costs less
    found = assign(c, handed, float(c.diagonal().mean()), 0.0)
    assert not torch.equal(found.matching, torch.arange(40))
    assert found.value == pytest.approx(optimum(c.numpy()), rel=1e-12)
    c, handed = start(20)  # half of the columns: another start is looked for
    assert not torch.equal(handed.u, torch.zeros(40).double())


@native
def test_rows_of_which_a_lower_bound_is_known_are_read_again() -> None:
    g = torch.Generator().manual_seed(2)
    c = torch.rand(90, 90, generator=g, dtype=torch.float64) + 1 - torch.eye(90).double()
    c[:5, 5:10] = 0.0
    columns = c.amin(0)
    known = Certificate(float(columns.mean()), torch.zeros(90).double(), columns, torch.arange(90))
    found, right = certificate.lowered(c, known, columns), certify(c, columns)
    assert torch.equal(found.u, right.u)
    assert torch.equal(c.gather(1, found.at[:, None]), c.gather(1, right.at[:, None]))


def hard(n: int = 80) -> torch.Tensor:
    g = np.random.default_rng(9)
    z = g.normal(size=(n, 2))
    a, b = (torch.from_numpy(np.maximum(z @ g.normal(size=(2, 6)) + shift, 0)) for shift in (0, 2))
    return torch.from_numpy(distances(a, b))


def prove(c: torch.Tensor) -> tuple[Certificate, float]:
    paired = float(c.diagonal().mean())
    return identity_certificate(c, torch.zeros(len(c)).double(), paired), paired


@native
def test_a_budget_in_slices_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    c = hard()
    start, paired = prove(c)
    whole = assign(c, start, paired, 0.0)
    monkeypatch.setattr(assignment, "SLICE", 7)
    parts = assign(c, start, paired, 0.0)
    assert whole.solver == parts.solver == "lazy assignment"
    assert torch.equal(whole.matching, parts.matching)
    assert torch.equal(whole.certificate.v, parts.certificate.v)


@native
def test_an_exhausted_budget_hands_over_to_pot(monkeypatch: pytest.MonkeyPatch) -> None:
    c = hard()
    monkeypatch.setattr(assignment, "SLICE", 1)
    monkeypatch.setattr(assignment, "LIMIT", 0.01)
    found = assign(c, *prove(c), 0.0)
    assert found.solver == "POT network simplex"
    assert found.value == pytest.approx(optimum(c.numpy()), rel=1e-12)


class Wrong:
    """A library whose solver swaps two rows of the right answer."""

    def __init__(self) -> None:
        self._real = _native.library()

    def __getattr__(self, name: str) -> object:
        real = getattr(self._real, name)
        if name != "icsbound_assignment_result":
            return real

        def result(solver: object, matching: object, v: object) -> None:
            real(solver, matching, v)
            columns = np.ctypeslib.as_array((ctypes.c_int64 * 80).from_address(matching.value))  # type: ignore[attr-defined]
            columns[[0, 1]] = columns[[1, 0]]

        return result


@native
def test_a_wrong_matching_is_never_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    c = hard()
    start, paired = prove(c)
    right = optimum(c.numpy())
    wrong = Wrong()
    monkeypatch.setattr(_native, "library", lambda: wrong)
    assert assign(c, start, paired, 0.0).solver == "POT network simplex"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    stopped = assign(c, start, paired, 0.0)
    assert stopped.solver == "lazy assignment"
    assert stopped.gap > 1e-6 * right
    assert stopped.certificate.lower <= right * (1 + 1e-12) <= stopped.value


def test_without_the_library_torch_and_pot_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    g = np.random.default_rng(3)
    for _ in range(20):
        a, b, label = draw(g, 40, 3)
        with_library = emd(a, b)
        monkeypatch.setattr(_native, "library", lambda: None)
        without = emd(a, b)
        monkeypatch.undo()
        assert without.certified, label
        assert without.value == pytest.approx(with_library.value, rel=1e-9, abs=1e-14 * without.scale), label


def test_sweeps_stop_early_for_a_solver_only() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(200, 16, generator=g, dtype=torch.float64)
    b = a[torch.randperm(200, generator=g)] + 0.01
    c = torch.from_numpy(distances(a, b))
    full = identity_certificate(c, torch.zeros(200).double(), np.inf)
    brief = identity_certificate(c, torch.zeros(200).double(), np.inf, hand_over=True)
    assert full.lower >= brief.lower
    assert certificate.SPREAD <= 1
