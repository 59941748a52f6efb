"""Batch norm's bound and exact distances against the dimension, absolute and in units of the spread.

Everything passes through torch's batch norm with exact statistics (of the whole cloud, negligible ε). In d dimensions
W1 of its outputs is at most sqrt(2 d) (`icsbound.measure.layer_bounds.batch_norm`), and the spread is sqrt(d): if
distances grow like sqrt(d) too, then "small in low dimension" speaks of size and not of shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from icsbound.measure import layer_bounds
from icsbound.measure.cheap import cheap_bracket
from icsbound.measure.emd import emd
from icsbound.records import PointRecord
from icsbound.study import laws
from icsbound.study.setting import Panel, Setting
from icsbound.training import seeds

NAME = "dimension"
POSITIONS = 4  # of the convolutional tensors
PROBE, INPUTS, ANGLE = 512, 32, 0.3  # of the drifting layer


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """The bound, a pair that nearly attains it, a layer whose weights turn, and tensors with a spatial pattern."""
    g = seeds.generator(seed, NAME)
    for d in (4, 8, 16, 32, 64, 128, 256, *((512, 1024) if setting.full else ())):
        yield from _pair(seed, d, g)
        yield from _drifting(seed, d, g)
        yield from _patterns(seed, d, g)


def normalized(x: Tensor) -> Tensor:
    """torch's batch norm of x (N, C, *) by its own statistics; ε as small as it may be."""
    return F.batch_norm(x, None, None, training=True, eps=1e-200)


def _pair(seed: int, d: int, g: torch.Generator) -> Iterator[PointRecord]:
    """Cube against cross-polytope, with means and scales that batch norm has to remove."""
    a, b = (
        normalized(torch.randn(d, generator=g) + torch.rand(d, generator=g).add(0.5).double() * z)
        for z in laws.cube_and_cross(d)
    )
    found, predicted = emd(a, b), math.sqrt(2 * d - 2 * math.sqrt(d))
    curve = "cube against cross-polytope"
    for panel, unit in (("absolute", 1.0), ("scale-free", cheap_bracket(a, b).scale)):
        made = Panel(NAME, panel, seed, found.n, d, found.estimator)
        yield made.point(curve, d, found.value / unit, predicted / unit, "equal", tolerance=1e-9)


def _drifting(seed: int, d: int, g: torch.Generator) -> Iterator[PointRecord]:
    """A linear layer of d channels whose weights turn by one angle, on a common probe of Gaussian inputs."""
    x = torch.randn(PROBE, INPUTS, generator=g, dtype=torch.float64)
    w, other = torch.randn(2, d, INPUTS, generator=g, dtype=torch.float64)
    a, b = normalized(x @ w.T), normalized(x @ (math.cos(ANGLE) * w + math.sin(ANGLE) * other).T)
    found, bound, scale = emd(a, b), layer_bounds.batch_norm(d), cheap_bracket(a, b).scale
    for panel, unit in (("absolute", 1.0), ("scale-free", scale)):
        made = Panel(NAME, panel, seed, found.n, d, found.estimator)
        yield made.point("layer whose weights turn", d, found.value / unit, bound / unit, "at most", tolerance=1e-9)


def _patterns(seed: int, d: int, g: torch.Generator) -> Iterator[PointRecord]:
    """Convolutional outputs that are one spatial pattern: batch norm centres a channel over all positions, not each.

    Whole tensors, a pattern and its negative: the two laws are points at distance 2 sqrt(d), above sqrt(2 d). Single
    positions, signs that differ in half of the channels: sqrt(2 C), which no law can exceed there.
    """
    places = torch.tensor([1.0, -1.0] * (POSITIONS // 2), dtype=torch.float64)

    def tensors(signs: Tensor, n: int = 8) -> Tensor:
        scale = torch.rand(len(signs), 1, generator=g, dtype=torch.float64) + 0.5
        return normalized((signs[:, None] * places * scale + scale).expand(n, -1, -1).contiguous())

    if d >= 2 * POSITIONS:
        signs = torch.randint(0, 2, (d // POSITIONS,), generator=g).double() * 2 - 1
        whole = emd(tensors(signs).flatten(1), tensors(-signs).flatten(1))
        panel = Panel(NAME, "absolute", seed, whole.n, d, whole.estimator)
        predicted = layer_bounds.batch_norm_tensor(d // POSITIONS, POSITIONS)
        yield panel.point("pattern and its negative, whole tensor", d, whole.value, predicted, "equal", tolerance=1e-9)
    signs = torch.randint(0, 2, (d,), generator=g).double() * 2 - 1
    half = torch.cat([torch.ones(d // 2), -torch.ones(d - d // 2)]).double()
    a, b = (tensors(z).movedim(1, 2).flatten(0, 1) for z in (signs, signs * half))
    single = emd(a, b)
    panel = Panel(NAME, "absolute", seed, single.n, d, single.estimator)
    bound = layer_bounds.batch_norm(d)
    yield panel.point("two patterns, single positions", d, single.value, bound, "equal", tolerance=1e-9)
