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
    dr = γ Σ_n k S1 + 2 r (L/κ²) Σ_n e q  dvar = -r³ dr / 2             dμ = -Σ_n a S0 - 2 r² (L/κ²) Σ_n e d
    dq = (L/κ²) r² e + (B/N) dvar         dx = a dy + (2/L) dq (x̃ - μ) + dμ / (N L)

(dq reaches μ through its first term alone, since Σ_n d = 0.) With stored statistics dvar and dμ vanish. In scope
"batch" all samples share the mean of n² (training) or what the stored variance says it is (evaluation), and e_n
becomes its mean over the batch, or 0. Derived by hand; checked against autograd.

Where the batch is spread over several processes, only the moments (forward) and the sums over n in dr and dμ
(backward) are exchanged; a `Whole` batch exchanges nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from icsbound.norm import interpolation
from icsbound.norm.settings import Count, Settings


class Moments(NamedTuple):
    """Mean (relative to a pivot) and biased variance of each channel, over `values` values of `samples` samples."""

    mean_C: Tensor
    var_C: Tensor
    values: Count
    samples: Count


class Sums(NamedTuple):
    """The sums over a batch that the gradients of its statistics are made of, (C,) each but `e_1`, which is (1,)."""

    ks1_C: Tensor  # Σ k S1
    eq_C: Tensor  # (L/κ²) Σ e q; unused in scope "batch"
    as0_C: Tensor  # Σ a S0
    ed_C: Tensor  # (L/κ²) Σ e d; unused in scope "batch"
    alpha_C: Tensor  # γ r Σ ∂k/∂α S1
    e_1: Tensor  # Σ e


class Whole:
    """How a batch is put together from its parts: here it has only one."""

    def merge(self, part: Moments, pivot_C: Tensor) -> Moments:
        """The moments of the whole batch, relative to the same pivot."""
        return part

    def reduce(self, part: Sums) -> Sums:
        """The sums over the whole batch."""
        return part

    def size(self, samples: int, positions: int) -> tuple[Count, Count]:
        """Values per channel and samples of the whole batch, for a part of this size."""
        return samples * positions, samples


WHOLE = Whole()


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


def moments(m_NC: Tensor, v_NC: Tensor, positions: int) -> Moments:
    """The moments of these rows together."""
    mean_C = m_NC.mean(0)
    return Moments(mean_C, (v_NC + (m_NC - mean_C) ** 2).mean(0), m_NC.shape[0] * positions, m_NC.shape[0])


def forward(
    m_NC: Tensor,
    v_NC: Tensor,
    positions: int,
    weight_C: Tensor,
    bias_C: Tensor,
    alpha_C: Tensor,
    stored: tuple[Tensor, Tensor] | None,
    settings: Settings,
    batch: Moments | None = None,
) -> Forward:
    """The forward coefficients, for α already inside its range.

    `stored` holds mean (relative to the pivot) and variance; None takes those of the batch: `batch`, or else the one
    that these rows make up.
    """
    N, C = m_NC.shape
    if stored is None:
        batch = moments(m_NC, v_NC, positions) if batch is None else batch
        mean_C, var_C = batch.mean_C, settings.variance_factor(batch.values) * batch.var_C
    else:
        mean_C, var_C = stored
    d_NC = m_NC - mean_C
    q_NC = v_NC + d_NC * d_NC
    r_C = torch.rsqrt(var_C + settings.eps)

    per_kappa = positions / settings.kappa(C, positions) ** 2
    if settings.scope == "sample":
        n2_N1 = per_kappa * (q_NC * (r_C * r_C)).sum(1, keepdim=True)
    else:
        mean_q_C = var_C if batch is None else batch.var_C
        n2_N1 = (per_kappa * (mean_q_C * (r_C * r_C)).sum()).expand(N, 1)
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
    whole: Whole = WHOLE,
) -> Backward:
    """The backward coefficients. `s1_NC` is Σ_l dy x̃, relative to the pivot; it is centred here.

    The gradients of the parameters are those of these rows alone, dx that of the whole batch.
    """
    N, C = s0_NC.shape
    per_kappa = positions / settings.kappa(C, positions) ** 2
    a_NC, mean_C, r_C, k_NC = saved.a_NC, saved.mean_C, saved.r_C, saved.k_NC
    s1_NC = s1_NC - mean_C * s0_NC
    by_alpha_NC, by_n2_NC = interpolation.derivatives(saved.nu_N1, alpha_C, k_NC, settings)
    gr_C = weight_C * r_C
    e_N1 = (gr_C * by_n2_NC * s1_NC).sum(1, keepdim=True)
    sums = Sums(
        ks1_C=(k_NC * s1_NC).sum(0),
        eq_C=per_kappa * (e_N1 * saved.q_NC).sum(0),
        as0_C=(a_NC * s0_NC).sum(0),
        ed_C=per_kappa * (e_N1 * saved.d_NC).sum(0),
        alpha_C=gr_C * (by_alpha_NC * s1_NC).sum(0),
        e_1=e_N1.sum(0),
    )
    total = sums
    if training:
        total = whole.reduce(sums)
        count, samples = whole.size(N, positions)
        factor = settings.variance_factor(count)
        if settings.scope == "batch":  # every sample has the mean of all e, and Σ q = samples · var / B, Σ d = 0
            e_N1 = (total.e_1 / samples).expand(N, 1)
            eq_C = per_kappa * total.e_1 * saved.var_C / factor
            total = total._replace(eq_C=eq_C, ed_C=torch.zeros_like(eq_C))
        dvar_C, dmean_C = statistics_gradients(total, weight_C, r_C)
        dq_NC = per_kappa * e_N1 * (r_C * r_C) + factor * positions / count * dvar_C
        shift_C = dmean_C / count
    else:
        if settings.scope == "batch":
            e_N1 = torch.zeros_like(e_N1)
        dq_NC = per_kappa * e_N1 * (r_C * r_C)
        shift_C = torch.zeros_like(mean_C)
    b_NC = 2 / positions * dq_NC
    return Backward(
        a_NC,
        b_NC,
        shift_C - b_NC * mean_C,
        weight_C=r_C * sums.ks1_C,
        bias_C=s0_NC.sum(0),
        alpha_C=interpolation.inward(sums.alpha_C, alpha_C, settings.alpha_range, total.alpha_C),
    )


def statistics_gradients(total: Sums, weight_C: Tensor, r_C: Tensor) -> tuple[Tensor, Tensor]:
    """dvar and dμ from the sums over the whole batch."""
    dr_C = weight_C * total.ks1_C + 2 * r_C * total.eq_C
    return -0.5 * r_C * r_C * r_C * dr_C, -total.as0_C - 2 * r_C * r_C * total.ed_C
