"""What unitization does with errors of the statistics: of one common factor, of single channels, and with none at all.

Where every deviation is understated by the factor ρ, the normalized sample u of norm κ becomes ρ u, and the layer
returns the norm κ r with (n = ρ)

    batch norm r = ρ,    arithmetic r = α + (1 - α) ρ,    geometric r = ρ^(1 - α),    harmonic r = ρ / (α ρ + 1 - α):

the weighted means of 1 and ρ. Directions stay, so W1 between right and wrong statistics is κ |r - 1|. Only the harmonic
form is bounded, by κ/α, and per channel by R = κ max |γ_c|/α_c about the bias. Errors of single channels turn the
direction, and no α undoes that. All is measured on the layers themselves, with stored statistics. Derived here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from icsbound.measure.emd import emd
from icsbound.measure.layer_bounds import layer_bound
from icsbound.norm import UnitizedBatchNorm1d
from icsbound.records import PointRecord
from icsbound.study import laws
from icsbound.study.noise import by_batch, drawn
from icsbound.study.setting import Panel, Setting
from icsbound.training import seeds

NAME = "unitization"
D, PROBE = 16, 256
FORMS = ("arithmetic", "geometric", "harmonic")
ALPHAS = {0.0: "α = 0 (batch norm)", 0.25: "α = 0.25", 0.5: "α = 0.5", 0.75: "α = 0.75", 1.0: "α = 1"}
# Curve -> form and alpha of the layer that is measured for it, a small chart a form. At alpha = 0 all forms are batch
# norm, and at 1 all are one: there one layer stands for all three.
CURVES = {
    f"{form} · {name}": (form if 0 < alpha < 1 else "harmonic", alpha)
    for form in FORMS
    for alpha, name in ALPHAS.items()
}
LAYERS = tuple(dict.fromkeys(CURVES.values()))
# Curve -> the largest factor by which deviations are wrong.
RANKED = {"exact statistics": 1.0, "off by up to 1,000 times": 1000.0}


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """A common factor on all deviations, errors by channel, the bound under random parameters, samples that flip."""
    g = seeds.generator(seed, NAME)
    z = laws.sphere(PROBE, D, g)
    measured = {of: [*_common(seed, *of, z)] for of in LAYERS}
    for name, of in CURVES.items():
        yield from (dataclasses.replace(point, curve=name) for point in measured[of])
    for m in (8, 16, 32, 64, 128):
        yield from _by_channel(seed, m, 40 if setting.full else 10, g)
    for exponent in range(7):
        yield from _within(seed, 10.0**exponent, g)
    for name, rho in RANKED.items():
        yield from _ranked(seed, name, rho, 60 if setting.full else 40, g)
    for alpha in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        yield from _flipping(seed, alpha)


def mean_of(form: str, alpha: float, rho: float) -> float:
    """r: the mean of 1 and `rho` with weights α and 1 - α."""
    if form == "arithmetic":
        return alpha + (1 - alpha) * rho
    return rho ** (1 - alpha) if form == "geometric" else rho / (alpha * rho + 1 - alpha)


def layer(d: int, form: str, alpha: float, rho: float = 1.0, *, shrink_only: bool = False) -> UnitizedBatchNorm1d:
    """A layer in evaluation mode whose stored deviations are 1/ρ and whose ε is negligible; κ = sqrt(d)."""
    made = UnitizedBatchNorm1d(
        d,
        eps=0.0,
        norm_eps=1e-24,
        interpolation=form,
        alpha_init=alpha,
        dtype=torch.float64,
        shrink_only=shrink_only,
    )
    made.get_buffer("running_var").fill_(rho**-2.0)
    return made.eval()


@torch.no_grad()
def through(made: nn.Module, z: Tensor) -> Tensor:
    """What the layer `made` makes of z."""
    out: Tensor = made(z)
    return out


def _common(seed: int, form: str, alpha: float, z: Tensor) -> Iterator[PointRecord]:
    """What one factor on all deviations does to a layer; the curve is named by whom it is drawn for."""
    for rho in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0):
        yield _norm(seed, form, alpha, rho, z)
    for rho in (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0):
        yield from _stale(seed, form, alpha, rho, z)


def _norm(seed: int, form: str, alpha: float, rho: float, z: Tensor) -> PointRecord:
    y = through(layer(D, form, alpha, rho), z)
    value = float(torch.linalg.vector_norm(y, dim=1).mean()) / math.sqrt(D)
    panel = Panel(NAME, "common scale", seed, PROBE, D, "mean output norm over κ")
    return panel.point("", rho, value, mean_of(form, alpha, rho), "equal", tolerance=1e-9)


def _stale(seed: int, form: str, alpha: float, rho: float, z: Tensor) -> Iterator[PointRecord]:
    """W1 between right and understated deviations, absolute and over the root mean square norm of both outputs."""
    a, b = (through(layer(D, form, alpha, factor), z) for factor in (1.0, rho))
    found, r = emd(a, b), mean_of(form, alpha, rho)
    panel = Panel(NAME, "stale deviations", seed, found.n, D, found.estimator)
    # At alpha = 1 the two outputs agree up to rounding: the tolerance is one of W1 over κ there.
    yield panel.point("", rho, found.value, math.sqrt(D) * abs(r - 1), "equal", tolerance=1e-9)
    panel = Panel(NAME, "stale deviations, scale-free", seed, found.n, D, found.estimator)
    relative = abs(r - 1) / math.sqrt((1 + r * r) / 2)
    yield panel.point("", rho, found.value / rms_norm(a, b), relative, "equal", tolerance=1e-9)


def rms_norm(a: Tensor, b: Tensor) -> float:
    """sqrt((E|a|² + E|b|²) / 2)."""
    return math.sqrt(float(a.square().sum(1).mean() + b.square().sum(1).mean()) / 2)


def _by_channel(seed: int, m: int, draws: int, g: torch.Generator) -> Iterator[PointRecord]:
    """Noise alone, as in the study `noise`, with and without unitization, over the root mean square norm."""
    d, n = 64, 200
    found: dict[tuple[str, float], list[float]] = {of: [] for of in LAYERS}
    for _ in range(draws):
        z = drawn((n, d), g)
        noisy = [by_batch(z, drawn((m, d), g)) for _ in range(2)]
        for of, values in found.items():
            a, b = (through(layer(d, *of), u) for u in noisy)
            values.append(emd(a, b).value / rms_norm(a, b))
    panel = Panel(NAME, "errors by channel", seed, n, d, f"exact, mean of {draws} draws")
    for name, of in CURVES.items():
        yield panel.point(name, m, sum(found[of]) / draws)


@torch.no_grad()
def _random(least: float, rho: float, g: torch.Generator) -> UnitizedBatchNorm1d:
    """A harmonic layer with random α of at least `least`, γ and β by channel; errors of up to 1/ρ, none where ρ = 1."""
    made = layer(D, "harmonic", 0.5)
    made.get_parameter("alpha").uniform_(least, 1.0, generator=g)
    made.get_parameter("weight").normal_(generator=g)
    made.get_parameter("bias").normal_(generator=g)
    if rho > 1:
        made.get_buffer("running_var").copy_(rho ** (-2 * torch.rand(D, generator=g, dtype=torch.float64)))
        made.get_buffer("running_mean").normal_(generator=g)
    return made


def _within(seed: int, rho: float, g: torch.Generator) -> Iterator[PointRecord]:
    """How much of R and of |β − β′| + R + R′ two random layers use, which stand for two steps."""
    pair = _random(0.2, rho, g), _random(0.2, rho, g)
    outputs = [through(made, drawn((PROBE, D), g)) for made in pair]
    found = emd(*outputs)
    reach = max(
        float(torch.linalg.vector_norm(y - made.get_parameter("bias").detach(), dim=1).max()) / made.bound()
        for y, made in zip(outputs, pair, strict=True)
    )
    panel = Panel(NAME, "bound", seed, PROBE, D, found.estimator)
    used = found.value / layer_bound(*pair)
    yield panel.point("W1 over |β − β′| + R + R′", rho, used, 1.0, "at most", tolerance=1e-9)
    yield panel.point("farthest output over R", rho, reach, 1.0, "at most", tolerance=1e-9)


def _ranked(seed: int, name: str, rho: float, draws: int, g: torch.Generator) -> Iterator[PointRecord]:
    """Bound and distance of pairs of random layers, of small α and of large: is the bound too loose to rank them?"""
    found = []
    for _ in range(draws):
        least, other = (0.05 + 0.95 * torch.rand(2, generator=g)).tolist()
        pair = _random(least, rho, g), _random(other, rho, g)
        found.append((layer_bound(*pair), emd(*(through(made, drawn((PROBE, D), g)) for made in pair)).value))
    panel = Panel(NAME, "bound against shift", seed, PROBE, D, f"exact, {draws} draws")
    for bound, value in sorted(found):  # so that averages over seeds are over like ones
        yield panel.point(name, bound, value, bound, "at most", tolerance=1e-9)


def _flipping(seed: int, alpha: float) -> Iterator[PointRecord]:
    """Small samples that change sign while large ones carry the variance: unitization makes all of them alike.

    The small ones have n = 0.01, so that their displacement, which is all there is, is multiplied by the mean over n.
    """
    before = laws.flipping(D)
    apart = emd(*before).value
    panel = Panel(NAME, "small samples flip", seed, len(before[0]), D, "exact")
    for form in FORMS:
        for shrink_only in (False, True):
            after = (through(layer(D, form, alpha, shrink_only=shrink_only), z) for z in before)
            ratio = emd(*after).value / apart
            if shrink_only:  # each form is then 1-Lipschitz
                yield panel.point(f"{form}, shrink only", alpha, ratio, 1.0, "at most", tolerance=1e-9)
            else:
                yield panel.point(form, alpha, ratio, mean_of(form, alpha, 0.01) / 0.01, "equal", tolerance=1e-9)
