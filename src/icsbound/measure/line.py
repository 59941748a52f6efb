"""W1 on the line, where sorting solves it: any sizes and weights, with dual potentials, in O(n log n)."""

from __future__ import annotations

import torch
from torch import Tensor


def line(x: Tensor, y: Tensor, weights_x: Tensor, weights_y: Tensor) -> tuple[float, Tensor, Tensor]:
    """W1 of two weighted laws on the line, and optimal potentials (u at x, v at y) with u_i + v_j <= |x_i - y_j|.

    W1 is the integral of |F - G|, F and G the distribution functions; the potential is f with slope sign(G - F),
    which is 1-Lipschitz and attains it: u = f(x), v = -f(y).
    """
    points = torch.cat([x, y])
    order = points.argsort(stable=True)
    excess = torch.cat([weights_x, -weights_y])[order].cumsum(0)[:-1]  # F - G between neighbouring points
    steps = points[order].diff()
    potential = torch.empty_like(points)
    potential[order] = torch.cat([steps.new_zeros(1), -(excess.sign() * steps).cumsum(0)])
    return float((excess.abs() * steps).sum()), potential[: len(x)], -potential[len(x) :]
