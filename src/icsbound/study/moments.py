"""How much of a distance means and variances explain, and how much only higher moments do.

Three pairs of laws that batch norm cannot tell apart (`laws`): their distance is made by higher moments and joint
structure alone, so every bound from means and variances sees 0 from below and sqrt(2 d) from above. In a training, the
share of W1 that is left when one cloud is given the other's mean and variance in every coordinate.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from icsbound.measure import bounds, layer_bounds
from icsbound.measure.emd import emd
from icsbound.records import PointRecord
from icsbound.study import laws
from icsbound.study.networks import PROBE, Trained, clouds, trained
from icsbound.study.setting import Panel, Setting
from icsbound.training import seeds

NAME = "moments"
LOWER: dict[str, Callable[[Tensor, Tensor], float]] = {
    "shift of the mean": bounds.mean_shift,
    "moments 2 and 4": functools.partial(bounds.untruncated_moment, power=2, higher=4),
    "moments 4 and 8": functools.partial(bounds.untruncated_moment, power=4, higher=8),
    "distances from the mean": bounds.norms,
    "coordinates": bounds.marginals,
    "best direction": bounds.max_sliced,
    "nearest neighbours": bounds.nearest_neighbour,
}


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """The three pairs in many dimensions with their lower bounds, then the layers of a training."""
    g = seeds.generator(seed, NAME)
    for d in (1, 2, 4, 16, 64, 256, *((1024,) if setting.full else ())):
        yield from _pairs(seed, d, g)
    yield from _seen(seed, 64, g)
    for run in trained(setting, ("bn",), seed):
        yield from _training(run, seed)


def _made(d: int, g: torch.Generator) -> dict[str, tuple[tuple[Tensor, Tensor], float]]:
    """Each pair with its W1 over sqrt(d), or the least that is known of it."""
    return {
        "mirrored": (laws.mirrored(d, g), laws.MIRRORED),
        "kurtosis 1 and 16": (laws.spiked(d, g), laws.SPIKED),
        "cube and cross-polytope": (laws.cube_and_cross(d), math.sqrt(2 - 2 / math.sqrt(d))),
    }


def _pairs(seed: int, d: int, g: torch.Generator) -> Iterator[PointRecord]:
    """W1 over the bound sqrt(2 d), the least that theory says, and that it is not exceeded."""
    for curve, ((a, b), least) in _made(d, g).items():
        if curve.startswith("cube") and d < 4:
            continue  # the same points in another basis: no distance, or a rotation's
        found = emd(a, b)
        panel = Panel(NAME, "pairs", seed, found.n, d, found.estimator)
        exact = d == 1 or curve.startswith("cube")
        value, predicted = found.value / layer_bounds.batch_norm(d), least / math.sqrt(2)
        yield panel.point(curve, d, value, predicted, "equal" if exact else "at least", tolerance=1e-6)


def _seen(seed: int, d: int, g: torch.Generator) -> Iterator[PointRecord]:
    """The share of W1 that each lower bound sees of the pairs; no bound may exceed it."""
    for curve, ((a, b), _) in _made(d, g).items():
        found = emd(a, b).value
        panel = Panel(NAME, "lower bounds", seed, len(a), d, "share of exact W1")
        for name, bound in LOWER.items():
            yield panel.point(f"{curve} · {name}", d, bound(a, b) / found, 1.0, "at most", tolerance=1e-9)


def matched(a: Tensor, b: Tensor) -> Tensor:
    """b with the mean and deviation of `a` in every coordinate; a coordinate that is constant in b only moves."""
    deviation = b.std(0, correction=0)
    factor = torch.where(deviation > 0, a.std(0, correction=0) / deviation.clamp_min(1e-300), 1.0)
    return a.mean(0) + (b - b.mean(0)) * factor


def _training(run: Trained, seed: int) -> Iterator[PointRecord]:
    """What survives in each layer, over all pairs of states, and what each cheap bound sees of all and of the rest."""
    inputs = run.inputs()
    states = [clouds(network, inputs, ("pooled",), law="train").clouds for _, network in run.states()]
    pairs = list(itertools.combinations(states, 2))
    for depth, key in enumerate(states[0]):
        shares, seen, rest_seen = [], dict.fromkeys(LOWER, 0.0), dict.fromkeys(LOWER, 0.0)
        for one, other in pairs:
            a, b = one[key].double(), other[key].double()
            rest = matched(a, b)
            whole, left = emd(a, b).value, emd(a, rest).value
            shares.append(left / whole)
            for name, bound in LOWER.items():
                seen[name] += bound(a, b) / whole / len(pairs)
                rest_seen[name] += bound(a, rest) / left / len(pairs)
        training, survivors = (
            Panel(NAME, name, seed, PROBE, states[0][key].shape[1], f"exact, mean of {len(pairs)} pairs")
            for name in ("training", "survivors")
        )
        yield training.point("survives matching", depth, sum(shares) / len(shares))
        for name, value in seen.items():
            yield training.point(f"seen by: {name}", depth, value, 1.0, "at most", tolerance=1e-9)
        for name, value in rest_seen.items():
            yield survivors.point(name, depth, value, 1.0, "at most", tolerance=1e-9)
