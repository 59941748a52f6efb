"""The definition of the layer in plain torch: every other implementation is tested against this one.

It is differentiated by autograd (any order, forward mode, `torch.func`, `torch.compile`), in any dtype. It makes no
attempt at speed. In training it works relative to one element of each channel, held constant: the result does not
depend on it, and where mean ≫ std no digit is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icsbound.norm import interpolation
from icsbound.norm.settings import Settings


def batch_statistics(x_NCL: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Mean and variance (biased, times the variance factor) of every channel over samples and positions, each (C,)."""
    count = x_NCL.shape[0] * x_NCL.shape[2]
    pivot_C1 = _pivot(x_NCL)
    x_NCL = x_NCL - pivot_C1
    mean = x_NCL.mean((0, 2))
    var = ((x_NCL - mean[:, None]) ** 2).mean((0, 2)) * settings.variance_factor(count)
    return pivot_C1[:, 0] + mean, var


def _inner_NCL(x: Tensor) -> Tensor:
    """(N, C, *) as (N, C, L), in the dtype that the sums are taken in."""
    x_NCL = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
    return x_NCL.to(x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32)


def _pivot(x_NCL: Tensor) -> Tensor:
    return x_NCL[0, :, :1].detach()


def unitize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
    settings: Settings,
) -> Tensor:
    """``y = γ · k(ν, α) · u + β`` with ``u = (x - mean) / sqrt(var + eps)``; see `UnitizedBatchNorm2d`.

    Args:
        x: (N, C, *), at least two axes.
        weight, bias, alpha: (C,), γ, β and α; None for γ = 1, β = 0.
        statistics: mean and variance, (C,) each, held constant; None to take those of the batch (training).
    """
    x_NCL = _inner_NCL(x)
    inner, (_, C, L) = x_NCL.dtype, x_NCL.shape
    training = statistics is None
    if training:
        x_NCL = x_NCL - _pivot(x_NCL)
    mean, var = batch_statistics(x_NCL, settings) if statistics is None else (s.to(inner) for s in statistics)
    u = (x_NCL - mean[:, None]) * torch.rsqrt(var + settings.eps)[:, None]

    squares = u * u / settings.kappa(C, L) ** 2
    if settings.scope == "position":
        n2 = squares.sum(1, keepdim=True)
    elif settings.scope == "sample":
        n2 = squares.sum((1, 2), keepdim=True)
    elif training:
        n2 = squares.sum((1, 2)).mean()
    else:  # what the stored variance says the mean of n² is: no sample is treated apart
        n2 = (var / (var + settings.eps)).sum() * L / settings.kappa(C, L) ** 2

    nu = interpolation.relative_norm(n2, settings)
    alpha_C1 = interpolation.inside(alpha, settings.alpha_range).to(inner)[:, None]
    y = interpolation.scale(nu, alpha_C1, settings) * u
    if weight is not None:
        y = y * weight.to(inner)[:, None]
    if bias is not None:
        y = y + bias.to(inner)[:, None]
    if settings.activation == "relu":
        y = torch.relu(y)
    return y.to(x.dtype).reshape(x.shape)


def statistics_of(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """`batch_statistics` of (N, C, *), taken in float32 at least."""
    return batch_statistics(_inner_NCL(x), settings)


def gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
    settings: Settings,
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, γ, β and α, None where not `needed`, that can be differentiated themselves."""

    def own(t: Tensor | None, wanted: bool) -> Tensor | None:
        # A view of its own, so that the gradient is taken at this node and not further up the graph.
        return t.view_as(t) if t is not None and wanted else t

    inputs: list[Any] = [own(t, wanted) for t, wanted in zip((x, weight, bias, alpha), needed, strict=True)]
    x_, weight_, bias_, alpha_ = inputs
    y = unitize(x_, weight_, bias_, alpha_, statistics, settings)
    wanted = [n and t is not None for t, n in zip(inputs, needed, strict=True)]
    leaves = [t for t, w in zip(inputs, wanted, strict=True) if w]
    grads = iter(torch.autograd.grad(y, leaves, dy, create_graph=True, materialize_grads=True))
    return tuple(next(grads) if w else None for w in wanted)
