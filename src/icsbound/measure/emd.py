"""The Earth Mover distance W1 between two clouds of points, exact and with its proof.

For clouds a, b of n rows each, uniform weights and the Euclidean ground cost,

    W1(a, b) = min over permutations x of (1/n) sum_i |a_i - b_x(i)|
             = max over u_i + v_j <= |a_i - b_j| of (1/n) sum_i (u_i + v_i)        (Kantorovich duality).

Any permutation gives an upper bound and any feasible pair (u, v) a lower bound; the result holds both and their gap,
so its exactness does not rest on trust in a solver. Where row i of both clouds comes from the same input, the
identity is often optimal, and a few sweeps prove it; otherwise an assignment solver finishes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icsbound import _check
from icsbound._check import InputError
from icsbound.measure import cost as costs
from icsbound.measure.assignment import solve, transport
from icsbound.measure.certificate import Certificate
from icsbound.measure.line import line
from icsbound.measure.plain import plain


@dataclass(frozen=True, eq=False)
class EMDResult:
    """W1 of two clouds, with its certificate. Distances are in the units of the clouds.

    `lower <= W1 <= value`, and `gap = value - lower`; `certified` says that the gap is rounding (at most
    ``1e-9 * value + 1e-15 * scale``), which is the case unless `estimator` says "stopped".
    """

    value: float  # cost of `matching`, each of its distances computed directly
    lower: float  # dual value of (u, v)
    gap: float
    paired: float | None  # mean |a_i - b_i|, the cost of the identity; None where rows cannot be paired
    matching: Tensor | None  # int64 (n): row i of a goes to row matching[i] of b; None for unequal sizes or weights
    n: int  # rows of a
    d: int
    estimator: str  # how the value was found
    u: Tensor  # float64 dual potential at the rows of a
    v: Tensor  # and of b: u_i + v_j <= |a_i - b_j|
    scale: float  # largest row norm after joint centring

    @property
    def certified(self) -> bool:
        """Whether the gap proves the value up to rounding."""
        return self.gap <= 1e-9 * self.value + 1e-15 * self.scale


@plain
def emd(
    a: Tensor,
    b: Tensor,
    *,
    weights_a: Tensor | None = None,
    weights_b: Tensor | None = None,
    max_bytes: int = costs.MAX_BYTES,
) -> EMDResult:
    """The exact Earth Mover distance W1 between two clouds, with dual potentials that certify it.

    Args:
        a: cloud (n, d) of any floating dtype, on any device; computed in float64. The cost matrix and the certificate
            of the identity are computed on that device (on the CPU for one without float64); where a solver must
            finish, the matrix is copied to the CPU. `matching` is on the device of the clouds, and so are `u` and `v`
            unless that has no float64.
        b: cloud (m, d) on the same device. With m = n and no weights the result has a matching; otherwise general
            transport is solved (by POT, ``pip install 'icsbound[emd]'``; for d = 1 by sorting).
        weights_a: nonnegative weights (n) of the rows of `a`, normalized to sum 1; uniform where None.
        weights_b: the same for `b`.
        max_bytes: refuse a cost matrix (8 n m bytes) larger than this. General transport takes about five times as
            much.

    Raises:
        InputError: a cloud is no finite (n, d) tensor, the clouds do not fit each other, the weights do not fit the
            clouds, the cost matrix would be too large, or POT is needed and not installed.
    """
    _check.clouds(a, b)
    wa, wb = _weights("weights_a", weights_a, len(a)), _weights("weights_b", weights_b, len(b))
    uniform = len(a) == len(b) and wa is None and wb is None
    if a.shape[1] > 1:
        more = "" if uniform else ", of which transport between unequal sizes or weights takes about five times as much"
        costs.refuse_too_large(len(a), len(b), max_bytes, more)
    pair = costs.pair(a, b)
    if a.shape[1] == 1:
        return _on_the_line(pair, wa, wb)
    return _assigned(pair) if uniform else _transported(pair, wa, wb)


def _assigned(pair: costs.Pair) -> EMDResult:
    """Equal sizes, uniform weights."""
    diagonal = pair.paired()
    cost = costs.matrix(pair)
    cost.diagonal().copy_(diagonal)
    shift = pair.y.mean(0) - pair.x.mean(0)
    direction = shift / torch.linalg.vector_norm(shift).clamp_min(1e-300)
    found = solve(cost, pair.y @ direction, 1e-15 * pair.scale, pair)
    matching = found.matching.to(pair.a.device)
    index, paired = torch.arange(len(cost), device=pair.a.device), float(diagonal.mean())
    value = paired if torch.equal(matching, index) else float(pair.direct(index, matching).mean())
    return _result(pair, value, found.certificate, paired, matching, f"exact: {found.solver}")


def _transported(pair: costs.Pair, wa: Tensor | None, wb: Tensor | None) -> EMDResult:
    """Unequal sizes or weights."""
    mass_a, mass_b = _mass(wa, len(pair.a)), _mass(wb, len(pair.b))
    value, proof = transport(costs.matrix(pair).cpu(), mass_a, mass_b)
    return _result(pair, value, proof, _paired(pair, mass_a, mass_b), None, "exact: POT network simplex")


def _on_the_line(pair: costs.Pair, wa: Tensor | None, wb: Tensor | None) -> EMDResult:
    """d = 1."""
    x, y = pair.x[:, 0].cpu(), pair.y[:, 0].cpu()
    mass_a, mass_b = _mass(wa, len(x)), _mass(wb, len(y))
    matching = None
    if len(x) == len(y) and wa is None and wb is None:
        one = torch.ones_like(x)  # counts, so that equal shares cancel exactly
        value, u, v = line(x, y, one, one)
        matching = torch.empty(len(x), dtype=torch.int64, device=x.device)
        matching[x.argsort(stable=True)] = y.argsort(stable=True)
        index = torch.arange(len(x), device=pair.a.device)
        matching = matching.to(pair.a.device)
        value = float(pair.direct(index, matching).mean())
    else:
        value, u, v = line(x, y, mass_a, mass_b)
    proof = Certificate(float(mass_a @ u + mass_b @ v), u, v)
    return _result(pair, value, proof, _paired(pair, mass_a, mass_b), matching, "exact: sorted on the line")


def _mass(weights: Tensor | None, n: int) -> Tensor:
    return torch.full((n,), 1.0 / n, dtype=torch.float64, device="cpu") if weights is None else weights


def _paired(pair: costs.Pair, mass_a: Tensor, mass_b: Tensor) -> float | None:
    """The cost of leaving every row in its place, where that is a coupling."""
    return float(mass_a @ pair.paired().cpu()) if torch.equal(mass_a, mass_b) else None


def _weights(name: str, weights: Tensor | None, n: int) -> Tensor | None:
    """Checked weights with sum 1 in float64 on the CPU; None where they are all equal."""
    if weights is None:
        return None
    if not isinstance(weights, torch.Tensor) or weights.shape != (n,) or not weights.is_floating_point():
        _check.fail(name, f"be a floating-point tensor of shape ({n},)", weights)
    mass = _check.finite_rows(name, weights.detach().cpu().double())
    if bool((mass < 0).any()) or not bool((mass > 0).any()):
        raise InputError(
            f"{name} must be nonnegative with a positive sum, got a least entry of {float(mass.min()):g} "
            f"and a sum of {float(mass.sum()):g}"
        )
    mass = mass / mass.max()
    return None if bool((mass == 1).all()) else mass / mass.sum()


def _result(
    pair: costs.Pair, value: float, proof: Certificate, paired: float | None, matching: Tensor | None, estimator: str
) -> EMDResult:
    """The result in the units of the clouds."""
    try:
        value, lower, scale = (math.ldexp(z, pair.exponent) for z in (value, min(proof.lower, value), pair.scale))
        paired = None if paired is None else math.ldexp(paired, pair.exponent)
    except OverflowError:
        raise InputError("a and b must lie closer together: their distance exceeds the largest float64") from None
    u, v = (costs.rescaled(z.to(pair.x.device), pair.exponent) for z in (proof.u, proof.v))
    n, d = pair.a.shape
    result = EMDResult(value, lower, value - lower, paired, matching, n, d, estimator, u, v, scale)
    if result.certified:
        return result
    text = f"stopped with a gap of {result.gap:.3g} ({estimator.removeprefix('exact: ')})"
    return EMDResult(value, lower, value - lower, paired, matching, n, d, text, u, v, scale)
