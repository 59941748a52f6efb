"""Pairs of laws whose distance is known in closed form, as clouds of equally likely rows, in float64.

Batch norm with exact statistics sees mean and variance of each coordinate and nothing else. The first three pairs agree
in both, so that it passes them unchanged; their distances say how much of the bound sqrt(2 d) can be attained. All are
derived here; φ is the golden ratio.

======================  ========================================================  =====================================
pair                    differs in                                                W1
======================  ========================================================  =====================================
`cube_and_cross`        joint structure alone: all norms and covariances agree    sqrt(2 d - 2 sqrt(d))
`mirrored`              odd moments                                               at least 4 φ^(-5/2) sqrt(d)
`spiked`                kurtosis, 1 against 16                                    at least 1.125 sqrt(d)
======================  ========================================================  =====================================

The last two are products of laws on the line, given by what they do to one coordinate. For them sqrt(d) times W1 of
one coordinate is a lower bound (`icsbound.measure.bounds.marginals`), for the product as for any other joint law.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from icsbound._check import fail, positive_int

MIRRORED = 4 * ((1 + math.sqrt(5)) / 2) ** -2.5  # 1.2011, at p = (3 - sqrt 5) / 4
SPIKED = 1.125  # 1 + sqrt(p) - 2 p at p = 1/16
# Atoms of one coordinate. Those of `mirrored` give p to within 8e-5, where W1 is flat in p; those of `spiked` exactly.
MIRRORED_ATOMS, SPIKED_ATOMS = 110, 32


def hadamard(d: int) -> Tensor:
    """Sylvester's matrix (d, d) of orthogonal rows of ±1; d is a power of 2."""
    if positive_int("d", d) & (d - 1):
        fail("d", "be a power of 2", d)
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < d:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def cube_and_cross(d: int) -> tuple[Tensor, Tensor]:
    """2 d corners of the cube {±1}^d (signed rows of a Hadamard matrix) and the 2 d points ±sqrt(d) e_i.

    Every point of one is at distance sqrt(2 d ∓ 2 sqrt(d)) from every point of the other, and each corner has one point
    of each axis at the smaller: so W1 = sqrt(2 d - 2 sqrt(d)).
    """
    corners, points = hadamard(d), math.sqrt(d) * torch.eye(d, dtype=torch.float64)
    return torch.cat([corners, -corners]), torch.cat([points, -points])


def mirrored(d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates 1/h with probability p and -h otherwise, h = sqrt(p / (1 - p)), p = 21/110, and their negatives.

    Each column holds its atoms exactly, in an order of its own, so that all means and variances are exact too.
    """
    p = 21 / MIRRORED_ATOMS
    h = math.sqrt(p / (1 - p))
    column = torch.full((MIRRORED_ATOMS,), -h, dtype=torch.float64)
    column[:21] = 1 / h
    return _shuffled(column, d, generator), -_shuffled(column, d, generator)


def spiked(d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates ±1, and coordinates 0 or, with probability 1/16, ±4; columns exact as in `mirrored`.

    In one coordinate half of the mass goes from 1 to 0 and 4, and half from -1: W1 = 1 - 1/16 + 3/16 = 1.125.
    """
    even, spikes = torch.ones(2, SPIKED_ATOMS, dtype=torch.float64)
    even[::2], spikes[:] = -1.0, 0.0
    spikes[0], spikes[1] = 4.0, -4.0
    return _shuffled(even, d, generator), _shuffled(spikes, d, generator)


def amplified(sigma: float) -> tuple[Tensor, Tensor]:
    """Two laws on the plane, 64 rows each: coordinate 1 is ±sqrt(2 - σ²) at both, coordinate 2 is σ times `spiked`.

    Both coordinates are independent and their total variance is 2, as after batch norm. W1 = 1.125 σ, since nothing
    but coordinate 2 changes; divided by its standard deviation σ it is 1.125.
    """
    even, spikes = (z[:, 0] for z in spiked(1, torch.Generator().manual_seed(0)))
    first = math.sqrt(2 - sigma * sigma)

    def on_plane(z: Tensor) -> Tensor:
        return torch.cat([torch.stack([torch.full_like(z, side), sigma * z], 1) for side in (first, -first)])

    return on_plane(even), on_plane(spikes)


def flipping(d: int, n: int = 100, large: int = 4) -> tuple[Tensor, Tensor]:
    """A few large rows, the same in both, that carry the variance, and many rows of norm 0.01 sqrt(d) that change sign.

    The root mean square norm is sqrt(d) in both, and W1 is small; unitization makes all rows alike.
    """
    far, near = torch.zeros(2, n, d, dtype=torch.float64)
    far[:large, 0] = math.sqrt(d * n / large)
    far[large // 2 : large, 0] *= -1
    near[large:, 1] = 0.01 * math.sqrt(d)
    return far + near, far - near


def sphere(n: int, d: int, generator: torch.Generator) -> Tensor:
    """n rows of norm sqrt(d), uniform on the sphere."""
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    rows: Tensor = math.sqrt(d) * z / torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return rows


def _shuffled(column: Tensor, d: int, generator: torch.Generator) -> Tensor:
    return torch.stack([column[torch.randperm(len(column), generator=generator)] for _ in range(d)], 1)
