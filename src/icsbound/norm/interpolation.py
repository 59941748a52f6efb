"""The three interpolations between batch normalization (α = 0) and unitization (α = 1).

With ``n = |u| / κ`` the relative norm of a sample and ``ν = sqrt(n² + norm_eps)``, the normalized sample u is scaled by

====================  ==========================  ===========================================
form                  scale k(ν, α)               norm of k·u for scalar α and norm_eps = 0
====================  ==========================  ===========================================
arithmetic (paper)    α / ν + (1 - α)             κ times the arithmetic mean of 1 and n
harmonic              1 / (α ν + (1 - α))         κ times the harmonic mean
geometric             ν^(-α)                      κ times the geometric mean
====================  ==========================  ===========================================

with weights (α, 1 - α). Only the harmonic norm is bounded (by κ / α) for every u and every α in (0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icsbound.norm.settings import Settings


def relative_norm(n2: Tensor, settings: Settings) -> Tensor:
    """ν = sqrt(n² + norm_eps), at least 1 where the layer only shrinks.

    It is finite even where n² has overflowed, as an infinite one times an α of 0 would be NaN; so is α times it.
    """
    nu = torch.sqrt(n2 + settings.norm_eps)
    return nu.clamp(1.0 if settings.shrink_only else None, torch.finfo(nu.dtype).max / 1024)


def scale(nu: Tensor, alpha: Tensor, settings: Settings) -> Tensor:
    """k(ν, α). The brackets matter: (α/ν + 1) - α loses about ν times the unit roundoff near α = 1."""
    if settings.interpolation == "arithmetic":
        return alpha / nu + (1 - alpha)
    if settings.interpolation == "harmonic":
        return 1 / (alpha * nu + (1 - alpha))
    return torch.exp(-alpha * torch.log(nu))


def derivatives(nu: Tensor, alpha: Tensor, k: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """∂k/∂α and ∂k/∂(n²); the second is 0 where a layer that only shrinks leaves the sample alone (ν = 1)."""
    if settings.interpolation == "arithmetic":
        by_alpha, by_n2 = 1 / nu - 1, -0.5 * alpha / (nu * nu * nu)
    elif settings.interpolation == "harmonic":
        by_alpha, by_n2 = (1 - nu) * k * k, -0.5 * alpha * k * k / nu
    else:
        by_alpha, by_n2 = -k * torch.log(nu), -0.5 * alpha * k / (nu * nu)
    if settings.shrink_only:
        by_n2 = torch.where(nu > 1, by_n2, torch.zeros_like(by_n2))
    return by_alpha, by_n2


def clamped(alpha: Tensor, alpha_range: tuple[float, float] | None) -> Tensor:
    """α inside its range, without a gradient rule of its own (see `inside`)."""
    return alpha if alpha_range is None else alpha.clamp(*alpha_range)


def inward(grad: Tensor, alpha: Tensor, alpha_range: tuple[float, float] | None, total: Tensor | None = None) -> Tensor:
    """The gradient of α without the part that descent would use to leave `alpha_range`.

    Differentiating `clamp` would drop the inward part too, and an α that starts at an end could never leave it. Where
    `grad` is the share of one process, `total` is the sum over all: its sign decides, so that the shares sum to what
    one process would have found.
    """
    if alpha_range is None:
        return grad
    low, high = alpha_range
    total = grad if total is None else total
    outward = ((alpha <= low) & (total > 0)) | ((alpha >= high) & (total < 0))
    return torch.where(outward, torch.zeros_like(grad), grad)


class _Inside(torch.autograd.Function):
    """`clamped` forward, `inward` backward, for the composite that autograd differentiates."""

    generate_vmap_rule = True

    @staticmethod
    def forward(alpha: Tensor, low: float, high: float) -> Tensor:
        return alpha.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        alpha, ctx.low, ctx.high = inputs
        ctx.save_for_backward(alpha)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (alpha,) = ctx.saved_tensors
        return inward(grad, alpha, (ctx.low, ctx.high)), None, None


class _InsideForwardMode(_Inside):
    """The same with a rule for forward mode, which the compiler refuses to see."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        _Inside.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _low: None, _high: None) -> Tensor:
        (alpha,) = ctx.saved_tensors
        return torch.where((alpha < ctx.low) | (alpha > ctx.high), torch.zeros_like(tangent), tangent)


def inside(alpha: Tensor, alpha_range: tuple[float, float] | None) -> Tensor:
    """α inside its range, with the gradient of `inward`."""
    if alpha_range is None:
        return alpha
    if torch._C._get_tracing_state() is not None:  # a TorchScript program holds no gradient rule of Python's
        return clamped(alpha, alpha_range)
    rule = _Inside if torch.compiler.is_compiling() else _InsideForwardMode
    out: Tensor = rule.apply(alpha, *alpha_range)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out
