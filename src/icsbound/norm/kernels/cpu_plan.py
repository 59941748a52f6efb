"""`struct Problem` of src/native/norm.h as Python fills it, and what of it follows from shape and settings alone."""

from __future__ import annotations

import functools
import math
import struct
from typing import NamedTuple

import torch

from icsbound.norm.settings import INTERPOLATIONS, SCOPES, Settings

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ROWS, PIXELS = 0, 1
STATISTICS, REST = 1, 2

# Field by field, as bytes: packing them takes a third of the time that a `ctypes.Structure` does. What follows from
# shape and settings (`Plan`) comes first.
#   samples channels positions | dtype layout interpolation scope relu shrink_only training phases |
#   eps norm_eps per_kappa variance_factor count alpha_low alpha_high
PLANNED = struct.Struct("=3q 8i 7d")
#   momentum bessel | x dy out weight bias alpha mean var running_mean running_var saved work grad_weight grad_bias
#   grad_alpha parallel_for | threads
GIVEN = struct.Struct("=2d 16Q q")


class Plan(NamedTuple):
    """What follows from shape, settings and layout alone: the first fields of `Problem` for these phases, and sizes."""

    fields: bytes
    saved: int
    work: int
    per_kappa: float


@functools.lru_cache(maxsize=1024)
def plan(
    settings: Settings,
    N: int,
    C: int,
    L: int,
    dtype: torch.dtype,
    where: int,
    training: bool,
    phases: int = STATISTICS | REST,
    count: float | None = None,
    projected: bool = True,
) -> Plan:
    """`count` is that of the whole batch; α's gradient is `projected` into its range unless another part decides."""
    s = settings
    count = N * L if count is None else count
    per_kappa = 1 / s.kappa(C, 1) ** 2 if s.scope == "position" else L / s.kappa(C, L) ** 2
    low, high = (-math.inf, math.inf) if s.alpha_range is None or not projected else s.alpha_range
    factor = s.variance_factor(count) if training else 1.0
    codes = (INTERPOLATIONS.index(s.interpolation), SCOPES.index(s.scope), s.activation == "relu", s.shrink_only)
    fields = PLANNED.pack(
        N, C, L, DTYPES[dtype], where, *codes, training, phases, s.eps, s.norm_eps, per_kappa, factor, count, low, high
    )
    return Plan(fields, *sizes(N, C, L, settings), per_kappa)


def by_pixel(settings: Settings, positions: int) -> bool:
    """Whether every pixel has a map of its own; a sample without positions is one pixel."""
    return settings.scope == "position" or (settings.scope == "sample" and positions == 1)


def sizes(N: int, C: int, L: int, settings: Settings) -> tuple[int, int]:
    """How many numbers forward saves, and backward works with; see Saved and Work in src/native."""
    if by_pixel(settings, L):
        return 6 * C + N * L, 9 * C + N * L
    return 6 * C + N + 3 * N * C, 9 * C + N + 2 * N * C
