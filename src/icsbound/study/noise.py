"""What noise in batch norm's statistics does to its outputs, under the three laws that an experiment may mean.

Statistics of M independent Gaussian values a channel are off by δ standard deviations in the mean, Var δ = 1/M, and by
the factor 1 + η in the deviation, (1 + η)² ~ χ²(M - 1)/M. *Frozen law*: one draw of them normalizes the probe. *Eval
law*: running averages over many batches do, at rate λ. *Train law*: the probe comes in batches and each is normalized
by its own, so that its mean is 0 and its second moment at most 1 whatever M is: a law without noise. Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from icsbound.measure import bounds, layer_bounds
from icsbound.measure.cheap import cheap_bracket
from icsbound.measure.emd import emd
from icsbound.records import PointRecord
from icsbound.study.dimension import normalized
from icsbound.study.setting import Panel, Setting
from icsbound.training import seeds

NAME = "noise"
D, PROBE = 64, 256
RATES = (0.1, 0.01)  # of running statistics: torch's default, Keras's


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """Noise alone, noise on two different layers, the lag of running statistics, and heavy tails."""
    draws = 80 if setting.full else 20
    batches = (4, 8, 16, 32, 64, 128, *((256, 512) if setting.full else ()))
    g = seeds.generator(seed, NAME)
    for m in batches[1:]:
        yield from _noise_only(seed, m, draws, g)
    for m in batches:
        yield from _two_layers(seed, m, draws, g)
    for rate in RATES:
        for drift in (0.001, 0.003, 0.01, 0.03, 0.1):
            yield _lag(seed, rate, drift, draws // 10, g)
    for name in TAILS:
        yield _tails(seed, name, draws, g)


def drawn(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Standard normal values."""
    return torch.randn(shape, generator=g, dtype=torch.float64)


def by_batch(z: Tensor, batch: Tensor) -> Tensor:
    """z (n, d) normalized by the mean and biased variance of another batch (M, d)."""
    return (z - batch.mean(0)) / batch.std(0, correction=0)


def paired_rms(d: int, m: int) -> float:
    """sqrt(E sum_j (gain_j - gain'_j)² + (shift_j - shift'_j)²) over two batches of M > 3 Gaussian values a channel.

    gain² = M/χ²(M - 1) has mean M/(M - 3), gain has mean sqrt(M/2) Γ(M/2 - 1)/Γ((M - 1)/2), shift² has mean 1/(M - 3).
    The identity coupling then costs at most this in the mean, by Jensen, and so does the best.
    """
    gain = math.sqrt(m / 2) * math.exp(math.lgamma(m / 2 - 1) - math.lgamma((m - 1) / 2))
    return math.sqrt(2 * d * (1 / (m - 3) + m / (m - 3) - gain * gain))


def _noise_only(seed: int, m: int, draws: int, g: torch.Generator) -> Iterator[PointRecord]:
    """One layer, one law of the data, two batches of M for the statistics: what moves is the noise."""
    shifts, distances = [], []
    for _ in range(draws):
        z = normalized(drawn((PROBE, D), g))
        a, b = (by_batch(z, drawn((m, D), g)) for _ in range(2))
        shifts.append(bounds.mean_shift(a, b) ** 2)
        distances.append(emd(a, b).value)
    panel = Panel(NAME, "noise alone", seed, PROBE, D)
    shift = math.sqrt(_mean(shifts))
    predicted = layer_bounds.small_batch_shift(D, m)
    yield panel.point("shift of the mean", m, shift, predicted, "equal", estimator=f"rms of {draws} draws")
    yield panel.point(
        "W1, frozen law", m, _mean(distances), paired_rms(D, m), "at most", estimator=f"exact, mean of {draws} draws"
    )


def _two_layers(seed: int, m: int, draws: int, g: torch.Generator) -> Iterator[PointRecord]:
    """Two independent clouds with exact means and variances, under noise from batches of M of their own rows.

    Noise also enlarges the outputs. Over their spread, the independent coupling bounds W1 by more than sqrt(2) only as
    far as means were moved apart.
    """
    distances: dict[str, list[float]] = {"frozen law": [], "eval law, rate 0.1": [], "train law": []}
    relative, most = ({curve: list[float]() for curve in distances} for _ in range(2))
    # Under the train law there is no noise of one draw.
    changes, limits = ({curve: list[float]() for curve in ("frozen law", "eval law, rate 0.1")} for _ in range(2))
    for _ in range(draws):
        pair = [normalized(drawn((PROBE, D), g)) for _ in range(2)]
        outputs = (
            [by_batch(z, z[_rows(m, g)]) for z in pair],
            [by_running(z, m, RATES[0], g) for z in pair],
            [by_own_batches(z, m, g) for z in pair],
        )
        exact = emd(*pair).value
        for curve, (a, b) in zip(distances, outputs, strict=True):
            value, bracket = emd(a, b).value, cheap_bracket(a, b)
            distances[curve].append(value)
            relative[curve].append(value / bracket.scale)
            most[curve].append(bracket.independent / bracket.scale)
            if curve in changes:
                changes[curve].append(abs(value - exact))
                limits[curve].append(layer_bounds.noise_effect(noise_in(a), noise_in(b)))
    absolute, scale_free, added = (
        Panel(NAME, name, seed, PROBE, D, f"exact, mean of {draws} draws")
        for name in ("two layers", "two layers, scale-free", "added")
    )
    noisy, steady = (  # an average of batches has the variance of one of so many values
        layer_bounds.small_batch_norm(D, count) for count in (m, m * (2 - RATES[0]) / RATES[0])
    )
    bounded = (noisy, 0.0), (steady, 0.0), (layer_bounds.batch_norm(D), 1e-9)
    for (curve, values), (bound, tolerance) in zip(distances.items(), bounded, strict=True):
        yield absolute.point(curve, m, _mean(values), bound, "at most", tolerance=tolerance)
    for curve, values in relative.items():
        yield scale_free.point(curve, m, _mean(values), _mean(most[curve]), "at most", tolerance=1e-9)
    for curve, values in changes.items():
        yield added.point(curve, m, _mean(values), _mean(limits[curve]), "at most", tolerance=1e-9)


