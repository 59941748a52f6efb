"""What unitization forgets of a layer's outputs, raw or normalized first.

Unitizing x returns its direction: one number a sample, its norm, is gone at α = 1, and none below, where the norm of
the output is an increasing function of it. Of raw outputs with large means the direction is nearly the same for all
samples, and what tells them apart is small beside it; batch norm takes the means away first. Two readers judge: a
linear probe for the class (ridge regression, one penalty relative to the mean square of its inputs, so that small
differences count little), and the norm, recovered by the inverse of the layer and by a linear probe.
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
FIT = 1000  # training images that a probe is fitted on
PENALTY = 1e-3
MAPS = ("raw", "raw, unitized", "batch norm", "batch norm, α = 0.5", "batch norm, unitized")
OFFSETS = (0.0, 1.0, 10.0, 100.0, 1000.0)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """Probes on every layer of a trained network, then on one layer whose outputs are moved away from 0."""
    for run in trained(setting, ("bn",), seed):
        fit, test, labels, truth = _features(run)
        for depth, name in enumerate(fit):
            a, b = fit[name].double(), test[name].double()  # one layer at a time: all of them would fill a laptop
            panel = Panel(NAME, "by layer", seed, len(truth), a.shape[1], "ridge regression, held out")
            for curve in MAPS:
                yield panel.point(curve, depth, probe(curve, a, labels, b, truth))
        middle = list(fit)[len(fit) // 2]
        a, b = fit[middle].double(), test[middle].double()
        deviation = a.std(0, correction=0)
        for offset in OFFSETS:
            moved = [x + offset * deviation for x in (a, b)]
            panel = Panel(NAME, "offset", seed, len(truth), len(deviation), "ridge regression, held out")
            for curve in MAPS:
                yield panel.point(curve, offset, probe(curve, moved[0], labels, moved[1], truth))
        yield from _norms(a, b, seed)


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


def unitized(x: Tensor, alpha: float = 1.0) -> Tensor:
    """The harmonic layer on x as it is: κ = sqrt(d), no statistics."""
    return through(layer(x.shape[1], "harmonic", alpha), x)


def represented(curve: str, fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both parts under one of `MAPS`."""
    if curve.startswith("batch norm"):
        fit, test = standardized(fit, test)
    if curve.endswith("unitized"):
        return unitized(fit), unitized(test)
    return (unitized(fit, 0.5), unitized(test, 0.5)) if "α" in curve else (fit, test)


def probe(curve: str, fit: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> float:
    """Held-out accuracy of a linear classifier on what `curve` makes of the outputs."""
    a, b = represented(curve, fit, test)
    targets = torch.nn.functional.one_hot(labels).double()
    return float((ridge(a, targets, b).argmax(1) == truth).double().mean())


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
    target = torch.linalg.vector_norm(fit, dim=1, keepdim=True)
    panel = Panel(NAME, "norm", seed, len(test), test.shape[1], "R², held out")
    for alpha in ALPHAS:
        a, b = (unitized(z, alpha) for z in (fit, test))
        if alpha < 1:
            s = torch.linalg.vector_norm(b, dim=1) / math.sqrt(b.shape[1])
            back = (1 - alpha) * s / (1 - alpha * s) * math.sqrt(b.shape[1])
            yield panel.point("inverse of the layer", alpha, _explained(back, truth), 1.0, "equal", tolerance=1e-6)
        with_length = [torch.cat([z, torch.linalg.vector_norm(z, dim=1, keepdim=True)], 1) for z in (a, b)]
        guess = ridge(with_length[0], target, with_length[1])[:, 0]
        yield panel.point("linear probe", alpha, _explained(guess, truth))


def _explained(guess: Tensor, truth: Tensor) -> float:
    """R² = 1 - residual / variance."""
    return 1 - float((guess - truth).square().mean() / (truth - truth.mean()).square().mean())
