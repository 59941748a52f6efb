"""The four row primitives of `aten` by Triton, for coefficients that are found elsewhere.

Each is one launch that reads, and writes, every element once; sums over long rows are then put together from segments.
The hot path (`triton`) runs the same loops with the coefficients found inside; these are for what puts something
between them, and to measure the loops by themselves (`group_moments`, `group_dots`).
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

    def weights(self) -> Tensor:
        """The share of a row's positions that each segment has, (S,)."""
        start = torch.arange(self.tiles.S, device=self.x.device) * self.tiles.SPAN
        return (self.L - start).clamp_max(self.tiles.SPAN).to(self.inner) / self.L


def group_moments(x: Tensor, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of x - K and sum of squared deviations from it, of every segment of every row, (C, N, S) each."""
    return _moments(_Pass(x), pivot_C)


def _moments(p: _Pass, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    with torch.cuda.device_of(p.x):  # type: ignore[no-untyped-call]  # torch's
        m_CNS, M2_CNS = p.by_group()
        kernel, t = p.kernels.rows.moments, p.tiles
        p.over(kernel, t, t.programs, p.x, pivot_C.contiguous(), m_CNS, M2_CNS, *p.cut, t.groups, 1)
        return m_CNS, M2_CNS


def row_moments(x: Tensor, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of x - K and biased variance of every row, (N, C) each."""
    p = _Pass(x)
    m_CNS, M2_CNS = _moments(p, pivot_C)
    w_S = p.weights()
    mean_CN = (w_S * m_CNS).sum(2)
    var_CN = (M2_CNS / p.L + w_S * (m_CNS - mean_CN[:, :, None]) ** 2).sum(2)
    return mean_CN.T, var_CN.T


def row_affine(x: Tensor, pivot_C: Tensor, a_NC: Tensor, b_NC: Tensor, *, relu: bool = False) -> Tensor:
    """a (x - K) + b, row by row, then a ReLU if asked for; in x's dtype and layout."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        p = _Pass(x)
        y = torch.empty_like(p.x)
        coefficients = (c.contiguous() for c in (pivot_C, a_NC, b_NC))
        p.over(p.kernels.rows.row_affine, p.tiles, p.tiles.programs, p.x, y, *coefficients, *p.cut, RELU=relu)
        return y


def group_dots(dy: Tensor, x: Tensor, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    """Σ dy and Σ dy (x - K) of every segment of every row, (C, N, S) each."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        p = _Pass(x)
        s0_CNS, s1_CNS = p.by_group()
        kernel, t = p.kernels.rows.row_dots, p.tiles
        p.over(
            kernel,
            t,
            t.programs,
            p.arranged(dy),
            p.x,
            pivot_C.contiguous(),
            s0_CNS,
            s1_CNS,
            *p.cut,
            t.groups,
            maxnreg=p.limit,
        )
        return s0_CNS, s1_CNS


def row_dots(dy: Tensor, x: Tensor, pivot_C: Tensor) -> tuple[Tensor, Tensor]:
    """Σ dy and Σ dy (x - K) of every row, (N, C) each."""
    s0_CNS, s1_CNS = group_dots(dy, x, pivot_C)
    return s0_CNS.sum(2).T, s1_CNS.sum(2).T


def row_affine2(dy: Tensor, x: Tensor, pivot_C: Tensor, a_NC: Tensor, b_NC: Tensor, c_NC: Tensor) -> Tensor:
    """a dy + b (x - K) + c, row by row; in x's dtype and layout."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        p = _Pass(x)
        dx = torch.empty_like(p.x)
        coefficients = (c.contiguous() for c in (pivot_C, a_NC, b_NC, c_NC))
        operands = p.arranged(dy), p.x, dx, *coefficients, *p.cut
        p.over(p.kernels.rows.row_affine2, p.tiles, p.tiles.programs, *operands, maxnreg=p.limit)
        return dx
