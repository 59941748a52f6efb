"""Where a network loses an input that was shifted, or its own weights that were changed, layer by layer.

The exact distance between a layer's outputs on clean and on shifted images, or before and after pruning and rounding,
in units of their spread, for networks with batch norm, group norm and unitization, beside the accuracy that is left.
The question put to the bound: do means and variances alone (the independent coupling), which need no labels and no
transport, rank the conditions by the accuracy that they cost?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor, nn

from icsbound.measure.cheap import cheap_bracket
from icsbound.measure.emd import emd
from icsbound.records import PointRecord
from icsbound.study.networks import PROBE, Trained, clouds, decoded, trained
from icsbound.study.setting import Panel, Setting
from icsbound.training import data
from icsbound.training.corruptions import corrupt
from icsbound.training.perturb import perturb
from icsbound.training.score import score

NAME = "shift"
ARMS = ("bn", "gn", "unitized", "unitized-1")
SHIFTS = ("contrast:4", "fog:3", "gaussian_noise:5", "elastic_transform:3")
CHANGES = ("prune:0.5", "prune:0.8", "quantize:3")


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """Every condition in every network: distances by layer, accuracy, and what moments alone say at the last layer."""
    shifts = SHIFTS if not setting.full else tuple(f"{s.split(':')[0]}:{k}" for s in SHIFTS for k in range(1, 6))
    for run in trained(setting, ARMS, seed):
        model = run.network()
        clean = _clouds(run, model, run.probe())
        yield _accuracy(run, model, "none", seed)
        for condition in shifts:
            name, _, severity = condition.partition(":")
            yield from _compared(run, condition, clean, model, seed, (name, int(severity)))
        for condition in CHANGES:
            model = run.network()
            perturb(model, condition)
            yield from _compared(run, condition, clean, model.eval(), seed)


def _clouds(run: Trained, model: nn.Module, part: data.Dataset) -> dict[str, Tensor]:
    taken = clouds(model, run.normalize()(decoded(part)[0]), ("sample",))
    return {layer: cloud for (layer, _), cloud in taken.clouds.items()}


def _corrupted(part: data.Dataset, corruption: tuple[str, int] | None, seed: int) -> data.Dataset:
    if corruption is None:
        return part
    images, labels = decoded(part)
    return dataclasses.replace(part, images=corrupt(images, *corruption, seed), labels=labels)


def _accuracy(
    run: Trained, model: nn.Module, condition: str, seed: int, corruption: tuple[str, int] | None = None
) -> PointRecord:
    part = _corrupted(run.splits().part(run.config.split), corruption, seed)
    _, accuracy = score(model, part, run.normalize(), next(model.parameters()).dtype)
    return Panel(NAME, "accuracy", seed, len(part), estimator="accuracy").point(f"{condition} · {run.arm}", 0, accuracy)


def _compared(
    run: Trained,
    condition: str,
    clean: dict[str, Tensor],
    model: nn.Module,
    seed: int,
    corruption: tuple[str, int] | None = None,
) -> Iterator[PointRecord]:
    shifted = _clouds(run, model, _corrupted(run.probe(), corruption, seed))
    accuracy = _accuracy(run, model, condition, seed, corruption)
    yield accuracy
    curve = f"{condition} · {run.arm}"
    layers = [(emd(a, shifted[layer]), cheap_bracket(a, shifted[layer])) for layer, a in clean.items()]
    for depth, (found, bracket) in enumerate(layers):
        limit = min(bracket.independent, bracket.paired) / bracket.scale
        panel = Panel(NAME, "by layer", seed, PROBE, found.d, found.estimator)
        yield panel.point(curve, depth, found.value / bracket.scale, limit, "at most", tolerance=1e-9)
    last, bracket = layers[-1]
    for name, distance in (("distance", last.value), ("moments", bracket.independent)):
        panel = Panel(NAME, f"{name} against accuracy", seed, PROBE, last.d, last.estimator)
        yield panel.point(curve, distance / bracket.scale, accuracy.value)
