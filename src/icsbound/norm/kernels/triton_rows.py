"""The passes over the data where a sample has one norm: each element is read, and written, once a pass.

`moments`, `affine`, `dots` and `affine2` are the hot path; `row_affine`, `row_dots` and `row_affine2` are the same
passes for coefficients that are given row by row.
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
def moments(
    x, pivot, m, M2, C, L, S, SPAN, G, PITCH,
    A: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """Mean of x - K and sum of squared deviations from it, by channel and group (C×G each).

    K_c is pivot[c PITCH]. Each lane has a mean and squares of its own (Welford), merged at the end: exact for one
    tile, where it is the two-pass formula from registers, and without a barrier inside the loop for several.
    """
    n, g, block, start, end = program(C, L, S, SPAN, BC)
    c0 = block * BC
    c = c0 + tl.arange(0, BC)[:, None]
    K = tl.load(pivot + c.to(tl.int64) * PITCH, mask=c < C, other=0.0).to(A)
    mean = tl.zeros([BC, BL], A)
    squares = tl.zeros([BC, BL], A)
    lane = tl.arange(0, BL)[None, :]
    next_x = load_tile(x, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    for i in range(tiles(start, end, ONE, BL)):
        at = start + i * BL
        x_ = next_x.to(A) - K
        next_x = load_tile(x, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        exists = at + lane < end
        share = tl.full([1, 1], 1.0, A) / (i + 1.0)
        d = x_ - mean
        mean += tl.where(exists, d * share, 0.0)
        squares += tl.where(exists, d * (x_ - mean), 0.0)
    size = end - start
    w = ((size - lane + BL - 1) // BL).to(A)  # values of each lane
    w = tl.where(lane < size, w, 0.0)
    row_mean = tl.sum(w * mean, 1, keep_dims=True) / size.to(A)
    d = mean - row_mean
    to = c.to(tl.int64) * G + g
    tl.store(m + to, row_mean, mask=c < C)
    tl.store(M2 + to, tl.sum(squares + w * d * d, 1, keep_dims=True), mask=c < C)


@triton.jit
def norms(
    x, table, parts, C, L, S, SPAN,
    A: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """Evaluation: Σ r² (x - K)² of each program's channels and positions, with K the stored mean."""
    n, _, block, start, end = program(C, L, S, SPAN, BC)
    c0 = block * BC
    K = column(table, PIVOT, c0, C, BC)
    r = column(table, R, c0, C, BC)
    total = tl.zeros([BC, BL], A)
    next_x = load_tile(x, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    for i in range(tiles(start, end, ONE, BL)):
        at = start + i * BL
        exists = at + tl.arange(0, BL)[None, :] < end
        u = r * (next_x.to(A) - K)
        next_x = load_tile(x, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        total += tl.where(exists, u * u, 0.0)
    tl.store(parts + tl.program_id(0), tl.sum(tl.sum(total, 1), 0))


@triton.jit
def write_affine(
    y, x, next_x, n, c0, start, end, K, a, b, C, L, RELU: tl.constexpr,
    A: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """a (x - K) + b over a group, of which `next_x` is the first tile."""
    for i in range(tiles(start, end, ONE, BL)):
        at = start + i * BL
        x_ = next_x.to(A) - K
        next_x = load_tile(x, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        store_tile(y, raised(a * x_ + b, RELU), n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL)


@triton.jit
def affine(
    x, y, table, parts, nu, C, L, S, SPAN, PARTS, per_part: tl.float64, norm_eps: tl.float64,
    A: tl.constexpr, FORM: tl.constexpr, SHRINK: tl.constexpr, RELU: tl.constexpr, BATCH: tl.constexpr,
    PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    BP: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    """y = a (x - K) + (β - a μ) with a = γ r k(ν, α), and ν of each sample from n² = per_part Σ parts."""
    n, _, block, start, end = program(C, L, S, SPAN, BC)
    c0 = block * BC
    next_x = load_tile(x, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    if not BATCH:  # otherwise all samples share one set of parts
        parts += n.to(tl.int64) * PARTS
    total = tl.zeros([BP], A)
    for i in range(0, PARTS, BP):
        j = i + tl.arange(0, BP)
        total += tl.load(parts + j, mask=j < PARTS, other=0.0)
    nu_ = relative_norm(number(per_part, A) * tl.sum(total, 0), norm_eps, A, SHRINK)[:, None]
    if (block == 0) & (start == 0):
        tl.store(nu + n + tl.zeros([1, 1], tl.int32), nu_)
    a = column(table, GR, c0, C, BC) * scale(nu_, column(table, ALPHA, c0, C, BC), FORM)
    b = column(table, BETA, c0, C, BC) - a * column(table, MEAN, c0, C, BC)
    K = column(table, PIVOT, c0, C, BC)
    write_affine(y, x, next_x, n, c0, start, end, K, a, b, C, L, RELU, A, PIXELS, ALIGN, BC, BL, ONE)


@triton.jit
def sum_dots(
    dy, x, n, c0, start, end, K, a, b, C, L, RELU: tl.constexpr,
    A: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """Σ dy and Σ dy (x - K) over a group, [BC, 1] each, with dy masked by the ReLU of a (x - K) + b."""
    s0 = tl.zeros([BC, BL], A)
    s1 = tl.zeros([BC, BL], A)
    next_x = load_tile(x, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    next_dy = load_tile(dy, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    for i in range(tiles(start, end, ONE, BL)):
        at = start + i * BL
        x_ = next_x.to(A) - K
        dy_ = next_dy.to(A)
        next_x = load_tile(x, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        next_dy = load_tile(dy, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        dy_ = passed(dy_, a * x_ + b, RELU)
        s0 += dy_
        s1 += dy_ * x_
    return tl.sum(s0, 1, keep_dims=True), tl.sum(s1, 1, keep_dims=True)


@triton.jit
def dots(
    dy, x, table, nu, s0, s1, e_parts, C, L, S, SPAN, G,
    A: tl.constexpr, FORM: tl.constexpr, SHRINK: tl.constexpr, RELU: tl.constexpr,
    PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """S0 = Σ dy and S1 = Σ dy (x̃ - μ), by channel and group (C×G each), and each program's share of e."""
    n, g, block, start, end = program(C, L, S, SPAN, BC)
    c0 = block * BC
    c = c0 + tl.arange(0, BC)[:, None]
    alpha, gr, mean = column(table, ALPHA, c0, C, BC), column(table, GR, c0, C, BC), column(table, MEAN, c0, C, BC)
    nu_ = tl.load(nu + n)
    k = scale(nu_, alpha, FORM)
    a = gr * k
    b = column(table, BETA, c0, C, BC) - a * mean
    to_e = gr * by_n2(nu_, alpha, k, FORM, SHRINK)
    K = column(table, PIVOT, c0, C, BC)
    s0_, s1_ = sum_dots(dy, x, n, c0, start, end, K, a, b, C, L, RELU, A, PIXELS, ALIGN, BC, BL, ONE)
    s1_ -= mean * s0_
    to = c.to(tl.int64) * G + g
    tl.store(s0 + to, s0_, mask=c < C)
    tl.store(s1 + to, s1_, mask=c < C)
    tl.store(e_parts + tl.program_id(0), tl.sum(tl.sum(to_e * s1_, 1), 0))


@triton.jit
def affine2(
    dy, x, dx, table, nu, e, slopes, C, L, S, SPAN,
    A: tl.constexpr, FORM: tl.constexpr, RELU: tl.constexpr, BY_PIXEL: tl.constexpr,
    PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """dx = a dy + (b0 + b1 e) (x̃ - μ) + shift, with ν and e of the sample, or of each pixel. `slopes` is 3×C."""
    n, _, block, start, end = program(C, L, S, SPAN, BC)
    c0 = block * BC
    next_x = load_tile(x, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    next_dy = load_tile(dy, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    K, mean = column(table, PIVOT, c0, C, BC), column(table, MEAN, c0, C, BC)
    alpha, gr, beta = column(table, ALPHA, c0, C, BC), column(table, GR, c0, C, BC), column(table, BETA, c0, C, BC)
    b0, b1 = column(slopes, 0, c0, C, BC), column(slopes, 1, c0, C, BC)
    shift = column(slopes, 2, c0, C, BC)
    if not BY_PIXEL:
        a = gr * scale(tl.load(nu + n), alpha, FORM)
        b = beta - a * mean
        slope = b0 + b1 * tl.load(e + n)
        constant = shift - slope * mean
    for i in range(tiles(start, end, ONE, BL)):
        at = start + i * BL
        x_ = next_x.to(A) - K
        dy_ = next_dy.to(A)
        next_x = load_tile(x, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        next_dy = load_tile(dy, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        if BY_PIXEL:
            j = at + tl.arange(0, BL)[None, :]
            a = gr * scale(tl.load(nu + n.to(tl.int64) * L + j, mask=j < end, other=1.0), alpha, FORM)
            b = beta - a * mean
            slope = b0 + b1 * tl.load(e + n.to(tl.int64) * L + j, mask=j < end, other=0.0)
            constant = shift - slope * mean
        value = a * passed(dy_, a * x_ + b, RELU) + (slope * x_ + constant)
        store_tile(dx, value, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL)


@triton.jit
def row(values, n, c0, C, BC: tl.constexpr):
    """Given coefficients (N×C) of this program's rows, [BC, 1]."""
    c = c0 + tl.arange(0, BC)[:, None]
    return tl.load(values + n.to(tl.int64) * C + c, mask=c < C, other=0.0)


@triton.jit
def row_affine(
    x, y, pivot, a, b, C, L, S, SPAN, RELU: tl.constexpr,
    A: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """y = a (x - K) + b, row by row, then a ReLU if fused."""
    n, _, block, start, end = program(C, L, S, SPAN, BC)
    c0 = block * BC
    next_x = load_tile(x, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    K, a_, b_ = column(pivot, 0, c0, C, BC), row(a, n, c0, C, BC), row(b, n, c0, C, BC)
    write_affine(y, x, next_x, n, c0, start, end, K, a_, b_, C, L, RELU, A, PIXELS, ALIGN, BC, BL, ONE)


@triton.jit
def row_dots(
    dy, x, pivot, s0, s1, C, L, S, SPAN, G,
    A: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """Σ dy and Σ dy (x - K), by channel and group (C×G each)."""
    n, g, block, start, end = program(C, L, S, SPAN, BC)
    c0 = block * BC
    c = c0 + tl.arange(0, BC)[:, None]
    K = column(pivot, 0, c0, C, BC)
    s0_, s1_ = sum_dots(dy, x, n, c0, start, end, K, K, K, C, L, False, A, PIXELS, ALIGN, BC, BL, ONE)
    to = c.to(tl.int64) * G + g
    tl.store(s0 + to, s0_, mask=c < C)
    tl.store(s1 + to, s1_, mask=c < C)


@triton.jit
def row_affine2(
    dy, x, dx, pivot, a, b, c, C, L, S, SPAN,
    A: tl.constexpr, PIXELS: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr,
    ONE: tl.constexpr,
):  # fmt: skip
    """dx = a dy + b (x - K) + c, row by row."""
    n, _, block, start, end = program(C, L, S, SPAN, BC)
    c0 = block * BC
    K = column(pivot, 0, c0, C, BC)
    a_, b_, c_ = row(a, n, c0, C, BC), row(b, n, c0, C, BC), row(c, n, c0, C, BC)
    next_x = load_tile(x, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    next_dy = load_tile(dy, n, c0, start, end, C, L, ALIGN, PIXELS, BC, BL)
    for i in range(tiles(start, end, ONE, BL)):
        at = start + i * BL
        x_ = next_x.to(A) - K
        dy_ = next_dy.to(A)
        next_x = load_tile(x, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        next_dy = load_tile(dy, n, c0, at + BL, end, C, L, ALIGN, PIXELS, BC, BL)
        store_tile(dx, a_ * dy_ + b_ * x_ + c_, n, c0, at, end, C, L, ALIGN, PIXELS, BC, BL)
