"""From a layer's output to a cloud: which vectors stand for one input.

x_B...C is one batch of outputs with the sample on axis 0; L is the number of positions (pixels, tokens: every axis
but sample and channels), C the number of channels. A cloud has one row an input in every view, in the order of the
probe.

===========  ========  ==============================================================================================
view         columns   row
===========  ========  ==============================================================================================
sample       C * L     the whole output, flattened
pooled       C         its mean over positions
position     C         its value at one position, drawn at random for every input and the same at every measurement:
                       the law in which the pixel is drawn too
projection   k         the flattened output times k random orthonormal directions, fixed by the seed (a lower bound:
                       an orthogonal projection never raises W1); all C * L where there are no more than k
===========  ========  ==============================================================================================
"""

from __future__ import annotations

import functools

import torch

from icsbound._check import InputError
from icsbound.measure.plain import plain

VIEWS = ("sample", "pooled", "position", "projection")


def positions_last(x_BCL: torch.Tensor, axis: int | None, layer: str) -> torch.Tensor:
    """`x_BCL` with its channels, on `axis`, moved to the end and all positions in one axis: (B, L, C)."""
    if x_BCL.ndim == 2:
        return x_BCL.unsqueeze(1)
    if axis is None:
        raise InputError(
            f"channel_axis must be given for layer {layer!r}, whose type does not tell it and whose values have shape "
            f"{tuple(x_BCL.shape)}; or ask for view 'sample'"
        )
    if not -x_BCL.ndim < axis < x_BCL.ndim or axis == 0:
        raise InputError(
            f"channel_axis must be an axis other than 0 of the values of layer {layer!r}, which have shape "
            f"{tuple(x_BCL.shape)}, got {axis}"
        )
    return x_BCL.movedim(axis, -1).flatten(1, -2)


def positions(x_BCL: torch.Tensor, axis: int | None) -> int | None:
    """The number L of positions, None where the channel axis is unknown."""
    if x_BCL.ndim <= 2:
        return 1
    return None if axis is None else x_BCL[0].numel() // x_BCL.shape[axis]


@plain
def cloud(
    x_BCL: torch.Tensor, view: str, axis: int | None, layer: str, rows: slice, n: int, dimension: int, seed: int
) -> torch.Tensor:
    """The rows of one batch in `view`, shape (B, d). Means and projections are taken, and kept, in float32
    at least, whatever autocast the model runs in.

    rows: where the batch lies in the probe of n inputs, so that what is drawn does not depend on the size of batches.
    """
    if x_BCL.ndim == 1:
        x_BCL = x_BCL.unsqueeze(1)
    if view == "sample":
        return x_BCL.flatten(1)
    if view == "projection":
        flat = x_BCL.flatten(1).to(torch.promote_types(x_BCL.dtype, torch.float32))
        basis = projection(flat.shape[1], dimension, seed)
        return flat @ basis.to(flat.dtype).to(flat.device)
    x_BLC = positions_last(x_BCL, axis, layer)
    if view == "pooled":
        return x_BLC.mean(1, dtype=torch.promote_types(x_BLC.dtype, torch.float32))
    place = (draws(n, seed)[rows] * x_BLC.shape[1]).long().to(x_BLC.device)
    return x_BLC[torch.arange(len(x_BLC), device=x_BLC.device), place]


def draws(n: int, seed: int) -> torch.Tensor:
    """n float64 numbers in [0, 1), drawn from a generator of their own."""
    return torch.rand(n, dtype=torch.float64, device="cpu", generator=torch.Generator("cpu").manual_seed(seed))


@functools.lru_cache(maxsize=8)  # a network has few distinct widths, and each takes 8 d k bytes
def projection(d: int, dimension: int, seed: int) -> torch.Tensor:
    """A float64 matrix (d, min(dimension, d)) of random orthonormal columns, uniformly distributed, on the CPU."""
    generator = torch.Generator("cpu").manual_seed(seed)
    draw = torch.randn(d, min(dimension, d), dtype=torch.float64, device="cpu", generator=generator)
    basis: torch.Tensor
    basis, triangle = torch.linalg.qr(draw)
    basis *= triangle.diagonal().sign()  # with the signs of QR's diagonal removed the law is uniform
    return basis
