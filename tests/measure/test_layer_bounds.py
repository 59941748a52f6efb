"""Bounds from parameters and noise, against exact W1 of outputs normalized and unitized right here."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from clouds import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import Ledger

from icsbound._check import InputError
from icsbound.measure import layer_bounds
from icsbound.measure.bounds import layer_bound
from icsbound.measure.emd import emd
from icsbound.measure.layer_bounds import INTERPOLATIONS, Interpolation, Noise, Unitized

Tensor = torch.Tensor
INF = math.inf


def rounding(*clouds: Tensor) -> float:
    return 1e-12 * sum(float(z.norm(dim=1).mean()) for z in clouds)


def unit(g: np.random.Generator, most: int = 100) -> float:
    """A scale: 1 as often as not, else far from it."""
    return 10.0 ** float(g.choice([0, 0, 0, -most, -most // 2, most // 2, most]))


def uniform(g: np.random.Generator, low: float, high: float, size: int) -> Tensor:
    return torch.from_numpy(g.uniform(low, high, size=size))


def noise(g: np.random.Generator, k: int, size: float) -> Noise:
    delta, eta = g.normal(size=k) * size * unit(g), np.expm1(g.normal(size=k) * min(size, 2))
    return Noise(torch.from_numpy(delta), torch.from_numpy(np.abs(eta) * far if (far := unit(g)) != 1 else eta))


def verify_batch_norm(book: Ledger, g: np.random.Generator) -> None:
    n, d = int(g.choice([2, 3, 8, 30])), int(g.choice([1, 2, 7]))
    a, b, label = draw(g, n, d)
    a, b, eps = a * (scale := unit(g)), b * scale, scale**2 * 10 ** g.uniform(-12, 0)
    u, v = ((z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt() for z in (a, b))
    book.claim("exact", emd(u, v).value, layer_bounds.batch_norm(d), rounding(u, v), label)
    weights, biases = (
        torch.from_numpy(g.normal(size=(2, d)) * 10 ** g.uniform(-3, 3, size=(2, 1)) * unit(g)) for _ in range(2)
    )
    x, y = u * weights[0] + biases[0], v * weights[1] + biases[1]
    book.claim("affine", emd(x, y).value, layer_bounds.batch_norm_affine(*weights, *biases), rounding(x, y), label)

    kept = (a.std(0, correction=0) > 1e-9 * a.abs().max()) & (b.std(0, correction=0) > 1e-9 * b.abs().max())
    if not bool(kept.any()):
        return
    z, w = ((t - t.mean(0)) / t.std(0, correction=0) for t in (a[:, kept], b[:, kept]))
    k, size = z.shape[1], 10 ** g.uniform(-3, 1)
    first, second = (noise(g, k, size) for _ in range(2))
    u, v, same = ((t - e.delta) / (1 + e.eta) for t, e in ((z, first), (w, second), (z, second)))
    # Standardizing leaves an error of a mean in units of its deviation, which 1 / (1 + η) then multiplies.
    blur = max(float((t.abs().amax(0) / t.std(0, correction=0)).max()) for t in (a[:, kept], b[:, kept]))
    gain = max(float(e.gain.norm()) for e in (first, second))
    w1, allowance = emd(u, v).value, rounding(u, v, z, w) + 1e-15 * blur * gain
    book.claim("noisy", w1, layer_bounds.noisy_batch_norm(first, second), allowance, label)
    delta = float(max(first.delta.abs().max(), second.delta.abs().max()))
    eta = max(0.0, -float(min(first.eta.min(), second.eta.min())))
    book.claim("coarse", w1, layer_bounds.noisy_batch_norm_coarse(k, delta, eta), allowance, label)
    change = abs(w1 - emd(z, w).value)
    book.claim("effect of noise", change, layer_bounds.noise_effect(first, second), allowance, label)
    least, most = layer_bounds.noise_only(first, second)
    alone = emd(u, same).value
    book.claim("noise alone, lower", least, alone, allowance, label)
    book.claim("noise alone, upper", alone, most, allowance, label)
    book.claim("mean shift of noise", least, w1, allowance, label)


def verify_tensors(book: Ledger, g: np.random.Generator) -> None:
    n, c, size = int(g.choice([2, 4])), int(g.choice([1, 2])), int(g.choice([2, 4, 9]))
    pattern = torch.from_numpy(g.normal(size=(1, c, size)))
    a = pattern + 10 ** g.uniform(-3, 1) * torch.from_numpy(g.normal(size=(n, c, size)))
    b = -a if g.random() < 0.5 else torch.from_numpy(g.normal(size=(n, c, size)))
    u, v = (
        (z - z.mean((0, 2), keepdim=True)) / (z.var((0, 2), correction=0, keepdim=True) + 1e-12).sqrt() for z in (a, b)
    )
    x, y = u.flatten(1), v.flatten(1)
    w1 = emd(x, y).value
    with_means = layer_bounds.batch_norm_tensor(c, size, x.mean(0), y.mean(0))
    book.claim("whole tensors, with means", w1, with_means, rounding(x, y))
    book.claim("whole tensors", w1, layer_bounds.batch_norm_tensor(c, size), rounding(x, y))
    x, y = (z.transpose(1, 2).reshape(-1, c) for z in (u, v))
    book.claim("single positions", emd(x, y).value, layer_bounds.batch_norm(c), rounding(x, y))
    # the train law: every batch of m rows by its own moments, and the mixture over batches
    m = int(g.choice([2, 3, 4]))
    mixtures = [torch.from_numpy(draw(g, 8 * m, 3)[k].numpy().reshape(8, m, 3)) for k in (0, 1)]
    x, y = (
        ((z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-12).sqrt()).reshape(-1, 3)
        for z in mixtures
    )
    book.claim("train law", emd(x, y).value, layer_bounds.batch_norm(3), rounding(x, y))


def unitize(u: Tensor, layer: Unitized, eps: float) -> Tensor:
    """The layer's output, straight from its definition."""
    alpha = torch.as_tensor(layer.alpha, dtype=torch.float64)
    ratio = u.norm(dim=1, keepdim=True) / layer.target
    n = torch.hypot(ratio, torch.tensor(eps, dtype=torch.float64).sqrt())
    s = {
        "harmonic": lambda: 1 / (alpha * n + (1 - alpha)),
        "arithmetic": lambda: alpha / n + (1 - alpha),
        "geometric": lambda: n**-alpha,
    }[layer.interpolation]()
    return torch.where(u == 0, 0.0, s * u) * (1 if layer.weight is None else layer.weight)


