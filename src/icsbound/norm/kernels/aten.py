"""The layer over ATen: any device, any floating dtype, both memory layouts.

`forward` and `backward` are what every backend offers. Here they are the four row primitives around `coefficients`
(scopes "sample" and "batch"), and the same sums per pixel in scope "position". Statistics and sums are taken in
float32 for half-precision input. Results have x's memory layout: every expression starts from x.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from icsbound.norm import coefficients, interpolation
from icsbound.norm.settings import Settings


class Parameters(NamedTuple):
    """γ, β and α (inside its range), each (C,), in the dtype that the sums are taken in."""

    weight_C: Tensor
    bias_C: Tensor
    alpha_C: Tensor


class Statistics(NamedTuple):
    """The batch's own statistics, for the running ones: mean (C,), and variance (C,) times the variance factor."""

    mean_C: Tensor
    var_C: Tensor


class Saved(NamedTuple):
    """What `forward` keeps for `backward` besides x and the parameters: N×C numbers, in scope "position" N×L and C."""

    pivot_C: Tensor
    by_row: coefficients.Forward | None
    by_position: tuple[Tensor, Tensor, Tensor] | None  # mean relative to the pivot (C,), r (C,), ν (N, 1, L)

    def tensors(self) -> tuple[Tensor, ...]:
        """All of it, as autograd saves it."""
        return self.pivot_C, *(self.by_row or self.by_position or ())

    @classmethod
    def of(cls, tensors: Sequence[Tensor], settings: Settings) -> Saved:
        """What `tensors` were taken from, in a call with these settings."""
        pivot_C, *rest = tensors
        if settings.scope == "position":
            mean_C, r_C, nu = rest
            return cls(pivot_C, None, (mean_C, r_C, nu))
        return cls(pivot_C, coefficients.Forward(*rest), None)


def inner_dtype(x: Tensor) -> torch.dtype:
    """The dtype of statistics, coefficients and sums for an input like `x`."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def parameters(x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor, s: Settings) -> Parameters:
    """γ, β and α as `forward` and `backward` take them."""
    inner = inner_dtype(x)
    alpha_C = interpolation.clamped(alpha.to(inner), s.alpha_range)
    weight_C = torch.ones_like(alpha_C) if weight is None else weight.to(inner)
    bias_C = torch.zeros_like(alpha_C) if bias is None else bias.to(inner)
    return Parameters(weight_C, bias_C, alpha_C)


def in_own_dtypes(grads: Iterable[Tensor], of: Iterable[Tensor | None]) -> list[Tensor | None]:
    """The gradients of γ, β and α, each in the dtype of its parameter; None where there is no parameter."""
    return [None if p is None else g if g.dtype is p.dtype else g.to(p.dtype) for g, p in zip(grads, of, strict=True)]


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """(C,) or (N, C) as it broadcasts over (N, C, *)."""
    return values.reshape((-1 if values.ndim == 2 else 1, values.shape[-1]) + (1,) * (like.ndim - 2))


def _one_element(x: Tensor) -> Tensor:
    """The first element of every channel, (C,); zeros where there is no sample."""
    if x.numel() == 0:
        return x.new_zeros(x.shape[1])
    return x[0].flatten(1)[:, 0] if x.ndim > 2 else x[0]


def _pivoted(x: Tensor, pivot_C: Tensor) -> Tensor:
    return x.to(pivot_C.dtype) - _rows(pivot_C, x)


def _NCL(x: Tensor) -> Tensor:
    return x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)


def row_moments(x: Tensor, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of x - K and biased variance of every row, (N, C) each."""
    if x.numel() == 0:
        return pivot_C.new_zeros(x.shape[:2]), pivot_C.new_zeros(x.shape[:2])
    x_NCL = _NCL(_pivoted(x, pivot_C))
    m_NC = x_NCL.mean(2)
    return m_NC, (x_NCL - m_NC.unsqueeze(2)).square().mean(2)  # torch.var_mean is slow on a CPU where rows are short


