"""How a problem is cut into programs of the Triton kernels. Plain Python, so that a GPU is not needed to look at it.

The figures below are for an H100 (132 multiprocessors of 2048 threads and 65,536 registers, 3.35 TB/s, 50 MB of L2).
They depend on shape and dtype alone, never on the device or on a timing: another cut would sum in another order, and
the same input would give other bits. For the same reason nothing is tuned at run time.

* A tile has 2048 elements and 8 warps: 8 elements a thread, two loads of 16 bytes in float32 and one in half precision,
  of each operand; while a program works on one tile, the next is on its way. It takes 30 to 80 registers a thread, so
  that three to eight programs share a multiprocessor, with 24 KB or more on their way; about 18 KB must be to use all
  of the bandwidth (3.35 TB/s × 0.7 µs / 132).
* Where fewer than 256 tiles would come of it, tiles are halved, to 1024 elements: about two programs for each
  multiprocessor keep all of them busy.
* With more than 2048 tiles a program takes several, one after the other: fifteen programs for each multiprocessor are
  enough to even out the end of a launch, and the sums they leave for the coefficient step stay small (N·C·S numbers).
* Channels last: 256 bytes of channels are contiguous in a tile, two full cache lines, and the rest of it is positions.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

from icsbound.norm.kernels.cpu_plan import by_pixel
from icsbound.norm.settings import Settings

TILE = 2048
SMALLEST_TILE = 1024
ENOUGH_PROGRAMS = 256
MOST_PROGRAMS = 2048
CONTIGUOUS_BYTES = 256
LARGEST_TILE = 8192  # that one program holds in registers: 8 elements for each of 1024 threads


def up(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Tiles(NamedTuple):
    """N samples, of C channels and L positions each, in tiles of BC × BL; S segments of SPAN positions a sample."""

    N: int
    C: int
    L: int
    BC: int
    BL: int
    S: int
    SPAN: int
    warps: int

    @property
    def groups(self) -> int:
        return self.N * self.S

    @property
    def one(self) -> bool:
        """Whether every program has a single tile."""
        return min(self.SPAN, self.L) <= self.BL

    @property
    def blocks(self) -> int:
        """Programs that share a group."""
        return ceil_div(self.C, self.BC)

    @property
    def programs(self) -> int:
        return self.groups * self.blocks


def _cut(N: int, C: int, L: int, BC: int, BL: int, pixels: bool, most: int = MOST_PROGRAMS) -> Tiles:
    """Tiles of BC × BL, several to a program where there are more than `most`."""
    count = ceil_div(L, BL)
    each = min(count, ceil_div(N * ceil_div(C, BC) * count, most))
    span = ceil_div(L, ceil_div(count, each))  # segments of one size
    if not pixels:
        span = ceil_div(span, 16) * 16  # that begin at aligned addresses
    return Tiles(N, C, L, BC, BL, ceil_div(L, span), span, min(32, max(1, BC * BL // 256)))


def _elements(total: int) -> int:
    """Elements of a tile, fewer where there would be too few tiles."""
    elements = TILE
    while elements > SMALLEST_TILE and total < ENOUGH_PROGRAMS * elements:
        elements //= 2
    return elements


def row_tiles(N: int, C: int, L: int, pixels: bool, size: int) -> Tiles:
    """For the passes that take any tile; `pixels`: channels are contiguous. `size`: bytes of an element."""
    elements = _elements(N * C * L)
    most = elements // min(up(C), CONTIGUOUS_BYTES // size) if pixels else elements
    BL = min(up(L), most)
    return _cut(N, C, L, min(up(C), elements // BL), BL, pixels)


def pixel_tiles(N: int, C: int, L: int, pixels: bool, largest: int) -> Tiles:
    """For the passes that need all channels of a pixel: BC >= C where a program can hold a tile that large.

    Where it cannot, it takes one tile of pixels, and goes through their channels block by block.
    """
    least = 1 if pixels else 32  # pixels side by side in memory: 128 bytes of float32
    if up(C) * least <= largest:
        return _cut(N, C, L, up(C), min(up(L), max(least, _elements(N * C * L) // up(C))), pixels)
    BL = min(up(L), 16 if pixels else 64)
    return _cut(N, C, L, TILE // BL, BL, pixels, most=N * C * L)


class Plan(NamedTuple):
    """What follows from shape, dtype, layout and settings: how each pass is cut, and the numbers it needs."""

    by_pixel: bool
    in_registers: bool  # evaluation of a sample that one program holds
    rows: Tiles
    pixel_affine: Tiles
    pixel_dots: Tiles
    channels: int  # a program of the coefficient step
    samples: int  # N as the caller has it
    values: int  # N·L
    w: float  # 1 / κ²
    batch_factor: float  # scope "batch": n² = batch_factor Σ_c r² var_c
    variance_factor: float
    low: float
    high: float

    @property
    def coefficient_programs(self) -> int:
        return ceil_div(self.rows.C, self.channels)

    def groups_at_once(self, groups: int) -> int:
        """Groups that a program of the coefficient step takes at a time: 2048 numbers with its channels."""
        return min(up(groups), 2048 // self.channels)

    @property
    def norms(self) -> int:
        """How many ν there are."""
        return self.rows.N * (self.rows.L if self.by_pixel else 1)


@functools.lru_cache(maxsize=512)
def plan(N: int, C: int, L: int, dtype: torch.dtype, pixels: bool, settings: Settings, training: bool) -> Plan:
    s = settings
    each_pixel = by_pixel(s, L)
    low, high = (-math.inf, math.inf) if s.alpha_range is None else s.alpha_range
    w = 1 / s.kappa(C, L) ** 2
    n, positions = N, L
    if pixels and (each_pixel or s.scope == "batch"):  # no sum is over one sample: one long list of pixels
        n, positions = 1, N * L
    in_registers = not training and not each_pixel and s.scope == "sample" and up(C) * up(L) <= LARGEST_TILE
    affine = pixel_tiles(n, C, positions, pixels, LARGEST_TILE)
    if in_registers:
        affine = _cut(n, C, positions, up(C), up(positions), pixels)
    return Plan(
        by_pixel=each_pixel,
        in_registers=in_registers,
        rows=row_tiles(n, C, positions, pixels, dtype.itemsize),
        pixel_affine=affine,
        pixel_dots=pixel_tiles(n, C, positions, pixels, LARGEST_TILE // 2),
        channels=min(16, max(1, up(C) // 32)),
        samples=N,
        values=N * L,
        w=w,
        batch_factor=w * L,
        variance_factor=s.variance_factor(N * L) if training else 1.0,
        low=low,
        high=high,
    )