def verify_unitized(book: Ledger, g: np.random.Generator) -> None:
    n, d = int(g.choice([1, 2, 5, 12])), int(g.choice([1, 2, 6]))
    a, b, label = draw(g, n, d)
    clouds = [z * 10 ** g.uniform(-3, 3) * unit(g) for z in (a, b)]
    target, eps = 10 ** g.uniform(-2, 3) * unit(g), float(g.choice([0, 1e-5, 1e-3, 1]))
    scalar = bool(g.random() < 0.5)
    for form in INTERPOLATIONS:
        layers, outputs, inside = [], [], []
        for u in clouds:
            alpha = 1.0 if g.random() < 0.1 else g.uniform(1e-3, 1) if scalar else uniform(g, 1e-3, 1, d)
            plain = scalar and g.random() < 0.5
            weight = None if plain else torch.from_numpy(g.normal(size=d) * unit(g, 40))
            bias = None if plain else torch.from_numpy(g.normal(size=d) * unit(g))
            norms = u.norm(dim=1)
            known: Tensor | float | None = [None, float(norms.mean()), norms][int(g.integers(3))]
            layer = Unitized(form, alpha, target, weight, bias, known)
            y = unitize(u, layer, eps)
            reach = y.norm(dim=1)
            off = f"{label}, {form}, alpha={alpha}, norms {type(known).__name__}"
            book.claim(f"{form}: E|y - β|", float(reach.mean()), layer.radius(), rounding(y), off)
            book.claim(f"{form}: rms |y - β|", float(reach.square().mean().sqrt()), layer.radius(2), rounding(y), off)
            book.claim(f"{form}: |y - β|", float(reach.max()), layer.noise_free_radius(), rounding(y), off)
            layers.append(layer)
            inside.append(y)
            outputs.append(y if bias is None else y + bias)
        w1 = emd(*outputs).value
        book.claim(f"{form}: W1", w1, layer_bounds.unitized(*layers), rounding(*outputs), label)
        means = [z.mean(0) for z in inside]
        sharper = layer_bounds.unitized(*layers, 1, *means)
        book.claim(f"{form}: W1 with means", w1, sharper, rounding(*outputs, *inside), label)
    alpha = g.uniform(0, 1)
    layer = Unitized("arithmetic", alpha, target)
    least = layer_bounds.arithmetic_lower(alpha, *(u.norm(dim=1) for u in clouds))
    if all(bool((u.norm(dim=1) > 0).all()) for u in clouds):
        x, y = (unitize(u, layer, 0.0) for u in clouds)
        book.claim("arithmetic: lower", least, emd(x, y).value, rounding(*clouds, x, y), label)