def noise_in(y: Tensor) -> layer_bounds.Noise:
    """The errors that made y = (z - δ)/(1 + η) of outputs z with mean 0 and variance 1: y's own moments tell them."""
    deviation = y.std(0, correction=0)
    return layer_bounds.Noise(delta=-y.mean(0) / deviation, eta=1 / deviation - 1)


def _rows(m: int, g: torch.Generator) -> Tensor:
    return torch.randint(0, PROBE, (m,), generator=g)


def by_own_batches(z: Tensor, m: int, g: torch.Generator) -> Tensor:
    """z in batches of m in random order, each normalized by itself; rows as they were."""
    order = torch.randperm(len(z), generator=g)
    out = torch.empty_like(z)
    for index in torch.split(order, m):
        out[index] = normalized(z[index])
    return out


def by_running(z: Tensor, m: int, rate: float, g: torch.Generator) -> Tensor:
    """z by the running statistics of torch's batch norm after ten times 1/rate batches of m of its rows."""
    layer = nn.BatchNorm1d(z.shape[1], eps=1e-200, momentum=rate, affine=False, dtype=z.dtype)
    for _ in range(round(10 / rate)):
        layer(z[_rows(m, g)])
    out: Tensor = layer.eval()(z)
    return out


def _lag(seed: int, rate: float, drift: float, draws: int, g: torch.Generator) -> PointRecord:
    """Means that move by `drift` deviations a step: running ones lag behind by drift (1 - λ)/λ, and are noisy besides.

    λ/(2 - λ) of a batch's variance is left in them: 1/M of it in the mean and, to first order, 1/(2M) in the deviation.
    """
    m, values = 64, []
    for _ in range(draws):
        layer = nn.BatchNorm1d(D, eps=1e-200, momentum=rate, affine=False, dtype=torch.float64)
        side = torch.randint(0, 2, (D,), generator=g).double() * 2 - 1
        steps = round(8 / rate)
        for step in range(steps + 1):
            layer(drawn((m, D), g) + drift * step * side)
        z = drawn((PROBE, D), g)
        values.append(emd(layer.eval()(z + drift * steps * side), z).value)
    predicted = math.sqrt(D * ((drift * (1 - rate) / rate) ** 2 + rate / (2 - rate) * 1.5 / m))
    panel = Panel(NAME, "lag", seed, PROBE, D, f"exact, mean of {len(values)} draws")
    return panel.point(f"rate {rate:g}", drift, _mean(values), predicted, "equal", tolerance=0.05)


def _uniform(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return math.sqrt(12) * (torch.rand(shape, generator=g, dtype=torch.float64) - 0.5)


def _laplace(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    size = -torch.rand(shape, generator=g, dtype=torch.float64).clamp_min(1e-300).log() / math.sqrt(2)
    return size * (torch.randint(0, 2, shape, generator=g) * 2 - 1)


def _spikes(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    u = torch.rand(shape, generator=g, dtype=torch.float64)
    return 4.0 * ((u < 1 / 32).double() - (u > 31 / 32).double())


# Laws of mean 0 and variance 1 by name, with their kurtosis E z⁴.
TAILS: dict[str, tuple[float, Callable[[tuple[int, ...], torch.Generator], Tensor]]] = {
    "uniform": (1.8, _uniform),
    "normal": (3.0, drawn),
    "Laplace": (6.0, _laplace),
    "spikes": (16.0, _spikes),
}


def _tails(seed: int, name: str, draws: int, g: torch.Generator) -> PointRecord:
    """Noise alone for another law of the data: Var η is (kurtosis - 1)/(4M) to first order, and Var δ = 1/M."""
    (kurtosis, law), m = TAILS[name], 256
    values = [emd(*(by_batch(z, law((m, D), g)) for _ in range(2))).value for z in (law((PROBE, D), g),) * draws]
    panel = Panel(NAME, "tails", seed, PROBE, D, f"exact, mean of {draws} draws")
    predicted = math.sqrt(2 * D * (1 / m + (kurtosis - 1) / (4 * m)))
    return panel.point("W1, frozen law, M = 256", kurtosis, _mean(values), predicted, "equal", tolerance=0.1)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
