"""The passes over the data where every pixel has a norm of its own: scope "position", and dense input by sample.

All channels of a pixel are needed at once. WHOLE: a tile of BC >= C channels holds them in registers, and each element
is read once; else they are gone through in blocks of BC, twice, the second time from the cache. What is then known of
each pixel, ν and e, is stored, so that the last pass (`triton_rows.affine2`) takes any tile.

SAMPLE turns the tile, which then holds all channels and positions, into one pixel: evaluation of small samples, with
one read instead of two.
"""

import triton
import triton.language as tl

from icsbound.norm.kernels.triton_tiles import (
    ALPHA,
    BETA,
    GR,
    MEAN,
    PIVOT,
    R,
    by_alpha,
    by_n2,
    column,
    load_tile,
    number,
    passed,
    program,
    raised,
    relative_norm,
    scale,
    store_tile,
    tiles,
)


@triton.jit
def channels(table, c0, C, BC: tl.constexpr):
    """The table for the channels from c0 on, [BC, 1] each; γ r and r are 0 where there is no channel."""
    return (
        column(table, PIVOT, c0, C, BC),
        column(table, MEAN, c0, C, BC),
        column(table, R, c0, C, BC),
        column(table, ALPHA, c0, C, BC),
        column(table, GR, c0, C, BC),
        column(table, BETA, c0, C, BC),
    )


@triton.jit
def sum_of_squares(x_, K, mean, r):
    """Σ_c r² (x̃ - μ)² of each pixel."""
    u = r * ((x_ - K) - mean)
    return tl.sum(u * u, 0, keep_dims=True)


@triton.jit
def normalized(x_, nu_, K, mean, alpha, gr, beta, FORM: tl.constexpr, RELU: tl.constexpr):
    a = gr * scale(nu_, alpha, FORM)
    return raised(a * (x_ - K) + (beta - a * mean), RELU)


