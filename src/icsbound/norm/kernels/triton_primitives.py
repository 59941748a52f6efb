"""The four row primitives of `aten` by Triton, for coefficients that are found elsewhere.

Each is one launch that reads, and writes, every element once. The hot path (`triton`) runs the same loops with the
coefficients found inside; these are for what puts something between them, and to measure the loops by themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icsbound.norm.kernels.triton_launch import Launcher
from icsbound.norm.kernels.triton_plan import Tiles, row_tiles


class _Pass(Launcher):
    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.tiles: Tiles = row_tiles(self.N, self.C, self.L, self.pixels, x.element_size())
        self.cut = self.C, self.L, self.tiles.S, self.tiles.SPAN

    def by_group(self) -> tuple[Tensor, Tensor]:
        """Room for two numbers of each channel and group, (C, N, S) each."""
        C, N, S = self.C, self.N, self.tiles.S
        a, b = self.numbers(C * N * S, C * N * S)
        return a.view(C, N, S), b.view(C, N, S)

    def lengths(self) -> Tensor:
        """Positions of each segment, (S,)."""
        start = torch.arange(self.tiles.S, device=self.x.device) * self.tiles.SPAN
        return (self.L - start).clamp_max(self.tiles.SPAN).to(self.inner)


def row_moments(x: Tensor, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of x - K and biased variance of every row, (N, C) each."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        p = _Pass(x)
        m, M2 = p.by_group()
        kernel, t = p.kernels.rows.moments, p.tiles
        p.over(kernel, t, t.programs, p.x, pivot_C.contiguous(), m, M2, *p.cut, t.groups, 1)
        if t.S == 1:
            return m[:, :, 0].T, M2[:, :, 0].T / p.L
        w_S = p.lengths()
        mean_CN = (w_S * m).sum(2) / p.L
        squares_CN = (M2 + w_S * (m - mean_CN[:, :, None]) ** 2).sum(2)
        return mean_CN.T, squares_CN.T / p.L


def row_affine(x: Tensor, pivot_C: Tensor, a_NC: Tensor, b_NC: Tensor, *, relu: bool = False) -> Tensor:
    """a (x - K) + b, row by row, then a ReLU if asked for; in x's dtype and layout."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        p = _Pass(x)
        y = torch.empty_like(p.x)
        coefficients = (c.contiguous() for c in (pivot_C, a_NC, b_NC))
        p.over(p.kernels.rows.row_affine, p.tiles, p.tiles.programs, p.x, y, *coefficients, *p.cut, RELU=relu)
        return y


def row_dots(dy: Tensor, x: Tensor, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    """Σ dy and Σ dy (x - K) of every row, (N, C) each."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        p = _Pass(x)
        s0, s1 = p.by_group()
        kernel, t = p.kernels.rows.row_dots, p.tiles
        p.over(kernel, t, t.programs, p.arranged(dy), p.x, pivot_C.contiguous(), s0, s1, *p.cut, t.groups)
        return s0.sum(2).T, s1.sum(2).T


def row_affine2(dy: Tensor, x: Tensor, pivot_C: Tensor, a_NC: Tensor, b_NC: Tensor, c_NC: Tensor) -> Tensor:
    """a dy + b (x - K) + c, row by row; in x's dtype and layout."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        p = _Pass(x)
        dx = torch.empty_like(p.x)
        coefficients = (c.contiguous() for c in (pivot_C, a_NC, b_NC, c_NC))
        p.over(p.kernels.rows.row_affine2, p.tiles, p.tiles.programs, p.arranged(dy), p.x, dx, *coefficients, *p.cut)
        return dx
