"""Each simulation against the formula that it claims, in float64, and against the numbers that theory states."""

import math
from collections.abc import Iterator

import pytest
import torch
from scipy.stats import spearmanr

from icsbound.measure import layer_bounds
from icsbound.records import PointRecord
from icsbound.study import dimension, laws, moments, noise, reduction, unitization
from icsbound.study.setting import Setting
from icsbound.training import seeds


def seed() -> int:
    """A fresh one for every test that asks."""
    return int(torch.randint(1 << 30, ()))


def generator() -> torch.Generator:
    return seeds.generator(seed(), "test")


def stands(point: PointRecord, slack: float = 0.0) -> bool:
    """Whether the value stands to the prediction as the relation says, up to its own tolerance and `slack`."""
    assert point.predicted is not None
    allowed = (point.tolerance + slack) * max(abs(point.predicted), 1.0)
    below, above = point.predicted - point.value, point.value - point.predicted
    return {
        "equal": abs(above) <= allowed,
        "at most": above <= allowed,
        "at least": below <= allowed,
    }[point.relation]


def judged(points: Iterator[PointRecord]) -> list[PointRecord]:
    return [point for point in points if point.relation]


def test_every_prediction_of_the_dimension_holds() -> None:
    found = judged(dimension.points(seed(), Setting()))
    assert len(found) == 6 * 7 - 1  # no tensor of four positions with fewer than two channels
    assert all(map(stands, found))
    whole = [p for p in found if p.curve.endswith("whole tensor")]
    assert all(p.value == pytest.approx(math.sqrt(2) * layer_bounds.batch_norm(p.d)) for p in whole)


def test_noise_of_the_statistics_is_what_the_formulas_say() -> None:
    """Means over many draws of the closed forms alone, without any distance."""
    g, d, m, draws = generator(), 64, 8, 4000
    gain = torch.randn(draws, 2, m, d, generator=g, dtype=torch.float64)
    mean, deviation = gain.mean(2), gain.std(2, correction=0)
    shifts, gains = mean / deviation, 1 / deviation
    shift = (shifts[:, 0] - shifts[:, 1]).square().sum(1).mean()
    assert math.sqrt(shift) == pytest.approx(layer_bounds.small_batch_shift(d, m), rel=0.02)
    both = shift + (gains[:, 0] - gains[:, 1]).square().sum(1).mean()
    assert math.sqrt(both) == pytest.approx(noise.paired_rms(d, m), rel=0.02)
    second = (gains.square() + shifts.square()).sum(2).mean()
    assert math.sqrt(2 * second) == pytest.approx(layer_bounds.small_batch_norm(d, m), rel=0.02)


@pytest.mark.parametrize(("m", "shift", "distance"), [(8, 4.97, 6.64), (64, 1.48, 1.82)])
def test_noise_alone_moves_a_layer_as_far_as_was_measured_before(m: int, shift: float, distance: float) -> None:
    mean, w1 = noise._noise_only(0, m, 80, generator())
    assert mean.value == pytest.approx(shift, rel=0.06)
    assert w1.value == pytest.approx(distance, rel=0.06)
    assert mean.value < w1.value
    assert stands(mean, 0.06)
    assert stands(w1, 0.06)


def test_noise_is_read_off_the_outputs_that_it_made() -> None:
    g = generator()
    z = noise.normalized(noise.drawn((100, 5), g))
    delta, eta = noise.drawn((5,), g), torch.rand(5, generator=g, dtype=torch.float64) - 0.5
    found = noise.noise_in((z - delta) / (1 + eta))
    assert torch.allclose(found.delta, delta)
    assert torch.allclose(found.eta, eta)


def test_noise_changes_the_shift_by_no_more_than_its_bound() -> None:
    for m in (4, 64):
        added = [p for p in noise._two_layers(0, m, 6, generator()) if p.panel == "added"]
        assert [p.curve for p in added] == ["frozen law", "eval law, rate 0.1"]
        assert all(map(stands, added))
        frozen, running = (p.value for p in added)
        assert frozen > running


def test_the_noise_of_a_law_is_bounded_where_its_bound_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, bound = [], layer_bounds.noise_effect
    monkeypatch.setattr(layer_bounds, "noise_effect", lambda a, b: asked.append(a) or bound(a, b))
    shown = [p for p in noise._two_layers(0, 4, 3, generator()) if p.panel == "added"]
    assert len(asked) == 3 * len(shown)