def row_affine(x: Tensor, pivot_C: Tensor, a_NC: Tensor, b_NC: Tensor) -> Tensor:
    """a (x - K) + b, row by row."""
    return _rows(a_NC, x) * _pivoted(x, pivot_C) + _rows(b_NC, x)


def row_dots(dy: Tensor, x: Tensor, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    """Σ dy and Σ dy (x - K) of every row, (N, C) each."""
    return _NCL(dy).sum(2), _NCL(_pivoted(x, pivot_C) * dy).sum(2)


def row_affine2(dy: Tensor, x: Tensor, pivot_C: Tensor, a_NC: Tensor, b_NC: Tensor, c_NC: Tensor) -> Tensor:
    """a dy + b (x - K) + c, row by row."""
    return _rows(b_NC, x) * _pivoted(x, pivot_C) + _rows(c_NC, x) + _rows(a_NC, x) * dy


def forward(
    x: Tensor,
    parameters: Parameters,
    stored: Statistics | None,
    settings: Settings,
    whole: coefficients.Whole = coefficients.WHOLE,
) -> tuple[Tensor, Statistics, Saved]:
    """The output, the statistics that normalized it, and what `backward` needs.

    `stored` holds the statistics to use (evaluation); None takes those of the batch (training), pivoted at one element
    of each channel, which lies within a few standard deviations of the mean however large the mean is. `whole` is the
    batch that x is a part of.
    """
    inner = inner_dtype(x)
    if stored is None:
        pivot_C = _one_element(x).to(inner)
        relative = None
    else:
        pivot_C = stored.mean_C.to(inner)
        relative = (torch.zeros_like(pivot_C), stored.var_C.to(inner))

    L = math.prod(x.shape[2:])
    if settings.scope == "position":
        if relative is None:
            batch = whole.merge(coefficients.moments(*row_moments(x, pivot_C), L), pivot_C)
            relative = (batch.mean_C, settings.variance_factor(batch.values) * batch.var_C)
        y, by_position = _forward_by_position(x, pivot_C, parameters, relative, settings)
        mean_C, var_C = relative
        saved = Saved(pivot_C, None, by_position)
    else:
        m_NC, v_NC = row_moments(x, pivot_C)
        part = None if relative is not None else whole.merge(coefficients.moments(m_NC, v_NC, L), pivot_C)
        by_row = coefficients.forward(m_NC, v_NC, L, *parameters, relative, settings, part)
        mean_C, var_C = by_row.mean_C, by_row.var_C
        y = row_affine(x, pivot_C, by_row.a_NC, by_row.b_NC)
        saved = Saved(pivot_C, by_row, None)
    if settings.activation == "relu":
        y = torch.relu(y)
    return y.to(x.dtype), Statistics(pivot_C + mean_C, var_C), saved


def backward(
    dy: Tensor,
    x: Tensor,
    parameters: Parameters,
    saved: Saved,
    training: bool,
    settings: Settings,
    whole: coefficients.Whole = coefficients.WHOLE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, γ, β and α. A fused ReLU is undone from x: nothing more was saved for it."""
    dy = dy.to(saved.pivot_C.dtype)
    if saved.by_position is not None:
        dx, *rest = _backward_by_position(dy, x, parameters, saved, training, settings, whole)
        return dx.to(x.dtype), *rest  # type: ignore[return-value]
    rows = saved.by_row
    assert rows is not None
    if settings.activation == "relu":
        dy = torch.where(row_affine(x, saved.pivot_C, rows.a_NC, rows.b_NC) > 0, dy, torch.zeros_like(dy))
    s0_NC, s1_NC = row_dots(dy, x, saved.pivot_C)
    grads = coefficients.backward(
        s0_NC,
        s1_NC,
        math.prod(x.shape[2:]),
        parameters.weight_C,
        parameters.alpha_C,
        rows,
        training,
        settings,
        whole,
    )
    dx = row_affine2(dy, x, saved.pivot_C, grads.a_NC, grads.b_NC, grads.c_NC)
    return dx.to(x.dtype), grads.weight_C, grads.bias_C, grads.alpha_C


def _forward_by_position(
    x: Tensor, pivot_C: Tensor, parameters: Parameters, statistics: tuple[Tensor, Tensor], settings: Settings
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Every pixel has a norm of its own: n² = Σ_c r² (x̃ - μ)² / κ², shape (N, 1, *)."""
    weight_C, bias_C, alpha_C = parameters
    mean_C, var_C = statistics
    r_C = torch.rsqrt(var_C + settings.eps)
    centred = _pivoted(x, pivot_C) - _rows(mean_C, x)
    n2 = (centred * _rows(r_C, x)).square().sum(1, keepdim=True) / settings.kappa(x.shape[1], 1) ** 2
    nu = interpolation.relative_norm(n2, settings)
    k = interpolation.scale(nu, _rows(alpha_C, x), settings)
    y = centred * _rows(weight_C * r_C, x) * k + _rows(bias_C, x)
    return y, (mean_C, r_C, nu)


def _backward_by_position(
    dy: Tensor,
    x: Tensor,
    parameters: Parameters,
    saved: Saved,
    training: bool,
    settings: Settings,
    whole: coefficients.Whole,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """With e = Σ_c γ r ∂k/∂(n²) dy x̂ per pixel and x̂ = x̃ - μ, w = 1/κ², sums over (n, l), count = N L::

    dr = γ Σ k dy x̂ + 2 w r Σ e x̂²        dvar = -r³ dr / 2        dμ = -γ r Σ k dy - 2 w r² Σ e x̂
    dx = γ r k dy + 2 w r² e x̂ + (2 B dvar x̂ + dμ) / count
    """
    assert saved.by_position is not None
    mean_C, r_C, nu = saved.by_position
    weight_C, bias_C, alpha_C = parameters
    centred = _pivoted(x, saved.pivot_C) - _rows(mean_C, x)
    alpha, gr = _rows(alpha_C, x), _rows(weight_C * r_C, x)
    k = interpolation.scale(nu, alpha, settings)
    if settings.activation == "relu":
        dy = torch.where(centred * gr * k + _rows(bias_C, x) > 0, dy, torch.zeros_like(dy))
    by_alpha, by_n2 = interpolation.derivatives(nu, alpha, k, settings)
    axes = (0, *range(2, x.ndim))
    dots = centred * dy
    e = (gr * by_n2 * dots).sum(1, keepdim=True)
    w = 1 / settings.kappa(x.shape[1], 1) ** 2
    ex = centred * e
    part = coefficients.Sums(
        ks1_C=(k * dots).sum(axes),
        eq_C=w * (ex * centred).sum(axes),
        as0_C=weight_C * r_C * (k * dy).sum(axes),
        ed_C=w * ex.sum(axes),
        alpha_C=weight_C * r_C * (by_alpha * dots).sum(axes),
        e_1=e.sum().reshape(1),
    )
    total = part
    dx = ex * _rows(2 * w * r_C * r_C, x) + gr * k * dy
    if training:
        total = whole.reduce(part)
        count, _ = whole.size(x.shape[0], math.prod(x.shape[2:]))
        dvar_C, dmean_C = coefficients.statistics_gradients(total, weight_C, r_C)
        slope_C = 2 * settings.variance_factor(count) / count * dvar_C
        dx = dx + centred * _rows(slope_C, x) + _rows(dmean_C / count, x)
    dalpha_C = interpolation.inward(part.alpha_C, alpha_C, settings.alpha_range, total.alpha_C)
    return dx, r_C * part.ks1_C, dy.sum(axes), dalpha_C