def verify(cases: int, seed: int) -> Ledger:
    book, g = Ledger(), np.random.default_rng(seed)
    for _ in range(cases):
        verify_batch_norm(book, g)
        verify_tensors(book, g)
        verify_unitized(book, g)
    return book


def test_no_bound_is_violated() -> None:
    book = verify(420, seed=0)
    assert book.total >= 10_000
    assert book.violated() == {}


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_no_bound_is_violated_in_a_hundred_thousand_evaluations(seed: int) -> None:
    book = verify(450, seed=50 + seed)
    assert book.total >= 10_000
    assert book.violated() == {}


values = st.floats(-1e3, 1e3, allow_subnormal=False)
clouds = st.lists(st.tuples(values, values), min_size=2, max_size=5).map(
    functools.partial(torch.tensor, dtype=torch.float64)
)
alphas = st.floats(1e-3, 1)


@given(clouds, clouds, alphas, alphas, st.floats(1e-3, 1e3), st.sampled_from(INTERPOLATIONS))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_bound_is_violated_on_chosen_numbers(
    a: Tensor, b: Tensor, first: float, second: float, target: float, form: Interpolation
) -> None:
    book, n = Ledger(), min(len(a), len(b))
    a, b = a[:n], b[:n]
    u, v = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (a, b))
    book.claim("batch norm", emd(u, v).value, layer_bounds.batch_norm(2), rounding(u, v))
    layers = [Unitized(form, alpha, target, norms=z.norm(dim=1)) for alpha, z in ((first, a), (second, b))]
    x, y = (unitize(z, layer, 1e-5) for layer, z in zip(layers, (a, b), strict=True))
    book.claim("unitized", emd(x, y).value, layer_bounds.unitized(*layers), rounding(x, y))
    assert book.violated() == {}


def test_false_statements_are_refuted() -> None:
    book, g = Ledger(), np.random.default_rng(0)
    for _ in range(100):
        pattern = torch.from_numpy(g.normal(size=(1, 1, 4)))
        x = (pattern - pattern.mean()) / pattern.std(correction=0) * torch.ones(3, 1, 1)
        book.claim(
            "whole tensors keep sqrt(2 d)", emd(x.flatten(1), -x.flatten(1)).value, layer_bounds.batch_norm(4), 0
        )
        u = torch.from_numpy(g.normal(size=(6, 3)))
        for form in INTERPOLATIONS:
            layer = Unitized(form, 0.5, 1.0)
            y, z = unitize(u, layer, 0.0), unitize(100 * u + 5, layer, 0.0)
            book.claim(f"{form}: noise-free by 2 κ / α", emd(y, z).value, 2 * layer.target / 0.5, 0)
    assert set(book.violated()) == {
        "whole tensors keep sqrt(2 d)",
        "arithmetic: noise-free by 2 κ / α",
        "geometric: noise-free by 2 κ / α",
    }


