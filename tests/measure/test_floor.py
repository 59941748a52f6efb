"""Errors, floors, held-out bounds and verdicts: against simulation, where the truth is known."""

from __future__ import annotations

import builtins
import math

import pytest
import torch

from icsbound._check import InputError
from icsbound.measure import floor
from icsbound.measure.emd import EMDResult, emd
from icsbound.measure.floor import Estimate, HeldOut, Shift, Verdict, control, shift_report, standard_error

Tensor = torch.Tensor


def gaussian(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unmoved(seed: int, n: int = 60, d: int = 3, jitter: float = 1.0) -> tuple[Tensor, Tensor]:
    """Two clouds of one law whose rows belong together: correlated Gaussians of equal marginals."""
    a, noise = gaussian(seed, n, d), gaussian(seed + 50_000, n, d)
    share = math.sqrt(1 / (1 + jitter**2))
    return a, share * a + math.sqrt(1 - share**2) * noise


def test_standard_error_equals_the_spread_over_probes() -> None:
    values, errors = [], []
    for seed in range(200):
        a = gaussian(seed, 50, 2)
        result = emd(a, 1.5 * a + a.square())
        values.append(result.value)
        errors.append(standard_error(result))
    spread = float(torch.tensor(values).std())
    assert float(torch.tensor(errors).square().mean().sqrt()) == pytest.approx(spread, rel=0.25)
    centre = float(torch.tensor(values).mean())
    covered = sum(abs(v - centre) <= 1.96 * e for v, e in zip(values, errors, strict=True))
    assert 0.88 <= covered / 200 <= 0.99  # an interval for E[EM_n], at 95 % nominally


@pytest.mark.parametrize("jitter", [0.1, 1.0])
def test_nothing_moved_is_rarely_called_moved(jitter: float) -> None:
    """300 pairs from one law: at level 0.05 no more than 15 + 3 standard deviations of false alarms."""
    alarms = sum(floor.held_out(*unmoved(seed, jitter=jitter)).p <= 0.05 for seed in range(300))
    assert alarms <= 15 + 3 * math.sqrt(300 * 0.05 * 0.95)


def test_a_cloud_that_vanishes_beside_the_other_leaves_no_nan() -> None:
    """Potentials of the size of the first cloud, distances of the size of the second: 330 orders between them."""
    a, b = gaussian(0, 40, 3) * 1e30, gaussian(1, 40, 3) * 1e-300
    found, alone = floor.held_out(a, b), floor.held_out(a, 0 * b)
    for name in ("potential", "shift", "norm"):
        one, other = getattr(found, name), getattr(alone, name)
        assert one.value == pytest.approx(other.value)
        assert one.error == pytest.approx(other.error)
    assert found.p < 1e-6


def test_held_out_bounds_stay_below_w1() -> None:
    """One-sided coverage for a known W1 (a shift): each bound minus two errors exceeds it in few of 200 probes."""
    exceeded = {"potential": 0, "shift": 0, "norm": 0}
    for seed in range(200):
        a, b = unmoved(seed, n=40)
        found = floor.held_out(a, b + torch.tensor([0.3, 0.0, 0.4]))
        for name in exceeded:
            bound: Estimate = getattr(found, name)
            exceeded[name] += bound.value - 1.645 * bound.error > 0.5
    assert max(exceeded.values()) <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_floor_and_disjoint_probes_agree_when_nothing_moved() -> None:
    a = gaussian(0, 200, 4)
    assert floor.disjoint_emd(a, a, seed=3) == pytest.approx(floor.noise_floor(a, seed=3), rel=1e-9)
    larger = [floor.noise_floor(gaussian(1, n, 4)) for n in (50, 200, 800)]
    assert larger[0] > larger[1] > larger[2] > 0
    one, two = floor.halves(7)
    assert len(one) == len(two) == 3
    assert not set(one.tolist()) & set(two.tolist())


def test_each_function_sees_what_it_is_for() -> None:
    a = gaussian(2, 200, 5)
    jitter = 0.01 * gaussian(3, 200, 5)
    shifted = floor.held_out(a, a + 0.2 + jitter)
    assert shifted.best is shifted.shift
    assert shifted.shift.value == pytest.approx(0.2 * math.sqrt(5), rel=0.02)
    scaled = floor.held_out(a, 1.3 * a + jitter)
    assert scaled.best is scaled.norm
    assert scaled.norm.value == pytest.approx(0.3 * float(a.norm(dim=1).mean()), rel=0.05)
    signs = torch.where(gaussian(4, 400, 1) > 0, 1.0, -1.0)
    narrow, wide = gaussian(5, 400, 1).abs() * 0.1 + 1, gaussian(6, 400, 1).abs() * 0.1 + 1
    kinked = floor.held_out(signs * narrow, torch.where(signs > 0, wide + 1, -wide / 2 - 0.25))
    assert kinked.potential.value > 0.2


def test_report_is_one_line_and_follows_the_scale() -> None:
    a = gaussian(0, 100, 3)
    report = shift_report(a, 1.2 * a)
    text = str(report)
    assert text.count("\n") == 0
    for part in (
        "EM 0.",
        "spreads",
        "gap ",
        "paired ",
        "floor ",
        "disjoint probes ",
        "W1 at least ",
        "n = 100, d = 3",
        "moved",
    ):
        assert part in text
    assert bool(report.verdict())
    assert report.spread == pytest.approx(math.sqrt(float((a - a.mean(0)).square().sum(1).mean())), rel=1e-12)
    for exponent in (-480, 480):
        scaled = shift_report(a * 2.0**exponent, 1.2 * a * 2.0**exponent)
        assert scaled.error == pytest.approx(report.error * 2.0**exponent, rel=1e-9)
        assert scaled.floor == pytest.approx(report.floor * 2.0**exponent, rel=1e-9)
        assert scaled.held_out.p == pytest.approx(report.held_out.p, rel=1e-6)


def test_equal_clouds_are_below_the_floor() -> None:
    a = gaussian(0, 50, 3)
    report = shift_report(a, a)
    assert (report.em.value, report.error, report.held_out.p) == (0.0, 0.0, 1.0)
    assert report.verdict().text == "below the floor"
    assert not report.verdict()
    shifted = shift_report(a, a + 1)
    assert shifted.verdict().text == "moved"


def test_smallest_asks_for_more_than_any_shift() -> None:
    """A shift of 0.2 spreads: moved by more than 0.1, no more than 0.3, and near 0.2 the half of the samples tell."""
    a, jitter = gaussian(0, 400, 4), 0.01 * gaussian(1, 400, 4)
    spread = float((a - a.mean(0)).square().sum(1).mean().sqrt())
    b = a + jitter + torch.tensor([0.2 * spread, 0.0, 0.0, 0.0])
    report = shift_report(a, b)
    assert report.spread == pytest.approx(spread, rel=1e-12)
    assert report.p() == report.held_out.p < 1e-9
    ps = [report.p(smallest) for smallest in (0.0, 0.1, 0.19, 0.2, 0.3)]
    assert ps == sorted(ps)
    assert str(report.verdict(smallest=0.1)) == f"moved by more than 0.1 spreads (p = {ps[1]:.2g})"
    below = report.verdict(smallest=0.3)
    assert (below.text, below.p, below.smallest) == ("below the floor", 1.0, 0.3)
    # The floor of sampling alone is above this distance: without `smallest`, only the held-out bound sees the shift.
    assert report.em.value < report.floor
    rounded = shift_report(a, a.half().double())
    assert rounded.verdict(smallest=0.01).text == "below the floor"
    scaled = shift_report(a * 2.0**300, b * 2.0**300)
    assert scaled.p(0.19) == pytest.approx(report.p(0.19), rel=1e-6)


def test_smallest_raises_the_floor() -> None:
    """A distance above what sampling gives that is no larger than what counts is below the floor, and so answered."""
    a = gaussian(3, 600, 1)
    report = shift_report(a, a + 0.5)
    assert report.em.value > report.floor
    assert report.verdict(smallest=0.6).text == "below the floor"
    assert not report.verdict(smallest=0.6)
    assert report.verdict(smallest=0.4)


def test_moved_by_more_than_smallest_is_rarely_said_of_what_moved_just_that() -> None:
    """W1 = 0.5 for a shift by 0.5: false alarms at `smallest` = 0.5 true spreads, over 200 probes."""
    alarms, d = 0, 3
    for seed in range(200):
        a, b = unmoved(seed, n=40, d=d, jitter=0.3)
        found = floor.held_out(a, b + torch.tensor([0.3, 0.0, 0.4]))
        alarms += found.p_above(0.5) <= 0.05
    assert alarms <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_a_reference_without_spread_makes_any_shift_count() -> None:
    a = torch.ones(20, 3)
    assert shift_report(a, a + 1).verdict(smallest=100.0)
    assert not shift_report(a, a).verdict(smallest=100.0)


def test_an_unresolved_verdict_is_no_bool() -> None:
    verdict = Verdict("not resolved", 0.3, 0.05)
    with pytest.raises(InputError, match=r"resolved to be asked for yes or no, got 'not resolved' \(p = 0.3\)"):
        bool(verdict)
    assert str(verdict) == "not resolved (p = 0.3)"
    a, b = unmoved(0, n=12, d=30, jitter=5)
    report = shift_report(a, b)
    assert report.em.value > 0
    assert report.verdict(level=0.0).text in ("below the floor", "not resolved")


def test_one_row_that_moved_far_resolves_nothing() -> None:
    """The distance is above its floor, and yet all of it comes from one input of sixteen."""
    a = torch.tensor([-1.0, 1.0]).repeat(8)[:, None]
    b = a.clone()
    b[0] = 100.0
    report = shift_report(a, b)
    assert report.em.value > report.floor
    assert report.held_out.p > 0.2
    assert report.verdict().text == "not resolved"


def synthetic(p: float, value: float = 1.0) -> Shift:
    error = 1.0
    z = math.sqrt(2) * _inverse_erfc(2 * p / 3)
    estimate = Estimate(z * error, error)
    em = emd(torch.zeros(2, 2), torch.full((2, 2), value))
    return Shift(em, 0.1, 0.5, 1.0, HeldOut(estimate, Estimate(0.0, 1.0), Estimate(0.0, 1.0)), 1.0)


def _inverse_erfc(y: float) -> float:
    low, high = -6.0, 6.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(middle) > y else (low, middle)
    return low


def test_many_distances_are_controlled_together() -> None:
    """Benjamini-Yekutieli by hand: p_(k) <= 0.05 k / (m (1 + 1/2 + ... + 1/m))."""
    ps = [0.001, 0.004, 0.02, 0.04, 0.5]
    verdicts = control([synthetic(p) for p in ps])
    harmonic = sum(1 / k for k in range(1, 6))
    passed = max(k for k, p in enumerate(ps, 1) if p <= 0.05 * k / (5 * harmonic))
    assert [v.text == "moved" for v in verdicts] == [k <= passed for k in range(1, 6)]
    assert [synthetic(p).verdict().text == "moved" for p in ps] == [True, True, True, True, False]
    assert control([]) == []
    assert verdicts[-1].text == "not resolved"
    # The spread and the errors of these are 1: with `smallest` every estimate has that much less to show.
    less = control([synthetic(p) for p in ps], smallest=0.8)
    alone = [3 * 0.5 * math.erfc((synthetic(p).held_out.potential.value - 0.8) / math.sqrt(2)) for p in ps]
    by_hand = [min(alone[j] * 5 * harmonic / (j + 1) for j in range(k, 5)) for k in range(5)]
    assert [v.p for v in less] == pytest.approx([min(1.0, p) for p in by_hand], rel=1e-6)
    assert {v.smallest for v in less} == {0.8}
    assert control([synthetic(0.9, value=0.1)])[0].text == "below the floor"


def test_missing_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'icsbound\[report\]'"):
        control([synthetic(0.5)])


def test_the_limit_of_memory_holds_for_the_halves_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # A default that the caller has raised would otherwise stop the halves of a large probe, after the whole was solved.
    limits: list[int] = []

    def recorded(a: Tensor, b: Tensor, *, max_bytes: int) -> EMDResult:
        limits.append(max_bytes)
        return emd(a, b, max_bytes=max_bytes)

    monkeypatch.setattr(floor, "emd", recorded)
    shift_report(*unmoved(0), max_bytes=123_456)
    assert limits == [123_456] * 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: floor.noise_floor(torch.zeros(7, 2)), "a must have at least 8 rows to be halved, got 7"),
        (
            lambda: shift_report(torch.zeros(8, 2), torch.ones(8, 2), max_bytes=511),
            "max_bytes must be at least 512 for the cost matrix of 8 x 8 rows",
        ),
        (
            lambda: floor.noise_floor(torch.zeros(16, 2), max_bytes=511),
            "max_bytes must be at least 512 for the cost matrix of 8 x 8 rows",
        ),
        (lambda: shift_report(torch.zeros(9, 2), torch.zeros(8, 2)), r"same inputs .* got \(9, 2\) and \(8, 2\)"),
        (lambda: floor.held_out(torch.zeros(9, 2), torch.full((9, 2), math.nan)), "b must be finite"),
        (
            lambda: standard_error(emd(torch.zeros(3, 2), torch.zeros(4, 2))),
            "result must come from clouds of equal size",
        ),
        (lambda: control([synthetic(0.5)], rate=2.0), r"rate must lie in \[0, 1\], got 2.0"),
        (lambda: control([], smallest=-0.1), r"smallest must lie in \[0, inf\], got -0.1"),
        (lambda: synthetic(0.5).verdict(smallest=math.nan), "smallest must be a finite number, got nan"),
        (lambda: synthetic(0.5).verdict(level=-1.0), r"level must lie in \[0, 1\], got -1.0"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]
