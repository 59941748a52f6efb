"""Families of clouds that distances and bounds are tried on: from harmless to adversarial, each with its reason."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

Rng = np.random.Generator


def _spiked(g: Rng, n: int, d: int) -> np.ndarray:
    z = g.normal(size=(n, d))
    z[g.integers(n)] *= 1e6
    return z


def _twins(g: Rng, n: int, d: int) -> np.ndarray:
    z = np.repeat(g.normal(size=(-(-n // 2), d)), 2, axis=0)[:n]
    return z + 1e-9 * g.normal(size=(n, d))


def _sphere(g: Rng, n: int, d: int) -> np.ndarray:
    z = g.normal(size=(n, d)) + 1e-12
    return z / np.linalg.norm(z, axis=1, keepdims=True)


CLOUDS: dict[str, Callable[[Rng, int, int], np.ndarray]] = {
    "gaussian": lambda g, n, d: g.normal(size=(n, d)),
    "cauchy": lambda g, n, d: g.standard_cauchy(size=(n, d)),  # no mean: first moments are ruled by few rows
    "lognormal": lambda g, n, d: np.exp(3 * g.normal(size=(n, d))),  # heavy and one-sided
    "relu": lambda g, n, d: np.maximum(g.normal(size=(n, d)) - 0.5, 0),  # what layers give: many exact zeros
    "lattice": lambda g, n, d: g.integers(-2, 3, size=(n, d)).astype(float),  # ties and repeated points
    "decimal": lambda g, n, d: np.round(g.normal(size=(n, d)), 1),  # ties that rounding breaks
    "signs": lambda g, n, d: g.choice([-1.0, 1.0], size=(n, d)),  # all norms equal
    "sphere": _sphere,  # all norms equal, nothing else in common
    "atom": lambda g, n, d: np.repeat(g.normal(size=(1, d)), n, axis=0),  # one point, n times: zero variance
    "zeros": lambda g, n, d: np.zeros((n, d)),  # no scale at all
    "twins": _twins,  # near-duplicates, which a matrix product cannot tell apart
    "ray": lambda g, n, d: g.normal(size=(n, 1)) * g.normal(size=(1, d)),  # rank one
    "columns": lambda g, n, d: g.normal(size=(n, d)) * 10 ** g.uniform(-6, 6, size=(1, d)),  # axes of unlike scale
    "spike": _spiked,  # one row far away
    "offset": lambda g, n, d: g.normal(size=(n, d)) + 1e6,  # mean far beyond spread: cancellation
}

MOVES: dict[str, Callable[[Rng, np.ndarray], np.ndarray]] = {
    "same": lambda g, a: a.copy(),
    "tiny": lambda g, a: a + 1e-7 * np.abs(a).mean() * g.normal(size=a.shape),
    "small": lambda g, a: a + 0.05 * np.abs(a).mean() * g.normal(size=a.shape),
    "shuffled": lambda g, a: a[g.permutation(len(a))],
    "mirrored": lambda g, a: -a,
    "shifted": lambda g, a: a + g.normal(size=(1, a.shape[1])) * 10 ** g.uniform(-3, 3),
    "scaled": lambda g, a: a * 10 ** g.uniform(-4, 4),
}


def draw(g: Rng, n: int, d: int, exponent: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Two float64 clouds of shape (n, d) times 10**exponent, and the name of their family."""
    family = g.choice(list(CLOUDS))
    move = g.choice([*MOVES, "other", "other"])
    a = CLOUDS[family](g, n, d)
    if move == "other":
        move = g.choice(list(CLOUDS))
        b = CLOUDS[move](g, n, d)
    else:
        b = MOVES[move](g, a)
    unit = 10.0**exponent
    return torch.from_numpy(a * unit), torch.from_numpy(b * unit), f"{family}/{move}, n={n}, d={d}, 1e{exponent:.0f}"


def distances(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """The cost matrix computed the plain way, difference by difference, for clouds without extreme scale."""
    return np.linalg.norm(a.numpy()[:, None, :] - b.numpy()[None, :, :], axis=2)