def test_known_constants() -> None:
    assert layer_bounds.batch_norm(8) == 4.0
    assert layer_bounds.batch_norm_tensor(4, 4) == 8.0
    for count, factor in ((4, 2.236), (8, 1.342), (16, 1.144), (128, 1.016)):
        assert layer_bounds.small_batch_norm(8, count) == pytest.approx(4 * factor, abs=2e-3)
    assert layer_bounds.small_batch_norm(8, 3) == INF
    assert layer_bounds.small_batch_shift(64, 3) == INF
    assert layer_bounds.effective_count(32, 49, 0.0) == 32 * 49
    assert layer_bounds.effective_count(32, 49, 1.0) == 32
    assert layer_bounds.noisy_batch_norm_coarse(9, 0.0, 1.0) == INF
    assert layer_bounds.noisy_batch_norm_coarse(9, 0.0, 0.0) == pytest.approx(math.sqrt(18))
    assert Unitized("harmonic", 0.25, 2.0).radius() == 8.0
    assert Unitized("harmonic", 0.0, 2.0).radius() == INF
    assert Unitized("arithmetic", 0.5, 2.0).radius() == Unitized("geometric", 0.5, 2.0).radius() == INF
    assert {Unitized(form, 1.0, 2.0).radius() for form in INTERPOLATIONS} == {2.0}
    assert Unitized("harmonic", torch.tensor([0.0, 0.5]), 2.0, weight=torch.tensor([0.0, 3.0])).radius() == 12.0
    assert Unitized("geometric", 0.5, 4.0, norms=9.0).radius() == pytest.approx(6.0)


def test_the_harmonic_constant_is_attained_in_the_limit() -> None:
    u = torch.eye(3, dtype=torch.float64)[:1] * 1e9
    layer = Unitized("harmonic", 0.5, 3.0)
    w1 = emd(unitize(u, layer, 0.0), unitize(-u, layer, 0.0)).value
    assert w1 == pytest.approx(layer_bounds.unitized(layer, layer), rel=1e-6)


@pytest.mark.parametrize(("d", "count", "unbiased"), [(16, 8, False), (16, 64, False), (16, 8, True)])
def test_noise_of_small_gaussian_batches(d: int, count: int, unbiased: bool) -> None:
    """Simulated means: (1 + δ^2)/(1 + η)^2 = (M + 1)/(M - 3), shift^2 = 2 d / (M - 3), within 6 standard errors."""
    bound = layer_bounds.small_batch_norm(d, count, unbiased=unbiased)
    assert not unbiased or bound == pytest.approx(math.sqrt(2 * d * (count**2 - 1) / (count * (count - 3))))
    g = torch.Generator().manual_seed(count)
    batches = torch.randn(2, 8000, count, d, generator=g, dtype=torch.float64)
    mean, deviation = batches.mean(2), batches.std(2, correction=int(unbiased))
    second = ((1 + mean.square()) / deviation.square())[0].flatten()
    error = float(second.std()) / math.sqrt(len(second))
    assert float(second.mean()) == pytest.approx(bound**2 / (2 * d), abs=6 * error)
    shift = (mean / deviation).diff(dim=0)[0].square().sum(1)
    error = float(shift.std()) / math.sqrt(len(shift))
    expected = layer_bounds.small_batch_shift(d, count, unbiased=unbiased)
    assert float(shift.mean()) == pytest.approx(expected**2, abs=6 * error)


@dataclass
class Layer:
    radius: float
    bias: Tensor | None

    def bound(self, positions: int = 1) -> float:
        return self.radius * positions


def test_layer_bound_asks_the_layers() -> None:
    before, after = Layer(2.0, torch.tensor([1.0, 0.0])), Layer(3.0, torch.tensor([1.0, 5.0]))
    assert layer_bound(before, after) == 10.0
    assert layer_bound(before, after, positions=4) == 4 * 5 + 2 * 5.0
    assert layer_bound(Layer(1.0, None), after) == pytest.approx(4 + math.sqrt(26))
    assert layer_bound(Layer(1.0, None), Layer(INF, None)) == INF