def test_noise_moves_outputs_apart_over_their_spread_too() -> None:
    points = {m: [p for p in noise._two_layers(0, m, 6, generator()) if "scale-free" in p.panel] for m in (4, 128)}
    found = {m: {p.curve: p.value for p in each} for m, each in points.items()}
    assert all(stands(point) for each in points.values() for point in each)
    assert found[4]["frozen law"] > 1.05 * found[128]["frozen law"]
    assert found[4]["train law"] == pytest.approx(found[128]["train law"], rel=0.06)
    bound = {p.curve: p.predicted for p in points[128]}
    assert bound["train law"] == pytest.approx(math.sqrt(2), rel=1e-9)  # means are 0 there, and no further apart


def test_the_train_law_is_bounded_whatever_the_batch() -> None:
    z = noise.drawn((64, 16), generator())
    for m in (2, 4, 16):
        out = noise.by_own_batches(z, m, generator())
        assert torch.allclose(out.mean(0), torch.zeros(16, dtype=torch.float64), atol=1e-12)
        assert bool((out.square().mean(0) <= 1 + 1e-12).all())


def test_small_batches_are_noisy_under_the_frozen_law_alone() -> None:
    points = {m: [p for p in noise._two_layers(0, m, 6, generator()) if p.panel == "two layers"] for m in (4, 128)}
    found = {m: {p.curve: p.value for p in each} for m, each in points.items()}
    assert found[4]["frozen law"] > 1.5 * found[128]["frozen law"]
    for curve in ("train law", "eval law, rate 0.1"):
        assert found[4][curve] == pytest.approx(found[128][curve], rel=0.06)


@pytest.mark.parametrize(("rate", "drift"), [(0.1, 0.001), (0.1, 0.05), (0.04, 0.002)])
def test_running_statistics_lag_by_the_formula(rate: float, drift: float) -> None:
    assert stands(noise._lag(0, rate, drift, 4, generator()), 0.1)


@pytest.mark.parametrize("name", list(noise.TAILS))
def test_tails_have_the_kurtosis_that_they_claim(name: str) -> None:
    kurtosis, law = noise.TAILS[name]
    z = law((1 << 20,), generator())
    assert float(z.mean()) == pytest.approx(0, abs=0.01)
    assert float(z.square().mean()) == pytest.approx(1, rel=0.02)
    assert float(z.pow(4).mean()) == pytest.approx(kurtosis, rel=0.1)
    assert stands(noise._tails(0, name, 10, generator()), 0.05)


def test_batch_norm_multiplies_the_amplified_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "trained", lambda *_: [])
    found = list(reduction.points(seed(), Setting(full=True)))
    assert [p.predicted for p in found] == pytest.approx([10.0**k for k in range(7)])
    assert all(map(stands, found))


def test_higher_moments_alone_come_near_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "trained", lambda *_: [])
    found = judged(moments.points(seed(), Setting()))
    assert all(map(stands, found))
    pairs = [p for p in found if p.panel == "pairs"]
    assert all(p.value <= 1 + 1e-9 for p in pairs)
    least = {p.curve: p.predicted for p in pairs if p.d == 1}
    assert least["mirrored"] == pytest.approx(0.849, abs=1e-3)
    assert least["kurtosis 1 and 16"] == pytest.approx(0.795, abs=1e-3)
    seen = {p.curve: p.value for p in found if p.panel == "lower bounds"}
    assert len(seen) == 3 * len(moments.LOWER)
    assert all(value < 1e-12 for curve, value in seen.items() if curve.endswith("shift of the mean"))
    higher = {curve.split(" · ")[0]: value for curve, value in seen.items() if curve.endswith("moments 4 and 8")}
    assert higher["kurtosis 1 and 16"] > 0.001
    assert higher["cube and cross-polytope"] < 1e-12  # all norms agree


def test_matching_leaves_what_means_and_variances_do_not_explain() -> None:
    g = generator()
    a = noise.drawn((50, 3), g)
    affine = a * torch.tensor([2.0, 0.5, 3.0]).double() + 4
    assert torch.allclose(moments.matched(a, affine), a)
    a, b = laws.cube_and_cross(16)
    assert torch.allclose(moments.matched(a, b), b)
    constant = torch.full((50, 3), 7.0, dtype=torch.float64)
    assert torch.allclose(moments.matched(affine, constant), affine.mean(0).expand(50, 3))


