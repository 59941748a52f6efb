"""The bracket of W1 that costs O(n d), in one pass over the columns of two paired clouds.

Each number is that of the function of its name in `icsbound.measure.bounds`; all are sums over columns, so a block
of columns that fits the cache is read once for all of them, where function by function every one would copy, centre
and scale both clouds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icsbound._check import InputError
from icsbound.measure.plain import plain

BLOCK_BYTES = 1 << 20  # of one cloud in float64


@dataclass(frozen=True)
class CheapBracket:
    """max(mean_shift, norms) <= W1 <= min(paired, independent), in the units of the clouds."""

    paired: float  # mean |a_i - b_i|
    independent: float  # sqrt(tr S + tr S' + mean_shift^2), S and S' the biased covariances
    mean_shift: float  # |mean a - mean b|
    norms: float  # W1 of the distances from the common mean
    scale: float  # sqrt((tr S + tr S') / 2), the root mean square spread


@plain
def cheap_bracket(a: Tensor, b: Tensor) -> CheapBracket:
    """The bracket of two finite clouds (n, d) of any float dtype on one device, row i of both from the same input.

    Computed in float64. Rows of each column block are shifted by the first row of `a`, exactly where a column is
    large beside its spread, and everything is divided by a power of two, so that no square overflows or vanishes.
    """
    if a.shape != b.shape:
        raise InputError(f"a and b must be clouds of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    n, d = a.shape
    device = a.device if a.device.type != "mps" else torch.device("cpu")  # MPS has no float64
    exponent = math.frexp(max(float(a.abs().amax()), float(b.abs().amax())))[1]
    unit = 2.0 ** -max(-1000, min(1000, exponent))
    displacement, from_a, from_b = torch.zeros(3, n, dtype=torch.float64, device=device)
    shift, trace = torch.zeros(2, dtype=torch.float64, device=device)
    width = max(1, BLOCK_BYTES // (8 * n))
    for start in range(0, d, width):
        x, y = (z[:, start : start + width].to(device).to(torch.float64).mul(unit) for z in (a, b))
        displacement += (x - y).square_().sum(1)
        pivot = x[0].clone()
        x -= pivot
        y -= pivot
        x_mean, y_mean = x.mean(0), y.mean(0)
        half = (x_mean - y_mean) / 2
        shift += half.square().sum()
        x -= x_mean
        y -= y_mean
        trace += x.square().sum() + y.square().sum()
        from_a += x.add_(half).square_().sum(1)
        from_b += y.sub_(half).square_().sum(1)
    radial = (from_a.sqrt().sort().values - from_b.sqrt().sort().values).abs().mean()
    squared, spread = 4 * float(shift), float(trace) / n
    return CheapBracket(
        paired=float(displacement.sqrt().mean()) / unit,
        independent=math.sqrt(spread + squared) / unit,
        mean_shift=math.sqrt(squared) / unit,
        norms=float(radial) / unit,
        scale=math.sqrt(spread / 2) / unit,
    )
