"""The Euclidean cost matrix of two clouds in float64, accurate also where two points nearly coincide.

Shapes: a is (n, d), b is (m, d); the cost matrix is (n, m) with entries |a_i - b_j|.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from icsbound import _check
from icsbound._check import InputError

BLOCK_BYTES = 8 << 20  # row blocks of about this size stay in the last-level cache
MAX_BYTES = 4 << 30  # of the cost matrix
LARGEST = math.isqrt(MAX_BYTES // 8)  # rows of two clouds whose cost matrix is no larger: 23,170
NEAR = 1e-6  # entries whose square is below NEAR * (|a_i|^2 + |b_j|^2) lose too many digits in the matrix product


def row_blocks(rows: int, bytes_per_row: int) -> Iterator[slice]:
    """Slices over `rows` rows, each of about `BLOCK_BYTES`."""
    step = max(1, BLOCK_BYTES // max(1, bytes_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def refuse_too_large(n: int, m: int, max_bytes: int, more: str = "") -> None:
    """Raise InputError if the cost matrix of n x m rows takes more than `max_bytes`; `more` says what else there is."""
    _check.positive_int("max_bytes", max_bytes)
    if 8 * n * m > max_bytes:
        raise InputError(
            f"max_bytes must be at least {8 * n * m:,} for the cost matrix of {n} x {m} rows{more}, got "
            f"{max_bytes:,}; a subsample of the rows needs less, and icsbound.bounds.bracket(a, b, quadratic=False) "
            "and icsbound.measure.estimates.sliced need no matrix"
        )


def refuse_large_probe(n: int, widths: Iterable[int]) -> None:
    """Raise InputError if exact distances between clouds of n inputs, of these `widths`, would be refused later on."""
    if n > LARGEST and any(d > 1 for d in widths):  # on the line no matrix is needed
        raise InputError(
            f"probe must hold at most {LARGEST:,} inputs for exact distances, got {n:,}, whose cost matrix would take "
            f"{8 * n * n:,} bytes; a monitor with every=None and cheap_every takes brackets alone"
        )


def _exponent(largest: float) -> int:
    """The power of two that brings `largest` into [1/2, 1); kept where 2**-exponent is a normal float64."""
    return max(-1000, min(1000, math.frexp(largest)[1])) if largest > 0 else 0


def rescaled(values: Tensor, exponent: int) -> Tensor:
    """`values` times 2**exponent, also where that power is no float64 itself."""
    half = exponent // 2
    return values * 2.0**half * 2.0 ** (exponent - half)


@dataclass(frozen=True)
class Pair:
    """Two clouds with what is needed to measure between them in units of ``2**exponent``.

    `x` and `y` are the clouds jointly centred and scaled in float64 (their largest entry lies in [1/2, 1), or is 0),
    so that no square overflows or vanishes at any scale of the input. `direct` goes back to the original rows: a
    difference of centred rows would carry the rounding of the centre.
    """

    a: Tensor
    b: Tensor
    x: Tensor
    y: Tensor
    origin: Tensor  # of x and y, in units of 2**first
    first: int  # exponent taken out before centring, so that centring cannot overflow
    second: int  # and the one taken out after

    @property
    def exponent(self) -> int:
        """Distances between rows of `x` and `y` times 2**exponent are distances between rows of `a` and `b`."""
        return self.first + self.second

    @property
    def scale(self) -> float:
        """The largest row norm after joint centring: rounding errors of distances are proportional to it."""
        return max(float(torch.linalg.vector_norm(z, dim=1).max()) for z in (self.x, self.y))

    def direct(self, i: Tensor, j: Tensor) -> Tensor:
        """|a_i - b_j| for equally long index tensors `i` and `j`, each from its own difference."""
        out = self.x.new_empty(len(i))
        for block in row_blocks(len(i), 16 * self.a.shape[1]):
            difference = self._raw(self.a[i[block]]) - self._raw(self.b[j[block]])
            out[block] = torch.linalg.vector_norm(difference * 2.0**-self.second, dim=1)
        return out

    def direct_block(self, rows: slice) -> Tensor:
        """|a_i - b_j| for the rows i of a slice and every j, each from its own difference."""
        return torch.cdist(
            self._raw(self.a[rows]) * 2.0**-self.second,
            self._raw(self.b) * 2.0**-self.second,
            compute_mode="donot_use_mm_for_euclid_dist",
        )

    def _raw(self, rows: Tensor) -> Tensor:
        return rows.to(self.x.device).to(torch.float64) * 2.0**-self.first  # MPS casts before it copies

    def centred(self, point: Tensor) -> Tensor:
        """A point of the clouds' space in the coordinates of `x` and `y`."""
        return (self._raw(point) - self.origin) * 2.0**-self.second

    def paired(self) -> Tensor:
        """|a_i - b_i| of every row (needs n = m)."""
        index = torch.arange(len(self.a), device=self.a.device)
        return self.direct(index, index)


def pair(a: Tensor, b: Tensor) -> Pair:
    """Centre and scale two clouds jointly. Devices without float64 are left for the CPU."""
    device = a.device if a.device.type != "mps" else torch.device("cpu")
    first = _exponent(max(float(a.abs().max()), float(b.abs().max())))
    x, y = (z.to(device).to(torch.float64, copy=True).mul_(2.0**-first) for z in (a, b))
    pivot = x[0].clone()  # subtracting one row first is exact where a column is large and constant
    x.sub_(pivot)
    y.sub_(pivot)
    centre = (x.sum(0) + y.sum(0)) / (len(x) + len(y))
    x.sub_(centre)
    y.sub_(centre)
    second = _exponent(max(float(x.abs().max()), float(y.abs().max())))
    return Pair(a, b, x.mul_(2.0**-second), y.mul_(2.0**-second), pivot + centre, first, second)


def matrix(p: Pair) -> Tensor:
    """The (n, m) cost matrix in units of ``2**p.exponent``."""
    cost = p.x.new_empty(len(p.x), len(p.y))
    for _ in matrix_blocks(p, cost):
        pass
    return cost


def matrix_blocks(p: Pair, cost: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """The cost matrix, block of rows after block of rows: which rows, and their entries, written into `cost` if given.

    One matrix product gives ``|x|^2 + |y|^2 - 2 x.y``; it cancels where two points are close beside their distance
    from the centre, so every such entry is computed anew from the difference of its rows.
    """
    n, m = len(p.x), len(p.y)
    xx, yy = p.x.square().sum(1), p.y.square().sum(1)
    farthest = yy.max()
    for block in row_blocks(n, 8 * m):
        rows = p.x.new_empty(block.stop - block.start, m) if cost is None else cost[block]
        sums = xx[block, None] + yy
        torch.addmm(sums, p.x[block], p.y.T, alpha=-2.0, out=rows)
        # The least entry may tell that none is near, in a quarter of the time that it takes to look at all.
        if float(rows.amin()) >= NEAR * float(xx[block].max() + farthest):
            rows.sqrt_()
            yield block, rows
            continue
        near = torch.nonzero(rows < NEAR * sums)
        rows.clamp_(min=0.0).sqrt_()
        if 8 * len(near) > rows.numel():
            # Heavily repeated points: gathering pair by pair costs more than all distances of the block at once.
            rows.copy_(p.direct_block(block))
        elif len(near):
            i, j = near.unbind(1)
            rows[i, j] = p.direct((i + block.start).to(p.a.device), j.to(p.a.device))
        yield block, rows
