"""Optimal assignments and transport plans, for a cost matrix whose certificate the identity did not get.

Whatever a solver returns is only a proposal: its matching is priced and its potentials are made feasible here, in
float64, so that a wrong solver shows as a gap and never as a wrong value.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icsbound._check import InputError
from icsbound.measure.certificate import Certificate, certify

ITERATIONS = 1_000_000_000  # of the network simplex: never the reason to stop
POLISH = 8


@dataclass(frozen=True)
class Assignment:
    """A matching of every row to one column, potentials, and who found them."""

    matching: Tensor
    certificate: Certificate
    solver: str


def assign(cost: Tensor, start: Certificate, enough: float) -> Assignment:
    """The matching of least total cost for a square matrix on the CPU, and feasible potentials."""
    plan, _, v, _ = _network_simplex(cost, None, None)
    return Assignment(plan, polished(cost, plan, v), "POT network simplex")


def polished(cost: Tensor, matching: Tensor, v: Tensor) -> Certificate:
    """Feasible potentials for `matching` from a guess `v`: Bellman's sweeps with the matched entries as diagonal."""
    best = certify(cost, v)
    matched = cost[torch.arange(len(cost)), matching]
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
    cost: Tensor, weights_a: Tensor | None, weights_b: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, float]:
    """POT's exact solver: (column of the largest share of every row, u, v, cost)."""
    try:
        import ot
    except ImportError:
        raise InputError(
            "the Earth Mover distance of these clouds needs POT, which is not installed: pip install 'icsbound[emd]'"
        ) from None
    mass_a, mass_b = (np.empty(0) if w is None else w.numpy() for w in (weights_a, weights_b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what POT warns about shows as a gap
        plan, log = ot.emd(mass_a, mass_b, cost.numpy(), numItermax=ITERATIONS, log=True)
    u, v = (torch.from_numpy(np.asarray(log[name], dtype=np.float64)) for name in ("u", "v"))
    return torch.from_numpy(plan.argmax(axis=1)), u, v, float(log["cost"])
