"""Whether batch norm reduces the shift it normalizes, or bounds it: distances of its inputs against its outputs.

If both laws have the same means and deviations σ_j, batch norm is one affine map and W1/σ_max <= W1 after <= W1/σ_min:
it removes shifts of mean and scale, and multiplies the rest by 1/σ. A construction shows how large the ratio can get
at equal total variance; a training shows how often it exceeds 1. There the probe is one batch that gives its own
statistics (train law): stored ones would leave the outputs of the untrained network unnormalized.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from icsbound.measure.cheap import cheap_bracket
from icsbound.measure.emd import emd
from icsbound.records import PointRecord
from icsbound.study import laws
from icsbound.study.dimension import normalized
from icsbound.study.networks import PROBE, Trained, clouds, trained
from icsbound.study.setting import Panel, Setting

NAME = "reduction"
VIEWS = ("pooled", "sample")


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """The constructed pairs, then every layer and pair of states of a training with batch norm."""
    panel = Panel(NAME, "construction", seed, 64, 2)
    for exponent in range(7 if setting.full else 4):
        sigma = 10.0**-exponent
        before = laws.amplified(sigma)
        ratio = emd(*map(normalized, before)).value / emd(*before).value
        yield panel.point("W1 after / before", sigma, ratio, 1 / sigma, "equal", tolerance=1e-6, estimator="exact")
    for run in trained(setting, ("bn",), seed):
        yield from _training(run, seed)


def _training(run: Trained, seed: int) -> Iterator[PointRecord]:
    """Ratios of every layer, as geometric means over all pairs of states, and the share of pairs where it exceeds 1."""
    inputs = run.inputs()
    given, made = [], []
    for _, network in run.states():
        given.append(clouds(network, inputs, VIEWS, "inputs", "train").clouds)
        made.append(clouds(network, inputs, VIEWS, "outputs", "train").clouds)
    layers = list(dict.fromkeys(layer for layer, _ in made[0]))
    pairs = list(itertools.combinations(range(len(made)), 2))
    for depth, layer in enumerate(layers):
        for view in VIEWS:
            key = (layer, view)
            both = [(_moved(given[i][key], given[j][key]), _moved(made[i][key], made[j][key])) for i, j in pairs]
            d = made[0][key].shape[1]
            estimator = f"exact, {len(pairs)} pairs of states"
            for curve, which in ((f"absolute, {view} view", 0), (f"scale-free, {view} view", 1)):
                logs = np.log([after[which] / before[which] for before, after in both if before[which] > 0])
                for panel, value in (("training", math.exp(logs.mean())), ("share", (logs > 0).mean())):
                    yield Panel(NAME, panel, seed, PROBE, d, estimator).point(curve, depth, value)


def _moved(a: Tensor, b: Tensor) -> tuple[float, float]:
    """W1, absolute and over the spread."""
    value, scale = emd(a, b).value, cheap_bracket(a, b).scale
    return value, value / scale