@triton.jit
def pixel_affine(
    x, y, table, nu, C, L, S, SPAN, w: tl.float64, norm_eps: tl.float64,
    A: tl.constexpr, FORM: tl.constexpr, SHRINK: tl.constexpr, RELU: tl.constexpr, WHOLE: tl.constexpr,
    SAMPLE: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """y = a (x - K) + (β - a μ) with a = γ r k(ν, α), and ν of each pixel from n² = w Σ_c r² (x̃ - μ)²."""
    n, _, _, start, end = program(BC, L, S, SPAN, BC)
    if WHOLE:
        K, mean, r, alpha, gr, beta = channels(table, 0, C, BC)
    for i in range(tiles(start, end, ONE, BL)):
        at = start + i * BL
        j = at + tl.arange(0, BL)[None, :]
        if WHOLE:
            x_ = load_tile(x, n, 0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
            n2 = sum_of_squares(x_, K, mean, r)
        else:
            n2 = tl.zeros([1, BL], A)
            for c0 in range(0, C, BC):
                K, mean, r, alpha, gr, beta = channels(table, c0, C, BC)
                x_ = load_tile(x, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
                n2 += sum_of_squares(x_, K, mean, r)
        if SAMPLE:
            n2 = tl.sum(tl.where(j < end, n2, 0.0), 1, keep_dims=True)
        nu_ = relative_norm(number(w, A) * n2, norm_eps, A, SHRINK)
        if SAMPLE:
            tl.store(nu + n + tl.zeros([1, 1], tl.int32), nu_)
        else:
            tl.store(nu + n.to(tl.int64) * L + j, nu_, mask=j < end)
        if WHOLE:
            value = normalized(x_, nu_, K, mean, alpha, gr, beta, FORM, RELU)
            store_tile(y, value, n, 0, at, end, C, L, ALIGN, PIXELS, BC, BL)
        else:
            for c0 in range(0, C, BC):
                K, mean, r, alpha, gr, beta = channels(table, c0, C, BC)
                x_ = load_tile(x, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
                value = normalized(x_, nu_, K, mean, alpha, gr, beta, FORM, RELU)
                store_tile(y, value, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL)


@triton.jit
def element(x_, dy_, nu_, K, mean, alpha, gr, beta, FORM: tl.constexpr, RELU: tl.constexpr):
    """x̂ = x̃ - μ, the gradient before the ReLU, and k, of each element."""
    k = scale(nu_, alpha, FORM)
    a = gr * k
    return (x_ - K) - mean, passed(dy_, a * (x_ - K) + (beta - a * mean), RELU), k


@triton.jit
def e_of(centred, dy_, k, nu_, alpha, gr, FORM: tl.constexpr, SHRINK: tl.constexpr):
    """e = Σ_c γ r ∂k/∂(n²) dy x̂ of each pixel."""
    return tl.sum(gr * by_n2(nu_, alpha, k, FORM, SHRINK) * dy_ * centred, 0, keep_dims=True)


@triton.jit
def keep(sums, which, value, c0, C, G, g, BC: tl.constexpr):
    """Store a sum over a program's pixels, by channel and group."""
    c = c0 + tl.arange(0, BC)[:, None]
    tl.store(sums + (which * C + c).to(tl.int64) * G + g, tl.sum(value, 1, keep_dims=True), mask=c < C)


@triton.jit
def pixel_dots(
    dy, x, table, nu, e, sums, C, L, S, SPAN, G,
    A: tl.constexpr, FORM: tl.constexpr, SHRINK: tl.constexpr, RELU: tl.constexpr, TRAINING: tl.constexpr,
    WHOLE: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """e of each pixel, and by channel and group Σ k dy x̂, Σ ∂k/∂α dy x̂, Σ dy, Σ k dy, Σ e x̂², Σ e x̂ (6×C×G).

    The last three are for the statistics' gradients, and left out in evaluation. Unless WHOLE, a group is one tile.
    """
    n, g, _, start, end = program(BC, L, S, SPAN, BC)
    if WHOLE:
        K, mean, _r, alpha, gr, beta = channels(table, 0, C, BC)
        s0 = tl.zeros([BC, BL], A)
        s1 = tl.zeros([BC, BL], A)
        s2 = tl.zeros([BC, BL], A)
        s3 = tl.zeros([BC, BL], A)
        s4 = tl.zeros([BC, BL], A)
        s5 = tl.zeros([BC, BL], A)
    for i in range(tiles(start, end, ONE, BL)):
        at = start + i * BL
        j = at + tl.arange(0, BL)[None, :]
        pixel = n.to(tl.int64) * L + j
        nu_ = tl.load(nu + pixel, mask=j < end, other=1.0)
        if WHOLE:
            x_ = load_tile(x, n, 0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
            dy_ = load_tile(dy, n, 0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
            centred, dy_, k = element(x_, dy_, nu_, K, mean, alpha, gr, beta, FORM, RELU)
            e_ = e_of(centred, dy_, k, nu_, alpha, gr, FORM, SHRINK)
            s0 += k * dy_ * centred
            s1 += by_alpha(nu_, k, FORM) * dy_ * centred
            s2 += dy_
            if TRAINING:
                s3 += k * dy_
                s4 += e_ * centred * centred
                s5 += e_ * centred
        else:
            e_ = tl.zeros([1, BL], A)
            for c0 in range(0, C, BC):
                K, mean, _r, alpha, gr, beta = channels(table, c0, C, BC)
                x_ = load_tile(x, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
                dy_ = load_tile(dy, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
                centred, dy_, k = element(x_, dy_, nu_, K, mean, alpha, gr, beta, FORM, RELU)
                e_ += e_of(centred, dy_, k, nu_, alpha, gr, FORM, SHRINK)
            for c0 in range(0, C, BC):
                K, mean, _r, alpha, gr, beta = channels(table, c0, C, BC)
                x_ = load_tile(x, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
                dy_ = load_tile(dy, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL).to(A)
                centred, dy_, k = element(x_, dy_, nu_, K, mean, alpha, gr, beta, FORM, RELU)
                keep(sums, 0, k * dy_ * centred, c0, C, G, g, BC)
                keep(sums, 1, by_alpha(nu_, k, FORM) * dy_ * centred, c0, C, G, g, BC)
                keep(sums, 2, dy_, c0, C, G, g, BC)
                if TRAINING:
                    keep(sums, 3, k * dy_, c0, C, G, g, BC)
                    keep(sums, 4, e_ * centred * centred, c0, C, G, g, BC)
                    keep(sums, 5, e_ * centred, c0, C, G, g, BC)
        tl.store(e + pixel, e_, mask=j < end)
    if WHOLE:
        keep(sums, 0, s0, 0, C, G, g, BC)
        keep(sums, 1, s1, 0, C, G, g, BC)
        keep(sums, 2, s2, 0, C, G, g, BC)
        if TRAINING:
            keep(sums, 3, s3, 0, C, G, g, BC)
            keep(sums, 4, s4, 0, C, G, g, BC)
            keep(sums, 5, s5, 0, C, G, g, BC)
