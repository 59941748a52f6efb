"""The loader of the one native library (kernels of the layer, assignment solver of the distance).

The library is optional: without it everything works through torch, slower, and `icsbound doctor` says so. It is
loaded by `ctypes` and links neither torch nor OpenMP; torch's own thread pool is handed to it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import warnings
from pathlib import Path

import torch

from icsbound import _check

logger = logging.getLogger("icsbound")

ABI = 6  # of the C interface that this package calls, as src/native/abi.cpp has it
SIMD_LEVELS = ("baseline", "avx2", "avx512")


def files() -> list[Path]:
    """The libraries that were built for this installation, not loaded yet."""
    folder = Path(__file__).parent
    return [*sorted(folder.glob("_kernels*.so")), *sorted(folder.glob("_kernels*.pyd"))]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The native library, or None where none was built for this installation, or none fits (said once)."""
    native, misfit = opened()
    if native is not None:
        wanted = os.environ.get("ICSBOUND_SIMD")
        if wanted is not None:
            native.icsbound_simd_level(SIMD_LEVELS.index(_check.one_of("ICSBOUND_SIMD", wanted, SIMD_LEVELS)))
    elif misfit is not None:
        warnings.warn(
            f"{misfit} and is left out: running on torch alone, slower; install icsbound again to build it",
            stacklevel=2,
        )
    else:
        logger.warning("no native library was built for this installation of icsbound: running on torch alone, slower")
    return native


def opened() -> tuple[ctypes.CDLL | None, str | None]:
    """The first of `files` that this package can call, or else what is wrong with the last; neither where none is."""
    misfit = None
    for path in files():
        try:
            native = ctypes.CDLL(str(path))
        except OSError as error:  # damaged, or of another system
            misfit = f"{path.name} cannot be loaded ({error})"
            continue
        found = native.icsbound_abi() if hasattr(native, "icsbound_abi") else None
        if found == ABI:
            return native, None
        misfit = f"{path.name} was built from other sources (interface {found}, not {ABI})"
    return None, misfit


@functools.cache
def parallel_for() -> int:
    """The address of torch's `torch_parallel_for`, so that kernels share its threads; 0 where this torch has none."""
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).torch_parallel_for, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


def simd(level: str | None = None) -> str:
    """The instruction set that the kernels use, after setting it to `level` (or the best that this processor has).

    The environment variable ICSBOUND_SIMD names the level to start with.
    """
    native = library()
    if native is None:
        return "none"
    return SIMD_LEVELS[native.icsbound_simd_level(-1 if level is None else SIMD_LEVELS.index(level))]
