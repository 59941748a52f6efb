"""What unitization forgets of a layer's outputs, raw or normalized first.

Unitizing x returns its direction: one number a sample, its norm, is gone at α = 1, and none below, where the norm of
the output is an increasing function of it. Of raw outputs with large means the direction is nearly the same for all
samples, and what tells them apart is small beside it; batch norm takes the means away first. Two readers judge: a
linear probe for the class (ridge regression, one penalty relative to the mean square of its inputs, so that small
differences count little), and the norm, recovered by the inverse of the layer and by a linear probe.

A network whose alpha was trained is read too: each layer at its own alpha by channel, and at 1 in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from icsbound.measure.capture import capture
from icsbound.records import PointRecord
from icsbound.study.networks import Trained, decoded, trained
from icsbound.study.setting import Panel, Setting
from icsbound.study.unitization import layer, through
from icsbound.training import seeds

NAME = "information"
FIT = 600  # training images that a probe is fitted on
PENALTY = 1e-3
MAPS = ("raw", "raw, unitized", "batch norm", "batch norm, α = 0.5", "batch norm, unitized")
OFFSETS = (0.0, 1.0, 10.0, 100.0, 1000.0)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
TRAINED = "α as trained"
RIDGE = "ridge regression, held out"


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """Probes on the layers of a network with batch norm and of one whose alpha was trained."""
    for run in trained(setting, ("bn", "unitized"), seed):
        yield from _normalized(run, seed) if run.config.arm == "bn" else _unitized(run, seed)


def _normalized(run: Trained, seed: int) -> Iterator[PointRecord]:
    """Every layer under all of `MAPS`, then one layer whose outputs are moved away from 0."""
    fit, test, labels, truth = _features(run)
    for depth, name in enumerate(fit):
        a, b = fit[name].double(), test[name].double()  # one layer at a time: all of them would fill a laptop
        panel = Panel(NAME, "by layer", seed, len(truth), a.shape[1], RIDGE)
        for curve in MAPS:
            yield panel.point(curve, depth, read(*represented(curve, a, b), labels, truth))
    middle = _middle(fit)
    a, b = fit[middle].double(), test[middle].double()
    deviation = a.std(0, correction=0)
    for offset in OFFSETS:
        moved = [x + offset * deviation for x in (a, b)]
        panel = Panel(NAME, "offset", seed, len(truth), len(deviation), RIDGE)
        for curve in MAPS:
            yield panel.point(curve, offset, read(*represented(curve, *moved), labels, truth))
    yield from _norms(a, b, seed)


def _unitized(run: Trained, seed: int) -> Iterator[PointRecord]:
    """Every layer normalized, at its own alpha and at 1; the norm of the middle one's samples at its own, 0 and 1."""
    fit, test, labels, truth = _features(run)
    layers = dict(run.network().named_modules())
    for depth, name in enumerate(fit):
        a, b = standardized(fit[name].double(), test[name].double())
        own = layers[name.partition("#")[0]].get_parameter("alpha").detach().clamp(0, 1)
        alpha = own.double().repeat_interleave(a.shape[1] // len(own))  # channels are blocks of a flattened output
        panel = Panel(NAME, "trained", seed, len(truth), a.shape[1], RIDGE)
        yield panel.point(TRAINED, depth, read(unitized(a, alpha), unitized(b, alpha), labels, truth))
        yield panel.point("α = 1", depth, read(unitized(a), unitized(b), labels, truth))
        if name == _middle(fit):
            panel = Panel(NAME, "norm", seed, len(b), b.shape[1], "R², held out")
            for x, value in ((0.0, 0.0), (float(alpha.mean()), alpha), (1.0, 1.0)):
                yield panel.point("probe where α was trained", x, _norm_read(a, b, value))


def _middle(layers: dict[str, Tensor]) -> str:
    return list(layers)[len(layers) // 2]


def _features(run: Trained) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """What the normalization layers are given, flattened, on training and held-out images, with both labels."""
    train, normalize, model = run.splits().train, run.normalize(), run.network()
    order = torch.randperm(len(train), generator=seeds.generator(run.config.seed, "probe fit"))
    parts = decoded(train.take(order[:FIT])), decoded(run.probe(FIT))
    dtype = next(model.parameters()).dtype
    found = [capture(model, normalize(images, dtype), side="inputs", view="sample") for images, _ in parts]
    return found[0], found[1], parts[0][1], parts[1][1]


def standardized(fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both by mean and deviation of the first; a value that never changes stays 0."""
    mean, deviation = fit.mean(0), fit.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, torch.inf)
    return (fit - mean) / scale, (test - mean) / scale


def unitized(x: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
    """The harmonic layer on x (n, d) as it is, at one alpha or (d,) of them: κ = sqrt(d), no statistics."""
    made = layer(x.shape[1], "harmonic", 1.0)
    made.get_parameter("alpha").data.copy_(torch.as_tensor(alpha))
    return through(made, x)


def represented(curve: str, fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both parts under one of `MAPS`."""
    if curve.startswith("batch norm"):
        fit, test = standardized(fit, test)
    if curve.endswith("unitized"):
        return unitized(fit), unitized(test)
    return (unitized(fit, 0.5), unitized(test, 0.5)) if "α" in curve else (fit, test)


def read(fit: Tensor, test: Tensor, labels: Tensor, truth: Tensor) -> float:
    """Accuracy on `test`, whose classes are `truth`, of a linear classifier that was fitted on `fit` and `labels`."""
    targets = torch.nn.functional.one_hot(labels).double()
    return float((ridge(fit, targets, test).argmax(1) == truth).double().mean())


def ridge(x: Tensor, y: Tensor, test: Tensor) -> Tensor:
    """Predictions on `test` of min |y - x w - b|²/n + λ m |w|², m the mean square norm of x; solved among samples."""
    mean, level = x.mean(0), y.mean(0)
    z = x - mean
    gram = z @ z.T
    gram.diagonal().add_(len(x) * PENALTY * float(x.square().sum(1).mean()))
    found: Tensor = (test - mean) @ (z.T @ torch.linalg.solve(gram, y - level)) + level
    return found


def _norms(fit: Tensor, test: Tensor, seed: int) -> Iterator[PointRecord]:
    """R² of the norm of u, by the inverse of the layer and by a linear probe on its direction and length."""
    fit, test = standardized(fit, test)
    truth = torch.linalg.vector_norm(test, dim=1)
    panel = Panel(NAME, "norm", seed, len(test), test.shape[1], "R², held out")
    for alpha in ALPHAS:
        if alpha < 1:
            b = unitized(test, alpha)
            s = torch.linalg.vector_norm(b, dim=1) / math.sqrt(b.shape[1])
            back = (1 - alpha) * s / (1 - alpha * s) * math.sqrt(b.shape[1])
            yield panel.point("inverse of the layer", alpha, _explained(back, truth), 1.0, "equal", tolerance=1e-6)
        yield panel.point("linear probe", alpha, _norm_read(fit, test, alpha))


def _norm_read(fit: Tensor, test: Tensor, alpha: float | Tensor) -> float:
    """R² of a linear probe for the norms of normalized outputs, on what the layer makes of them and its length."""
    target, truth = (torch.linalg.vector_norm(z, dim=1, keepdim=True) for z in (fit, test))
    made = [unitized(z, alpha) for z in (fit, test)]
    a, b = (torch.cat([z, torch.linalg.vector_norm(z, dim=1, keepdim=True)], 1) for z in made)
    return _explained(ridge(a, target, b), truth)


def _explained(guess: Tensor, truth: Tensor) -> float:
    """R² = 1 - residual / variance."""
    return 1 - float((guess - truth).square().mean() / (truth - truth.mean()).square().mean())
