"""The mathematics between the passes over the data: the Triton counterpart of `icsbound.norm.coefficients`.

A program handles a few channels (BC) and goes through all groups, BG at a time; everything it reads was written by the
pass before it and lies in the L2 cache. What needs all channels of a sample (n² forward, e backward) is summed by
parts: those who know a few channels write a part of the sum, those who need the sum add the parts up, in one order.
No atomic is used, so a result depends on shapes and values alone, to the last bit.
"""

import triton
import triton.language as tl

from icsbound.norm.kernels.triton_tiles import ALPHA, BETA, GR, MEAN, PIVOT, R, by_alpha, column, number, scale


@triton.jit
def group_size(g, L, S, SPAN, A: tl.constexpr):
    """How many positions there are in group g."""
    return tl.minimum(SPAN, L - (g % S) * SPAN).to(A)


@triton.jit
def statistics(
    pivot, m, M2, weight, bias, alpha, mean, var, running_mean, running_var, table, parts,
    N, C, L, S, SPAN, PITCH, count: tl.float64, factor: tl.float64, eps: tl.float64, low: tl.float64, high: tl.float64,
    momentum: tl.float64, bessel: tl.float64,
    A: tl.constexpr, TRAINING: tl.constexpr, AFFINE: tl.constexpr, SHIFTED: tl.constexpr, MOVE: tl.constexpr,
    BY_SAMPLE: tl.constexpr, BATCH: tl.constexpr, BC: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """Moments of the groups to statistics of the channels, the table, and this program's parts of n².

    In evaluation mean and variance are read, in training they are written, and the running ones moved if there are any.
    Parts are Σ_c r² q by sample (of sums over positions), or in scope "batch" Σ_c r² var once, var being the biased
    variance that the statistics tell of.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)[:, None]
    exists = c < C
    G = N * S
    row = c.to(tl.int64) * G
    B = number(factor, A)
    if TRAINING:
        total = tl.zeros([BC, BG], A)
        for first in range(0, G, BG):
            g = first + tl.arange(0, BG)[None, :]
            w = group_size(g, L, S, SPAN, A)
            total += w * tl.load(m + row + g, mask=exists & (g < G), other=0.0)
        per_value = 1.0 / number(count, A)
        mean_ = tl.sum(total, 1, keep_dims=True) * per_value
        total = tl.zeros([BC, BG], A)
        for first in range(0, G, BG):
            g = first + tl.arange(0, BG)[None, :]
            mask = exists & (g < G)
            d = tl.load(m + row + g, mask=mask, other=0.0) - mean_
            squares = tl.load(M2 + row + g, mask=mask, other=0.0) + group_size(g, L, S, SPAN, A) * d * d
            total += tl.where(mask, squares, 0.0)
        biased = tl.sum(total, 1, keep_dims=True) * per_value
        var_ = B * biased
        K = tl.load(pivot + c.to(tl.int64) * PITCH, mask=exists, other=0.0).to(A)
        tl.store(mean + c, K + mean_, mask=exists)
        tl.store(var + c, var_, mask=exists)
        if MOVE:
            step = number(momentum, A)
            moved = (1.0 - step) * tl.load(running_mean + c, mask=exists, other=0.0).to(A) + step * (K + mean_)
            tl.store(running_mean + c, moved.to(running_mean.dtype.element_ty), mask=exists)
            moved = tl.load(running_var + c, mask=exists, other=0.0).to(A)
            moved = (1.0 - step) * moved + step * (var_ * number(bessel, A))
            tl.store(running_var + c, moved.to(running_var.dtype.element_ty), mask=exists)
    else:
        K = tl.load(mean + c, mask=exists, other=0.0).to(A)
        var_ = tl.load(var + c, mask=exists, other=1.0).to(A)
        mean_ = tl.zeros([BC, 1], A)
        biased = var_
    r = 1.0 / tl.sqrt(var_ + number(eps, A))
    alpha_ = tl.load(alpha + c, mask=exists, other=0.0).to(A)
    alpha_ = tl.minimum(tl.maximum(alpha_, number(low, A)), number(high, A))
    gr = r
    if AFFINE:
        gr = r * tl.load(weight + c, mask=exists, other=0.0).to(A)
    beta = tl.zeros([BC, 1], A)
    if SHIFTED:
        beta = tl.load(bias + c, mask=exists, other=0.0).to(A)
    tl.store(table + PIVOT * C + c, K, mask=exists)
    tl.store(table + MEAN * C + c, mean_, mask=exists)
    tl.store(table + R * C + c, r, mask=exists)
    tl.store(table + ALPHA * C + c, alpha_, mask=exists)
    tl.store(table + GR * C + c, gr, mask=exists)
    tl.store(table + BETA * C + c, beta, mask=exists)

    if BATCH:
        tl.store(parts + tl.program_id(0), tl.sum(tl.sum(tl.where(exists, r * r * biased, 0.0), 1), 0))
    elif BY_SAMPLE:
        for first in range(0, N, BG):
            n = first + tl.arange(0, BG)[None, :]
            mask = exists & (n < N)
            total = tl.zeros([BC, BG], A)
            for s in range(S):
                d = tl.load(m + row + n * S + s, mask=mask, other=0.0) - mean_
                squares = tl.load(M2 + row + n * S + s, mask=mask, other=0.0)
                total += squares + group_size(s, L, S, SPAN, A) * d * d
            part = tl.sum(tl.where(mask, r * r * total, 0.0), 0, keep_dims=True)
            to = parts + n.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
            tl.store(to, part, mask=n < N)


@triton.jit
def finish(
    table, slopes, dweight, dbias, dalpha, c, C, ks1, by_alpha_s1, s0, ks0, eq, ed,
    w: tl.float64, count: tl.float64, factor: tl.float64, low: tl.float64, high: tl.float64,
    A: tl.constexpr, TRAINING: tl.constexpr,
):  # fmt: skip
    """From the sums over the batch, [BC, 1] each, the gradients of the parameters and the slopes of dx.

    ks1 = Σ k S1, by_alpha_s1 = Σ ∂k/∂α S1, ks0 = Σ k S0, eq = Σ e x̂², ed = Σ e x̂ with x̂ = x̃ - μ; w is 1/κ².
    """
    exists = c < C
    r = tl.load(table + R * C + c, mask=exists, other=1.0)
    gr = tl.load(table + GR * C + c, mask=exists, other=0.0)
    alpha = tl.load(table + ALPHA * C + c, mask=exists, other=0.0)
    grad = gr * by_alpha_s1  # less what points out of α's range
    outward = ((alpha <= number(low, A)) & (grad > 0.0)) | ((alpha >= number(high, A)) & (grad < 0.0))
    tl.store(dalpha + c, tl.where(outward, 0.0, grad), mask=exists)
    tl.store(dweight + c, r * ks1, mask=exists)
    tl.store(dbias + c, s0, mask=exists)
    w_ = number(w, A)
    b0 = tl.zeros_like(r)
    shift = tl.zeros_like(r)
    if TRAINING:
        per_value = 1.0 / number(count, A)
        r_dr = gr * ks1 + 2.0 * w_ * r * r * eq
        b0 = -number(factor, A) * per_value * r * r * r_dr  # 2 B / count dvar, with dvar = -r³ dr / 2
        shift = -(gr * ks0 + 2.0 * w_ * r * r * ed) * per_value
    tl.store(slopes + c, b0, mask=exists)
    tl.store(slopes + C + c, 2.0 * w_ * r * r, mask=exists)
    tl.store(slopes + 2 * C + c, shift, mask=exists)


@triton.jit
def row_gradients(
    s0, s1, m, M2, nu, e_parts, table, e, slopes, dweight, dbias, dalpha, N, C, L, S, SPAN, PARTS,
    w: tl.float64, count: tl.float64, factor: tl.float64, samples: tl.float64, low: tl.float64, high: tl.float64,
    A: tl.constexpr, FORM: tl.constexpr, TRAINING: tl.constexpr, BATCH: tl.constexpr,
    BC: tl.constexpr, BG: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Sums over the rows of each channel, and e of each sample, from the dot products of the groups."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)[:, None]
    row = c.to(tl.int64) * (N * S)
    alpha = column(table, ALPHA, tl.program_id(0) * BC, C, BC)
    mean = column(table, MEAN, tl.program_id(0) * BC, C, BC)
    shared = tl.zeros([1, BG], A)
    if BATCH and TRAINING:  # all samples share the mean of e
        total = tl.zeros([BG, BP], A)
        for first in range(0, N * PARTS, BG * BP):
            j = first + tl.arange(0, BG)[:, None] * BP + tl.arange(0, BP)[None, :]
            total += tl.load(e_parts + j, mask=j < N * PARTS, other=0.0)
        shared += tl.sum(tl.sum(total, 1), 0) / number(samples, A)
    ks1 = tl.zeros([BC, BG], A)
    by_alpha_s1 = tl.zeros([BC, BG], A)
    total_s0 = tl.zeros([BC, BG], A)
    ks0 = tl.zeros([BC, BG], A)
    eq = tl.zeros([BC, BG], A)
    ed = tl.zeros([BC, BG], A)
    for first in range(0, N, BG):
        n = first + tl.arange(0, BG)[None, :]
        mask = (c < C) & (n < N)
        e_ = shared
        if not BATCH:
            i = (first + tl.arange(0, BG)[:, None]).to(tl.int64)
            total = tl.zeros([BG, BP], A)
            for at in range(0, PARTS, BP):
                j = at + tl.arange(0, BP)[None, :]
                total += tl.load(e_parts + i * PARTS + j, mask=(i < N) & (j < PARTS), other=0.0)
            e_ = tl.sum(total, 1)[None, :]
        if tl.program_id(0) == 0:
            tl.store(e + n, e_, mask=n < N)
        nu_ = tl.load(nu + n, mask=n < N, other=1.0)
        k = scale(nu_, alpha, FORM)
        slope = by_alpha(nu_, k, FORM)
        for s in range(S):
            s0_ = tl.load(s0 + row + n * S + s, mask=mask, other=0.0)
            s1_ = tl.load(s1 + row + n * S + s, mask=mask, other=0.0)
            ks1 += k * s1_
            by_alpha_s1 += slope * s1_
            total_s0 += s0_
            if TRAINING:
                ks0 += k * s0_
                size = group_size(s, L, S, SPAN, A)
                d = tl.load(m + row + n * S + s, mask=mask, other=0.0) - mean
                squares = tl.load(M2 + row + n * S + s, mask=mask, other=0.0) + size * d * d
                eq += tl.where(mask, e_ * squares, 0.0)
                ed += tl.where(mask, e_ * size * d, 0.0)
    finish(
        table, slopes, dweight, dbias, dalpha, c, C,
        tl.sum(ks1, 1, keep_dims=True), tl.sum(by_alpha_s1, 1, keep_dims=True), tl.sum(total_s0, 1, keep_dims=True),
        tl.sum(ks0, 1, keep_dims=True), tl.sum(eq, 1, keep_dims=True), tl.sum(ed, 1, keep_dims=True),
        w, count, factor, low, high, A, TRAINING,
    )  # fmt: skip


@triton.jit
def total_of(sums, which, c, C, G, A: tl.constexpr, BC: tl.constexpr, BG: tl.constexpr):
    """Sum over the groups of one of the sums by channel and group, [BC, 1]."""
    total = tl.zeros([BC, BG], A)
    row = (which * C + c).to(tl.int64) * G
    for first in range(0, G, BG):
        g = first + tl.arange(0, BG)[None, :]
        total += tl.load(sums + row + g, mask=(c < C) & (g < G), other=0.0)
    return tl.sum(total, 1, keep_dims=True)


@triton.jit
def pixel_gradients(
    sums, table, slopes, dweight, dbias, dalpha, C, G,
    w: tl.float64, count: tl.float64, factor: tl.float64, low: tl.float64, high: tl.float64,
    A: tl.constexpr, TRAINING: tl.constexpr, BC: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """The same from sums over pixels, where every pixel has a norm of its own (6×C×G, in evaluation 3×C×G)."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)[:, None]
    ks1 = total_of(sums, 0, c, C, G, A, BC, BG)
    by_alpha_s1 = total_of(sums, 1, c, C, G, A, BC, BG)
    s0 = total_of(sums, 2, c, C, G, A, BC, BG)
    ks0, eq, ed = s0, s0, s0
    if TRAINING:
        ks0 = total_of(sums, 3, c, C, G, A, BC, BG)
        eq = total_of(sums, 4, c, C, G, A, BC, BG)
        ed = total_of(sums, 5, c, C, G, A, BC, BG)
    finish(
        table, slopes, dweight, dbias, dalpha, c, C, ks1, by_alpha_s1, s0, ks0, eq, ed,
        w, count, factor, low, high, A, TRAINING,
    )  # fmt: skip
