"""Where a network loses an input that was shifted, or its own weights that were changed, layer by layer.

The exact distance between a layer's outputs on clean and on shifted images, or before and after pruning and rounding,
in units of their spread, for networks with batch norm, group norm and unitization, beside the accuracy that is left.
The question put to the bound: do means and variances alone (the independent coupling), which need no labels and no
transport, rank the conditions by the accuracy that they cost?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

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
        seen = _Seen(run, run.splits().part(run.config.split), run.probe(), run.normalize())
        model = run.network()
        clean = seen.clouds(model)
        yield seen.accuracy(model, "none")
        for condition in shifts:
            name, _, severity = condition.partition(":")
            yield from seen.corrupted(name, int(severity), seed).compared(model, condition, clean)
        for condition in CHANGES:
            model = run.network()
            perturb(model, condition)
            yield from seen.compared(model.eval(), condition, clean)


@dataclass(frozen=True)
class _Seen:
    """The images on which a run's network is scored, those on which its layers are compared, and how it takes them."""

    run: Trained
    part: data.Dataset
    probe: data.Dataset
    normalize: data.Normalize

    def corrupted(self, name: str, severity: int, seed: int) -> _Seen:
        def changed(part: data.Dataset) -> data.Dataset:
            images, labels = decoded(part)
            return dataclasses.replace(part, images=corrupt(images, name, severity, seed), labels=labels)

        return dataclasses.replace(self, part=changed(self.part), probe=changed(self.probe))

    def clouds(self, model: nn.Module) -> dict[str, Tensor]:
        taken = clouds(model, self.normalize(decoded(self.probe)[0]), ("sample",))
        return {layer: cloud for (layer, _), cloud in taken.clouds.items()}

    def accuracy(self, model: nn.Module, condition: str) -> PointRecord:
        _, accuracy = score(model, self.part, self.normalize, next(model.parameters()).dtype)
        panel = Panel(NAME, "accuracy", self.run.config.seed, len(self.part), estimator="accuracy")
        return panel.point(f"{condition} · {self.run.arm}", 0, accuracy)

    def compared(self, model: nn.Module, condition: str, clean: dict[str, Tensor]) -> Iterator[PointRecord]:
        """`model` under `condition`, layer by layer against `clean`."""
        accuracy, shifted, seed = self.accuracy(model, condition), self.clouds(model), self.run.config.seed
        yield accuracy
        layers = [(emd(a, shifted[layer]), cheap_bracket(a, shifted[layer])) for layer, a in clean.items()]
        for depth, (found, bracket) in enumerate(layers):
            limit = min(bracket.independent, bracket.paired) / bracket.scale
            panel = Panel(NAME, "by layer", seed, PROBE, found.d, found.estimator)
            yield panel.point(accuracy.curve, depth, found.value / bracket.scale, limit, "at most", tolerance=1e-9)
        last, bracket = layers[-1]
        for name, distance in (("distance", last.value), ("moments", bracket.independent)):
            panel = Panel(NAME, f"{name} against accuracy", seed, PROBE, last.d, last.estimator)
            yield panel.point(accuracy.curve, distance / bracket.scale, accuracy.value)
