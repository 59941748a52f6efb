"""Whether Triton can be had, and how its kernels are launched on a tensor.

Triton (690 MB) comes with torch's builds for CUDA, and is imported when the first CUDA tensor arrives.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icsbound.norm.kernels.aten import inner_dtype
from icsbound.norm.kernels.cpu import arranged
from icsbound.norm.kernels.cpu_plan import PIXELS
from icsbound.norm.kernels.triton_plan import Tiles

logger = logging.getLogger("icsbound")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # compute capability: the first with bfloat16
_PLAIN = (Tensor, torch.nn.Parameter)


class Kernels(NamedTuple):
    """The modules with kernels, and Triton's names of the types of sums."""

    rows: Any
    pixels: Any
    coefficients: Any
    types: dict[torch.dtype, Any]


@functools.cache
def kernels() -> Kernels | str:
    """The kernels, or why there are none (said once)."""
    try:
        import triton.language as tl

        from icsbound.norm.kernels import triton_coefficients, triton_pixels, triton_rows
    except ImportError as error:
        logger.info("Triton cannot be imported (%s): the layer runs on CUDA by torch alone, slower", error)
        return f"Triton cannot be imported ({error}); pip install 'icsbound[triton]'"
    types = {torch.float32: tl.float32, torch.float64: tl.float64}
    return Kernels(triton_rows, triton_pixels, triton_coefficients, types)


@functools.cache
def unsuitable(index: int) -> str | None:
    """Why the kernels cannot run on this device; None if they can."""
    if torch.version.hip is not None:
        return "the Triton kernels were made for CUDA, and this torch is for ROCm"
    found = torch.cuda.get_device_capability(index)
    if found >= OLDEST:
        return None
    wanted = ".".join(map(str, OLDEST))
    return f"the Triton kernels need compute capability {wanted}, and cuda:{index} has {'.'.join(map(str, found))}"


def refusal(x: Tensor) -> str | None:
    """Why `x` cannot be handled by Triton; None if it can."""
    if not x.is_cuda:
        return f"the Triton kernels are for CUDA and x is on {x.device}"
    if x.dtype not in DTYPES:
        return f"the Triton kernels have no {str(x.dtype).removeprefix('torch.')}"
    if type(x) not in _PLAIN:
        return f"x is a {type(x).__name__}, whose operations only torch's own dispatch knows"
    found = kernels()
    return found if isinstance(found, str) else unsuitable(x.get_device())


def usable(x: Tensor) -> bool:
    """Whether the kernels take this input."""
    return x.is_cuda and x.layout is torch.strided and x.numel() > 0 and refusal(x) is None


def padded(size: int) -> int:
    """`size` as it takes up room: whole vectors of 16 bytes, so that what is behind it is aligned whatever the shape.

    The kernels are compiled once for aligned pointers, and again for every pattern of others.
    """
    return -(-size // 4) * 4


def cut(whole: Tensor, *sizes: int) -> list[Tensor]:
    """`whole` in parts of that many numbers each, of `padded` sizes."""
    parts = torch.split(whole, [padded(n) for n in sizes])
    return [part[:n] for part, n in zip(parts, sizes, strict=True)]


class Launcher:
    """A tensor as the kernels take it, and what every pass over it is told."""

    def __init__(self, x: Tensor) -> None:
        found = kernels()
        if isinstance(found, str):
            raise ImportError(found)  # noqa: TRY004  # a string here is the reason why there are none
        self.kernels = found
        self.x, self.layout = arranged(x)
        self.pixels = self.layout == PIXELS
        self.N, self.C = x.shape[:2]
        self.L = x.numel() // (self.N * self.C)
        self.inner = inner_dtype(x)
        self.A = found.types[self.inner]
        self.align = math.gcd(self.C if self.pixels else self.L, 16)
        self.limit = (
            None if self.inner is torch.float64 else 80
        )  # registers with which three programs share a processor

    def arranged(self, dy: Tensor) -> Tensor:
        """`dy` in the layout of x."""
        there, layout = arranged(dy)
        return there if layout == self.layout else torch.empty_like(self.x).copy_(dy)

    def numbers(self, *sizes: int) -> list[Tensor]:
        """Room for that many numbers each, in one allocation."""
        return cut(torch.empty(sum(map(padded, sizes)), dtype=self.inner, device=self.x.device), *sizes)

    def over(self, kernel: Any, tiles: Tiles, programs: int, *arguments: Any, **constants: Any) -> None:
        """Launch a pass over the data. `maxnreg` limits its registers, so that more programs share a multiprocessor."""
        kernel[(programs,)](
            *arguments, A=self.A, PIXELS=self.pixels, ALIGN=self.align, BC=tiles.BC, BL=tiles.BL, ONE=tiles.one,
            num_warps=tiles.warps, **constants,
        )  # fmt: skip
