"""Dual potentials that prove a matching optimal, found by Bellman's sweeps.

For uniform weights the dual of the assignment problem is: maximize mean(u) + mean(v) over u_i + v_j <= c_ij. Every v
gives the feasible pair (u, v) with u_i = min_j (c_ij - v_j), hence a lower bound; every matching gives an upper
bound. Where the two meet, both are optimal, however they were found.

Everything here is one reading of the cost matrix after another; the native library reads at the speed of memory, and
torch does the same where there is none, or on another device.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from icsbound import _native
from icsbound.measure.cost import row_blocks

SWEEPS = 16
STALLED = 0.05  # a sweep that closes less than this share of the gap will not prove anything soon
HURRIED = 0.3  # ... where a solver waits
CLOSE = 0.01  # a gap below this share of the cost is worth sweeps, and no further start
ALMOST = 0.005  # column minima that miss less of the cost are the best start; if up to four times as much, sweeps are
SETTLED = 0.45  # where so many columns have their minimum on the diagonal, a solver settles the others from there
APART = 0.7  # ... if so many points differ
SPREAD = 0.9  # where so many rows have each a best column of their own, a solver is nearly done


@dataclass(frozen=True)
class Certificate:
    """A feasible pair of potentials and its dual value ``lower = mean(u) + mean(v)``.

    `at` holds the column of the least c_ij - v_j of every row, where it was asked for. Where `u` is lower than that
    least, it is some column of the row.
    """

    lower: float
    u: Tensor
    v: Tensor
    at: Tensor | None = None

    @property
    def spread(self) -> float:
        """The share of columns that are the best of some row; 0 where unknown."""
        return 0.0 if self.at is None else float(torch.zeros_like(self.v).index_fill_(0, self.at, 1.0).mean())


def _minima(
    cost: Tensor, v: Tensor, columns: Tensor | None = None, rows: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """min_j (c_ij - v_j) of every row (or of `rows`), its column (native only), and, into `columns`, min_i c_ij."""
    native = _native.library() if cost.device.type == "cpu" and cost.is_contiguous() else None
    if native is not None:
        n = len(cost if rows is None else rows)
        u, at = cost.new_empty(n), torch.empty(n, dtype=torch.int64, device="cpu")
        v = v.contiguous()
        pointers = (ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (cost, rows, v, u, at, columns))
        native.icsbound_row_minima(ctypes.c_int64(n), ctypes.c_int64(cost.shape[1]), *pointers)
        return u, at
    if rows is not None:
        cost = cost[rows]
    u = cost.new_empty(len(cost))
    for block in row_blocks(len(cost), 8 * cost.shape[1]):
        torch.amin(cost[block] - v, dim=1, out=u[block])
    if columns is not None:
        torch.amin(cost, dim=0, out=columns)
    return u, None


def certify(cost: Tensor, v: Tensor, columns: Tensor | None = None) -> Certificate:
    """The best pair with this `v`; the column minima of `cost` are written to `columns` on the way."""
    u, at = _minima(cost, v, columns)
    return Certificate(float(u.mean() + v.mean()), u, v, at)


def lowered(cost: Tensor, old: Certificate, v: Tensor) -> Certificate:
    """The best pair with this `v`, where a pair of another v is known.

    Where v fell everywhere, every c_ij - v_j rose; if the least of a row was that of its column `at`, it is what it was
    unless that column fell. Only the other rows are read again.
    """
    if old.at is None or not bool((v <= old.v).all()):
        return certify(cost, v)
    known = cost.gather(1, old.at[:, None])[:, 0] - v[old.at] == old.u
    rows = torch.nonzero(~known)[:, 0]
    u, at = old.u.clone(), old.at.clone()
    if len(rows):
        u[rows], found = _minima(cost, v, rows=rows)
        if found is not None:
            at[rows] = found
    return Certificate(float(u.mean() + v.mean()), u, v, at)


def identity_certificate(
    cost: Tensor, shift: Tensor, enough: float, sweeps: int = SWEEPS, hand_over: bool = False
) -> Certificate:
    """The best pair found for the matching that leaves every row in its place; stops once ``lower >= enough``.

    It starts from the best of v = 0, the column minima (both from the first reading of the matrix) and `shift` (m;
    the clouds' potential if they differ by a translation alone). Each sweep then takes u_i = min_j (c_ij - v_j) and
    makes the diagonal tight, v_i = c_ii - u_i. These are Bellman's iterations for shortest paths in the graph of
    exchanges; they end in a pair that proves the identity optimal exactly where it is. With m != n columns the
    starts are all there is. Where a solver waits (`hand_over`), sweeps are few, and there are none where few column
    minima lie off the diagonal: it settles the rows that they miss.
    """
    columns = cost.new_empty(cost.shape[1])
    best = certify(cost, torch.zeros_like(columns), columns)
    if best.lower >= enough:
        return best
    if float(columns.mean()) >= enough:
        return Certificate(float(columns.mean()), torch.zeros_like(best.u), columns)
    square = cost.shape[0] == cost.shape[1]
    if hand_over and square:
        tight = cost.diagonal() <= columns
        if best.at is not None and float(tight.double().mean()) >= SETTLED and _different(cost) >= APART:
            # The least of a tight row is 0, that of its own column; of the others 0 is a lower bound.
            own = torch.arange(len(cost), device=cost.device)
            return Certificate(float(columns.mean()), torch.zeros_like(columns), columns, own)
    swept = square and ALMOST * abs(enough) < enough - float(columns.mean()) <= 4 * ALMOST * abs(enough)
    if swept and not (hand_over and best.spread >= SPREAD):
        best = _swept(cost, best, enough, sweeps, HURRIED if hand_over else STALLED)
    for start in (columns, shift):
        if best.lower >= enough or (hand_over and best.spread >= SPREAD):
            return best
        if start is columns or enough - best.lower > CLOSE * abs(best.lower):
            best = max(best, certify(cost, start), key=lambda c: c.lower)
    if best.lower >= enough or not square or (hand_over and best.spread >= SPREAD):
        return best
    if not hand_over:
        return _swept(cost, best, enough, sweeps, STALLED)
    if swept or enough - best.lower > CLOSE * abs(enough):
        return best
    return _swept(cost, best, enough, sweeps, HURRIED)


def _different(cost: Tensor) -> float:
    """The share of points that differ, of the cloud that repeats more: the same points are as far from any other."""
    return min(len(torch.unique(distances)) for distances in (cost[0], cost[:, 0])) / len(cost)


def _swept(cost: Tensor, best: Certificate, enough: float, sweeps: int, stalled: float) -> Certificate:
    """The best pair of `sweeps` sweeps; ends where one closes less than a share `stalled` of the gap."""
    current = best
    for _ in range(sweeps):
        current = certify(cost, cost.diagonal() - current.u)
        gain, gap = current.lower - best.lower, enough - best.lower
        best = max(best, current, key=lambda c: c.lower)
        if best.lower >= enough or gain < stalled * gap:
            break
    return best