@pytest.mark.parametrize(
    ("form", "at_three_tenths", "at_ten"),
    [("arithmetic", 0.65, 5.5), ("geometric", 0.55, 3.2), ("harmonic", 0.46, 1.8)],
)
def test_the_three_means_are_those_of_the_theory(form: str, at_three_tenths: float, at_ten: float) -> None:
    assert unitization.mean_of(form, 0.5, 0.3) == pytest.approx(at_three_tenths, abs=0.005)
    assert unitization.mean_of(form, 0.5, 10) == pytest.approx(at_ten, abs=0.05)
    assert unitization.mean_of(form, 0.0, 0.3) == pytest.approx(0.3)
    assert unitization.mean_of(form, 1.0, 0.3) == pytest.approx(1.0)


def test_the_layer_follows_its_mean_and_stays_within_its_bound() -> None:
    found = judged(unitization.points(seed(), Setting()))
    assert {p.panel for p in found} >= {"common scale", "stale deviations", "bound", "small samples flip"}
    assert [p for p in found if not stands(p)] == []
    stale = {(p.curve, p.x): p.value for p in found if p.panel == "stale deviations"}
    assert stale["arithmetic · α = 0.5", 10] == pytest.approx(18, rel=0.01)
    assert stale["harmonic · α = 0.5", 1000] == pytest.approx(4.0, rel=0.01)
    assert stale["geometric · α = 0.5", 10] == pytest.approx(8.7, rel=0.01)
    for form in unitization.FORMS:
        assert stale[f"{form} · α = 0 (batch norm)", 10] == pytest.approx(36, rel=0.01)
        assert stale[f"{form} · α = 1", 10] == pytest.approx(0, abs=1e-9)


def test_a_larger_bound_means_a_larger_shift() -> None:
    for name, rho in unitization.RANKED.items():
        found = list(unitization._ranked(0, name, rho, 40, generator()))
        assert len(found) == 40
        assert all(map(stands, found))
        assert [p.x for p in found] == sorted(p.predicted for p in found if p.predicted is not None)
        ranked = spearmanr([p.x for p in found], [p.value for p in found]).statistic
        assert rho == 1 or ranked > 0.2  # exact statistics ask little of the bound, and it says little of them
    exact = unitization._random(0.3, 1.0, generator())
    assert torch.equal(exact.get_buffer("running_mean"), torch.zeros(unitization.D, dtype=torch.float64))
    alpha = exact.clamped_alpha()
    assert 0.3 <= float(alpha.min()) < float(alpha.max()) <= 1


@pytest.mark.parametrize(("m", "batch_norm", "unitized"), [(8, 0.621, 0.615), (64, 0.216, 0.215)])
def test_errors_of_single_channels_stay(m: int, batch_norm: float, unitized: float) -> None:
    found = {p.curve: p.value for p in unitization._by_channel(0, m, 6, generator())}
    assert found["harmonic · α = 0 (batch norm)"] == pytest.approx(batch_norm, rel=0.03)
    assert list(found) == [f"{form} · {name}" for form in unitization.FORMS for name in unitization.ALPHAS.values()]
    for form in unitization.FORMS:
        assert found[f"{form} · α = 1"] == pytest.approx(unitized, rel=0.03)
        assert found[f"{form} · α = 0.5"] == pytest.approx(found["harmonic · α = 0 (batch norm)"], rel=0.03)


def test_where_all_forms_are_one_a_layer_is_measured_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made, layer = [], unitization.layer
    monkeypatch.setattr(unitization, "layer", lambda *args, **more: made.append(args) or layer(*args, **more))
    found = {p.curve: p.value for p in unitization._by_channel(0, 8, 1, generator())}
    assert len(made) == 2 * 11  # of batch norm and of alpha = 1 one each, of three alphas between three
    assert len(found) == 15
    for alpha in ("α = 0 (batch norm)", "α = 1"):
        assert len({found[f"{form} · {alpha}"] for form in unitization.FORMS}) == 1
    a, b = (noise.drawn((50, unitization.D), generator()) for _ in range(2))
    for alpha in (0.0, 1.0):
        outputs = [unitization.through(layer(unitization.D, form, alpha, 3.0), a - b) for form in unitization.FORMS]
        assert all(torch.allclose(one, outputs[0], rtol=1e-12) for one in outputs)


def test_a_seed_fixes_every_number() -> None:
    first, again, other = (list(dimension.points(k, Setting())) for k in (5, 5, 6))
    assert first == again
    assert [p.value for p in first] != [p.value for p in other]