T, D = torch.tensor, functools.partial(torch.tensor, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layer_bounds.batch_norm(0), "dimension must be an integer of at least 1, got 0"),
        (
            lambda: layer_bounds.batch_norm_affine(T([1.0]), T([1.0, 2]), T([0.0]), T([0.0])),
            r"weight_b must be.*\(1,\)",
        ),
        (lambda: layer_bounds.batch_norm_tensor(1, 2, mean_a=T([0.0, 0])), "mean_a and mean_b must be given together"),
        (
            lambda: layer_bounds.batch_norm_tensor(1, 2, D([1e200, 0]), T([0.0, 0])),
            r"mean_a must be at most sqrt\(2\) long, as E\|u\|\^2 <= 2 has it, got 1e\+200",
        ),
        (
            lambda: layer_bounds.unitized(*2 * [Unitized("harmonic", 0.5, 1.0)], 1, T([0.0]), T([3.0])),
            r"mean_b must be no longer than the outputs are in root mean square, 2, got 3\.0",
        ),
        (lambda: Noise(T([0.0]), T([-1.0])), r"eta must exceed -1 everywhere"),
        (lambda: layer_bounds.noise_effect(Noise(T([0.0]), T([0.0])), Noise(T([0.0, 0]), T([0.0, 0]))), "got 1 and 2"),
        (lambda: Unitized("harmonc", 0.5, 1.0), "did you mean 'harmonic'"),  # type: ignore[arg-type]
        (lambda: Unitized("harmonic", 1.5, 1.0), r"alpha must lie in \[0, 1\], got 1.5"),
        (lambda: Unitized("harmonic", T([0.5, 1.5]), 1.0), r"alpha must lie in \[0, 1\], got '0.5 to 1.5'"),
        (lambda: Unitized("harmonic", 0.5, 0.0), "target must be positive, got 0.0"),
        (lambda: Unitized("harmonic", T([0.5]), 1.0, weight=T([1.0, 2])), r"weight must be a tensor of shape \(1,\)"),
        (lambda: Unitized("harmonic", 0.5, 1.0, norms=T([-1.0])), "norms must be nonnegative, got -1.0"),
        (lambda: Unitized("harmonic", 0.5, 1.0, norms=-1.0), r"norms must lie in \[0, inf\], got -1.0"),
        (lambda: layer_bound(Layer(1, T([0.0])), Layer(1, T([0.0, 1]))), "bias must have the same shape at both steps"),
        (lambda: layer_bound(torch.nn.Identity(), Layer(1, None)), "before must have a method bound"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("scale", [1e-290, 1e-200, 1.0, 1e200, 1e290])
@pytest.mark.parametrize("form", INTERPOLATIONS)
def test_bounds_scale_with_outputs_whose_squares_are_no_float64(scale: float, form: layer_bounds.Interpolation) -> None:
    """Everything in units of `scale` multiplies every bound by it."""
    weights, biases = D([[3.0, 0.0], [0.0, 4.0]]), D([[0.0, 12.0], [0.0, 0.0]])
    assert layer_bounds.batch_norm_affine(*weights * scale, *biases * scale) == pytest.approx(13 * scale)

    norms, means = D([4.0, 16.0]), D([[0.5, 0.5], [-0.5, 0.5]])

    def layers(unit: float) -> list[Unitized]:
        return [Unitized(form, 0.5, 4 * unit, None, bias * unit, norms * unit) for bias in biases]

    found = layer_bounds.unitized(*layers(scale), 1, *means * scale)
    assert found == pytest.approx(scale * layer_bounds.unitized(*layers(1.0), 1, *means), rel=1e-12)
    assert layer_bounds.arithmetic_lower(0.5, norms * scale, 3 * norms * scale) == pytest.approx(10 * scale)

    far = Unitized(form, 0.5, 1.0, norms=D([0.0, scale]))
    reach = {"harmonic": 1 / (0.5 + 0.5 / scale), "arithmetic": 0.5 + 0.5 * scale, "geometric": math.sqrt(scale)}[form]
    silent = 0.5 if form == "arithmetic" else 0.0  # what a norm of 0 allows
    assert far.radius() == pytest.approx((reach + silent) / 2)


def test_noise_beyond_the_squares_of_float64() -> None:
    for scale in (1e-200, 1e200):
        shifted, still = (Noise(D([z * scale]), T([0.0])) for z in (1.0, 0.0))
        assert layer_bounds.noise_only(shifted, still) == (scale, scale)
        assert layer_bounds.noisy_batch_norm(shifted, still) == pytest.approx(max(scale, math.sqrt(2)))
    wide = Noise(T([0.0]), D([1e250]))
    assert layer_bounds.noisy_batch_norm(wide, wide) == pytest.approx(math.sqrt(2) * 1e-250)


def test_a_layer_that_may_reach_beyond_float64_has_an_infinite_bound() -> None:
    layer = Unitized("arithmetic", T([0.5, 1.0]), 1.0, D([1e300, 0.0]), norms=D([1e300, 1.0]))
    assert layer.radius() == layer.radius(2) == INF
    assert layer_bounds.unitized(layer, layer, 1, D([1e300]), D([1e300])) == INF
