"""Optimal assignments and transport plans, for a cost matrix whose certificate the identity did not get.

Whatever a solver returns is only a proposal: its matching is priced and its potentials are made feasible here, in
float64, so that a wrong solver shows as a gap and never as a wrong value.
"""

from __future__ import annotations

import ctypes
import importlib.util
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icsbound import _native
from icsbound.measure.certificate import SPREAD, Certificate, certify, identity_certificate, lowered
from icsbound.measure.common import Left, carried_over, repeated, without_common
from icsbound.measure.cost import Pair
from icsbound.measure.pot import pot

ITERATIONS = 1_000_000_000  # of the network simplex: never the reason to stop
POLISH = 8
SLICE = 1_000_000  # units of work between two chances to interrupt: about a tenth of a second
EVERY = 8  # a solver is started from the exact potentials of every eighth row
COARSE = 512  # rows from where that pays
LIMIT = 100_000  # units of work a row, after which the native solver gives up: a hundred times what hard clouds took


@dataclass(frozen=True)
class Assignment:
    """A matching of every row to one column, its mean cost, potentials, and who found them."""

    matching: Tensor
    value: float
    certificate: Certificate
    solver: str

    @property
    def gap(self) -> float:
        """What the certificate leaves open."""
        return self.value - self.certificate.lower


def solve(
    cost: Tensor, shift: Tensor, rounding: float = 0.0, pair: Pair | None = None, points: Tensor | None = None
) -> Assignment:
    """The matching of least mean cost for a square matrix of distances, float64, on any device.

    First the certificate of the identity (`shift` is one of its starts, see `identity_certificate`), then a solver,
    which runs on the CPU. Given the clouds, points that they share are left in place (see `common`); else `points` may
    number the rows by their points. A gap up to 1e-12 of the value plus `rounding` counts as closed.
    """
    paired = float(cost.diagonal().mean())
    enough = paired - (1e-12 * paired + rounding)
    proof = identity_certificate(cost, shift, enough, hand_over=True)
    if proof.lower >= enough:
        return Assignment(torch.arange(len(cost), device=cost.device), paired, proof, "the identity is optimal")
    host, shift = cost.cpu(), shift.cpu()
    proof = proof if host is cost else certify(host, proof.v.cpu())
    if proof.spread < SPREAD and _native.library() is not None:
        numbers = None if pair is None else repeated(pair)
        if numbers is not None:
            left = without_common(*numbers)
            if len(left.rows) < len(host):
                return _without_common(host, shift, rounding, left, numbers[0])
            points = _numbered(numbers[0])
        if len(host) >= COARSE:
            proof = max(proof, certify(host, _coarse(host, shift)), key=lambda c: c.lower)
    return assign(host, proof, paired, rounding, points)


def _coarse(cost: Tensor, shift: Tensor) -> Tensor:
    """Potentials of all columns from the exact ones of a part of the rows and columns."""
    part = solve(cost[::EVERY, ::EVERY].contiguous(), shift[::EVERY].contiguous())
    return torch.amin(cost[::EVERY] - part.certificate.u[:, None], dim=0)


def _without_common(cost: Tensor, shift: Tensor, rounding: float, left: Left, of_a: Tensor) -> Assignment:
    """Points of both clouds stay in place; those that are `left`, of the numbers `of_a`, are assigned."""
    if not len(left.rows):
        return Assignment(left.matching, 0.0, carried_over(cost, left, shift[:0]), "all points stay in place")
    part = cost[left.rows[:, None], left.columns]
    found = solve(part, shift[left.columns], rounding, points=_numbered(of_a[left.rows]))
    matching = left.matching.clone()
    matching[left.rows] = left.columns[found.matching]
    proof = carried_over(cost, left, found.certificate.v)
    return Assignment(matching, _mean_cost(cost, matching), proof, f"shared points stay in place, {found.solver}")


def _numbered(points: Tensor) -> Tensor:
    """The same numbers for the same points, from 0 on without gaps."""
    numbers: Tensor
    _, numbers = torch.unique(points, return_inverse=True)
    return numbers


