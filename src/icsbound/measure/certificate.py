"""Dual potentials that prove a matching optimal, found by Bellman's sweeps.

For uniform weights the dual of the assignment problem is: maximize mean(u) + mean(v) over u_i + v_j <= c_ij. Every v
gives the feasible pair (u, v) with u_i = min_j (c_ij - v_j), hence a lower bound; every matching gives an upper
bound. Where the two meet, both are optimal, however they were found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from icsbound.measure.cost import row_blocks

SWEEPS = 16
STALLED = 0.05  # a sweep that closes less than this share of the gap will not prove anything soon


@dataclass(frozen=True)
class Certificate:
    """A feasible pair of potentials and its dual value ``lower = mean(u) + mean(v)``."""

    lower: float
    u: Tensor
    v: Tensor


def row_minima(cost: Tensor, v: Tensor) -> Tensor:
    """min_j (c_ij - v_j) for every row i, in row blocks: no second matrix is held."""
    u = cost.new_empty(len(cost))
    for block in row_blocks(len(cost), 8 * cost.shape[1]):
        torch.amin(cost[block] - v, dim=1, out=u[block])
    return u


def certify(cost: Tensor, v: Tensor) -> Certificate:
    """The best pair with this `v`."""
    u = row_minima(cost, v)
    return Certificate(float(u.mean() + v.mean()), u, v)


def identity_certificate(cost: Tensor, starts: Iterable[Tensor], enough: float, sweeps: int = SWEEPS) -> Certificate:
    """The best pair found for the matching that leaves every row in its place; stops once ``lower >= enough``.

    From the best of the `starts` v, each sweep takes u_i = min_j (c_ij - v_j) and then makes the diagonal tight,
    v_i = c_ii - u_i. These are Bellman's iterations for shortest paths in the graph of exchanges; they end in a pair
    that proves the identity optimal exactly where it is.
    """
    best: Certificate | None = None
    for start in starts:
        found = certify(cost, start)
        if best is None or found.lower > best.lower:
            best = found
        if best.lower >= enough:
            return best
    if best is None:
        raise ValueError("starts must hold at least one potential")
    diagonal = cost.diagonal()
    current = best
    for _ in range(sweeps):
        current = certify(cost, diagonal - current.u)
        gain = current.lower - best.lower
        if gain > 0:
            best = current
        if best.lower >= enough or gain < STALLED * (enough - best.lower):
            break
    return best
