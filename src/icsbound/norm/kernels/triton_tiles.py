"""What the Triton kernels share: where a program's tile lies in memory, and the three interpolations.

A *group* is a segment of the positions of one sample; N samples of S segments make G = N S groups. A program of the
grid handles one group and BC channels, in tiles of BC channels × BL positions. Both memory layouts are one code: what
differs is which axis of a tile is contiguous ("rows": positions, "pixels": channels), and the compiler lays the
threads out along it.

T is the element type, A (float32, or float64 for float64) that of statistics, coefficients and sums. ALIGN is the
largest power of two up to 16 that divides the contiguous axis: it is what allows loads of up to 16 bytes a thread.

`table` holds what the passes over the data need to know of the channels, 6×C: the pivot K, the mean relative to it, r,
α inside its range, γ r, and β.
"""

import triton
import triton.language as tl

PIVOT, MEAN, R, ALPHA, GR, BETA = (tl.constexpr(i) for i in range(6))
HARMONIC, ARITHMETIC, GEOMETRIC = (tl.constexpr(i) for i in range(3))


@triton.jit
def number(value, A: tl.constexpr):
    """A scalar argument in the type of the sums."""
    return tl.full([1], value, A)


@triton.jit
def program(C, L, S, SPAN, BC: tl.constexpr):
    """Sample, group, block of channels, and the positions [start, end) of this program."""
    blocks = tl.cdiv(C, BC)
    group = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    start = (group % S).to(tl.int64) * SPAN
    return group // S, group, block, start, tl.minimum(start + SPAN, L)


@triton.jit
def tiles(start, end, ONE: tl.constexpr, BL: tl.constexpr):
    """How many tiles a program goes through. Known to be ONE, the loop and its loads ahead vanish."""
    if ONE:
        return 1
    return tl.cdiv(end - start, BL).to(tl.int32)


@triton.jit
def corner(n, c0, at, C, L, ALIGN: tl.constexpr, PIXELS: tl.constexpr):
    """Where the tile from channel c0 and position `at` on begins, in elements: 64-bit, once a tile."""
    if PIXELS:
        return tl.multiple_of((n.to(tl.int64) * L + at) * C + c0, ALIGN)
    return tl.multiple_of((n.to(tl.int64) * C + c0) * L + at, ALIGN)


@triton.jit
def inside(c0, at, end, C, L, ALIGN: tl.constexpr, PIXELS: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr):
    """Offsets in a tile from its corner, and which of its elements exist, [BC, BL] each."""
    i = tl.arange(0, BC)[:, None]
    j = tl.arange(0, BL)[None, :]
    left = tl.minimum(end - at, BL).to(tl.int32)
    # Dividing and multiplying again tells the compiler of ALIGN, so that no vector straddles the edge of the mask.
    if PIXELS:
        pitch = C // ALIGN * ALIGN
        return j * pitch + i, (c0 + i < pitch) & (j < left)
    pitch = L // ALIGN * ALIGN
    return i * pitch + j, (c0 + i < C) & (j < left // ALIGN * ALIGN)


@triton.jit
def load_tile(
    x, n, c0, at, end, C, L, ALIGN: tl.constexpr, PIXELS: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr
):  # fmt: skip
    """A tile as it is stored, 0 where nothing is: all 0, and no access, from `end` on.

    Loops load the next tile before they work on one, and turn its type only then: that is when they wait for it.
    """
    offsets, mask = inside(c0, at, end, C, L, ALIGN, PIXELS, BC, BL)
    return tl.load(x + corner(n, c0, at, C, L, ALIGN, PIXELS) + offsets, mask=mask, other=0.0)


@triton.jit
def store_tile(
    y, value, n, c0, at, end, C, L, ALIGN: tl.constexpr, PIXELS: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr
):  # fmt: skip
    offsets, mask = inside(c0, at, end, C, L, ALIGN, PIXELS, BC, BL)
    tl.store(y + corner(n, c0, at, C, L, ALIGN, PIXELS) + offsets, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def column(table, which, c0, C, BC: tl.constexpr):
    """One line of the table for the channels from c0 on, [BC, 1]."""
    c = c0 + tl.arange(0, BC)[:, None]
    return tl.load(table + which * C + c, mask=c < C, other=0.0)


@triton.jit
def relative_norm(n2, norm_eps, A: tl.constexpr, SHRINK: tl.constexpr):
    """ν, finite even where n² has overflowed; see `icsbound.norm.interpolation`."""
    nu = tl.sqrt(n2 + number(norm_eps, A))
    most = number(1.7e305 if tl.float64 == A else 3.3e35, A)
    nu = tl.where(nu > most, most, nu)  # not minimum, which would lose a NaN
    if SHRINK:
        nu = tl.maximum(nu, 1.0)
    return nu


@triton.jit
def scale(nu, alpha, FORM: tl.constexpr):
    """k(ν, α); the brackets matter, see `icsbound.norm.interpolation`."""
    if FORM == HARMONIC:
        return 1.0 / (alpha * nu + (1.0 - alpha))
    if FORM == ARITHMETIC:
        return alpha / nu + (1.0 - alpha)
    return tl.exp(-alpha * tl.log(nu))


@triton.jit
def by_alpha(nu, k, FORM: tl.constexpr):
    """∂k/∂α."""
    if FORM == HARMONIC:
        return (1.0 - nu) * k * k
    if FORM == ARITHMETIC:
        return 1.0 / nu - 1.0 + 0.0 * k
    return -k * tl.log(nu)


@triton.jit
def by_n2(nu, alpha, k, FORM: tl.constexpr, SHRINK: tl.constexpr):
    """∂k/∂(n²); 0 where a layer that only shrinks leaves the sample alone."""
    if FORM == HARMONIC:
        slope = -0.5 * alpha * k * k / nu
    elif FORM == ARITHMETIC:
        slope = -0.5 * alpha / (nu * nu * nu)
    else:
        slope = -0.5 * alpha * k / (nu * nu)
    if SHRINK:
        slope = tl.where(nu > 1.0, slope, 0.0)
    return slope


@triton.jit
def raised(y, RELU: tl.constexpr):
    if RELU:
        y = tl.where(y < 0.0, 0.0, y)  # not maximum, which would lose a NaN
    return y


@triton.jit
def passed(dy, y, RELU: tl.constexpr):
    """The gradient before a fused ReLU, from that after it and the value before it."""
    if RELU:
        dy = tl.where(y > 0.0, dy, 0.0)
    return dy