def assign(
    cost: Tensor, start: Certificate, paired: float, rounding: float, points: Tensor | None = None
) -> Assignment:
    """The matching of least mean cost for a square matrix of distances on the CPU, and feasible potentials.

    `start` is a pair for the identity, whose mean cost is `paired`. Rows of the same number in `points`, if given, must
    be equal. A gap beyond 1e-12 of the value plus `rounding` is handed on to POT if it is installed.
    """
    if start.at is None or (native := _native.library()) is None:
        return _by_simplex(cost)
    slack = (1e-12 * paired + rounding) / 2  # a row; so that rounding does not go round in circles
    found = _lazily(native, cost, start, paired, slack, points)
    if found is not None and found.gap > 1e-12 * found.value + rounding:
        better = polished(cost, found.matching, found.certificate.v)
        found = Assignment(found.matching, found.value, better, found.solver)
    if found is not None and found.gap <= 1e-12 * found.value + rounding:
        return found
    if found is None or importlib.util.find_spec("ot") is not None:
        return _by_simplex(cost)
    return found


def _lazily(
    native: ctypes.CDLL,
    cost: Tensor,
    start: Certificate,
    paired: float,
    slack: float,
    points: Tensor | None = None,
) -> Assignment | None:
    """The solver of the native library; None where it gave up."""
    n = len(cost)
    matching, v = (torch.empty(n, dtype=dtype, device="cpu") for dtype in (torch.int64, torch.float64))
    given = [None if t is None else t.contiguous() for t in (cost, start.v, start.u, start.at, points)]
    *pointers, rows = (ctypes.c_void_p(None if t is None else t.data_ptr()) for t in given)
    native.icsbound_assignment_new.restype = ctypes.c_void_p
    left = (ctypes.c_double(z) for z in (paired - start.lower, slack))
    solver = ctypes.c_void_p(native.icsbound_assignment_new(ctypes.c_int64(n), *pointers, *left, rows))
    if not solver:
        raise MemoryError("no memory for the assignment solver")
    try:
        state, spent = 0, 0
        while state == 0 and spent < LIMIT * n:
            state = native.icsbound_assignment_run(solver, ctypes.c_int64(SLICE))
            spent += SLICE
        if state < 0:
            raise MemoryError("no memory for the assignment solver")
        native.icsbound_assignment_result(solver, *(ctypes.c_void_p(t.data_ptr()) for t in (matching, v)))
    finally:
        native.icsbound_assignment_delete(solver)
    if state == 0 or not torch.equal(matching.sort().values, torch.arange(n, device="cpu")):
        return None
    return Assignment(matching, _mean_cost(cost, matching), lowered(cost, start, v), "lazy assignment")


def _mean_cost(cost: Tensor, matching: Tensor) -> float:
    return float(cost.gather(1, matching[:, None]).mean())


def _by_simplex(cost: Tensor) -> Assignment:
    # The one reason to come here that a user can do something about: `icsbound doctor` says why there is no library.
    cause = " (without the native library)" if _native.library() is None else ""
    plan, _, v, _ = _network_simplex(cost, None, None, cause)
    return Assignment(plan, _mean_cost(cost, plan), polished(cost, plan, v), "POT network simplex")


def polished(cost: Tensor, matching: Tensor, v: Tensor) -> Certificate:
    """Feasible potentials for `matching` from a guess `v`: Bellman's sweeps with the matched entries as diagonal."""
    best = certify(cost, v)
    matched = cost.gather(1, matching[:, None])[:, 0]
    current = best
    for _ in range(POLISH):
        v = torch.empty_like(v)
        v[matching] = matched - current.u
        current = certify(cost, v)
        if current.lower <= best.lower:
            break
        best = current
    return best


def transport(cost: Tensor, weights_a: Tensor, weights_b: Tensor) -> tuple[float, Certificate]:
    """The least cost of moving `weights_a` onto `weights_b`, and feasible potentials with their dual value."""
    _, u, v, value = _network_simplex(cost, weights_a, weights_b)
    # Two passes give every potential its largest feasible value, also those of points without weight.
    u = torch.amin(cost - v, dim=1)
    v = torch.amin(cost - u[:, None], dim=0)
    return value, Certificate(float(weights_a @ u + weights_b @ v), u, v)


def _network_simplex(
    cost: Tensor, weights_a: Tensor | None, weights_b: Tensor | None, cause: str = ""
) -> tuple[Tensor, Tensor, Tensor, float]:
    """POT's exact solver: (column of the largest share of every row, u, v, cost)."""
    ot = pot(f"the Earth Mover distance of these clouds{cause}")
    mass_a, mass_b = (np.empty(0) if w is None else w.numpy() for w in (weights_a, weights_b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what POT warns about shows as a gap
        plan, log = ot.emd(mass_a, mass_b, cost.numpy(), numItermax=ITERATIONS, log=True)
    u, v = (torch.from_numpy(np.asarray(log[name], dtype=np.float64)) for name in ("u", "v"))
    return torch.from_numpy(plan.argmax(axis=1)), u, v, float(log["cost"])
