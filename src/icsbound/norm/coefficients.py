"""The mathematics between the passes over the data, in closed form, on N×C and C numbers only.

A *row* is one (sample, channel) of L positions. The passes over x give per-row moments forward and per-row dot
products backward (`kernels`); everything else is here, once, readable, and each fused kernel is tested equal to it.
All positions of the input are taken relative to a per-channel pivot K, ``x̃ = x - K``: the subtraction is exact where
mean ≫ std, so no digit is lost there.

Forward, with m, v the row means of x̃ and row variances, κ the target norm and B the variance factor::

    μ = mean_n m        d = m - μ         q = v + d²            var = B mean_n q      r = 1 / sqrt(var + eps)
    n² = (L/κ²) Σ_c r² q                  ν = sqrt(n² + norm_eps)
    a = γ r k(ν, α)     y = a x̃ + (β - a μ)

Backward, with S0 = Σ_l dy and S1 = Σ_l dy (x̃ - μ) of each row::

    dβ = Σ_n S0         dγ = r Σ_n k S1   dα = γ r Σ_n ∂k/∂α S1         e_n = Σ_c γ r ∂k/∂(n²) S1
    dr = γ Σ_n k S1 + (2 L/κ²) r Σ_n e q  dvar = -r³ dr / 2             dq = (L/κ²) r² e + (B/N) dvar
    dμ = -Σ_n a S0 - 2 Σ_n dq d           dx = a dy + (2/L) dq (x̃ - μ) + dμ / (N L)

With stored statistics dvar and dμ vanish. In scope "batch" all samples share the mean of n² (training) or what the
stored variance says it is (evaluation), and e_n becomes its mean over the batch, or 0. Derived by hand; checked against
autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from icsbound.norm import interpolation
from icsbound.norm.settings import Settings


class Forward(NamedTuple):
    """What the forward coefficient step gives: the affine map of each row, and what backward needs (N×C or smaller)."""

    a_NC: Tensor
    b_NC: Tensor
    mean_C: Tensor  # relative to the pivot
    var_C: Tensor  # times the variance factor
    q_NC: Tensor
    d_NC: Tensor
    r_C: Tensor
    nu_N1: Tensor
    k_NC: Tensor


class Backward(NamedTuple):
    """dx = a dy + b x̃ + c for each row, and the gradients of the parameters."""

    a_NC: Tensor
    b_NC: Tensor
    c_NC: Tensor
    weight_C: Tensor
    bias_C: Tensor
    alpha_C: Tensor


def forward(
    m_NC: Tensor,
    v_NC: Tensor,
    positions: int,
    weight_C: Tensor,
    bias_C: Tensor,
    alpha_C: Tensor,
    stored: tuple[Tensor, Tensor] | None,
    settings: Settings,
) -> Forward:
    """The forward coefficients, for α already inside its range.

    `stored` holds mean (relative to the pivot) and variance; None takes those of the batch.
    """
    N, C = m_NC.shape
    mean_C = m_NC.mean(0) if stored is None else stored[0]
    d_NC = m_NC - mean_C
    q_NC = v_NC + d_NC * d_NC
    var_C = settings.variance_factor(N * positions) * q_NC.mean(0) if stored is None else stored[1]
    r_C = torch.rsqrt(var_C + settings.eps)

    per_kappa = positions / settings.kappa(C, positions) ** 2
    if settings.scope == "sample":
        n2_N1 = per_kappa * (q_NC * (r_C * r_C)).sum(1, keepdim=True)
    elif stored is None:
        n2_N1 = (per_kappa * (q_NC.mean(0) * (r_C * r_C)).sum()).expand(N, 1)
    else:
        n2_N1 = (per_kappa * (var_C / (var_C + settings.eps)).sum()).expand(N, 1)
    nu_N1 = interpolation.relative_norm(n2_N1, settings)
    k_NC = interpolation.scale(nu_N1, alpha_C, settings)
    a_NC = weight_C * r_C * k_NC
    b_NC = bias_C - a_NC * mean_C
    return Forward(a_NC, b_NC, mean_C, var_C, q_NC, d_NC, r_C, nu_N1, k_NC)


def backward(
    s0_NC: Tensor,
    s1_NC: Tensor,
    positions: int,
    weight_C: Tensor,
    alpha_C: Tensor,
    saved: Forward,
    training: bool,
    settings: Settings,
) -> Backward:
    """The backward coefficients. `s1_NC` is Σ_l dy x̃, relative to the pivot; it is centred here."""
    N, C = s0_NC.shape
    per_kappa = positions / settings.kappa(C, positions) ** 2
    a_NC, mean_C, r_C, k_NC = saved.a_NC, saved.mean_C, saved.r_C, saved.k_NC
    s1_NC = s1_NC - mean_C * s0_NC
    by_alpha_NC, by_n2_NC = interpolation.derivatives(saved.nu_N1, alpha_C, k_NC, settings)
    gr_C = weight_C * r_C
    ks1_C = (k_NC * s1_NC).sum(0)
    e_N1 = (gr_C * by_n2_NC * s1_NC).sum(1, keepdim=True)
    if settings.scope == "batch":
        e_N1 = e_N1.mean(0, keepdim=True).expand(N, 1) if training else torch.zeros_like(e_N1)

    dq_NC = per_kappa * e_N1 * (r_C * r_C)
    if training:
        dr_C = weight_C * ks1_C + 2 * per_kappa * r_C * (e_N1 * saved.q_NC).sum(0)
        dvar_C = -0.5 * r_C * r_C * r_C * dr_C
        dq_NC = dq_NC + settings.variance_factor(N * positions) / N * dvar_C
        dmean_C = -(a_NC * s0_NC).sum(0) - 2 * (dq_NC * saved.d_NC).sum(0)
        shift_C = dmean_C / (N * positions)
    else:
        shift_C = torch.zeros_like(mean_C)
    b_NC = 2 / positions * dq_NC
    return Backward(
        a_NC,
        b_NC,
        shift_C - b_NC * mean_C,
        weight_C=r_C * ks1_C,
        bias_C=s0_NC.sum(0),
        alpha_C=interpolation.inward(gr_C * (by_alpha_NC * s1_NC).sum(0), alpha_C, settings.alpha_range),
    )
