"""Points that two clouds share, taken out of their assignment problem.

W1 depends on the difference of the two laws alone: by the triangle inequality a plan that moves mass away from a point
and other mass to it costs no less than one that leaves both where they are. Of a point that occurs k times in a and m
times in b, min(k, m) copies therefore stay in place, at no cost, and only the others are assigned. Clouds of repeated
points (pixels, codes, ReLU outputs, quantized layers) become much smaller so.

A pair of potentials for what is left is carried over to all points: u_i = min_j (c_ij - v_j) over the columns left is a
1-Lipschitz function of the point, so v = -u at a shared point is feasible, and the dual value stays what it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icsbound.measure.certificate import Certificate, certify
from icsbound.measure.cost import Pair

GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are unlike each other
SAMPLE = 64  # columns that are looked at before all
FEW = 0.9  # with a larger share of different points, taking the others out does not pay


def repeated(pair: Pair) -> tuple[Tensor, Tensor] | None:
    """A number for every row of both clouds, the same for equal points, on the CPU; None where almost all differ."""
    # Equal points have equal sums of weighted entries, and hardly any others do: that is checked. Points that differ
    # in some of many columns differ.
    for step in sorted({max(1, pair.x.shape[1] // SAMPLE), 1}, reverse=True):
        x, y = pair.x[:, ::step], pair.y[:, ::step]
        weights = 0.5 + torch.arange(1, x.shape[1] + 1, device=x.device).double() * GOLDEN % 1
        sums = torch.cat([(z * weights).sum(1) for z in (x, y)])
        distinct, of = torch.unique(sums, return_inverse=True)
        if len(distinct) > FEW * len(sums):
            return None
    points, of = torch.cat([pair.a, pair.b]).to(of.device), of.contiguous()
    first = torch.empty_like(distinct, dtype=torch.int64)
    first[of] = torch.arange(len(of), device=of.device)
    if not torch.equal(points[first[of]], points):
        of = torch.unique(points, dim=0, return_inverse=True)[1]
    of_a, of_b = of.cpu().split([len(pair.x), len(pair.y)])
    return of_a, of_b


@dataclass(frozen=True)
class Left:
    """What is left of two clouds of n rows: `rows` of a, `columns` of b; `matching` (n) of the others, -1 elsewhere."""

    rows: Tensor
    columns: Tensor
    matching: Tensor


def without_common(of_a: Tensor, of_b: Tensor) -> Left:
    """What is left of two clouds of n rows each, given the number of every row's point."""
    n, size = len(of_a), 1 + int(torch.maximum(of_a.max(), of_b.max()))
    counts = [of.bincount(minlength=size) for of in (of_a, of_b)]
    stay = torch.minimum(*counts)
    kept, left = [], []
    for of, count in zip((of_a, of_b), counts, strict=True):
        order = (2 * of + (of_a != of_b)).argsort(stable=True)  # rows that stay in their own place come first
        rank = torch.arange(n, device=of.device) - (count.cumsum(0) - count)[of[order]]
        stays = rank < stay[of[order]]
        kept.append(order[stays])  # by point, so that both sides agree
        left.append(order[~stays].sort().values)
    matching = torch.full((n,), -1, device=of_a.device)
    matching[kept[0]] = kept[1]
    # Rows that are left on both sides come first, so that the hint of their pairing stays on the diagonal.
    rows, columns = (torch.cat([one[m := torch.isin(one, other)], one[~m]]) for one, other in (left, left[::-1]))
    return Left(rows, columns, matching)


def carried_over(cost: Tensor, left: Left, v: Tensor) -> Certificate:
    """Feasible potentials of all points from potentials `v` of the columns left."""
    stay = torch.nonzero(left.matching >= 0)[:, 0]
    every = cost.new_zeros(len(cost))
    every[left.columns] = v
    if len(v):
        every[left.matching[stay]] = -certify(cost[stay[:, None], left.columns], v).u
    return certify(cost, every)
