"""The loader of the one native library (kernels of the layer, assignment solver of the distance).

The library is optional: without it everything works through torch, slower, and `icsbound doctor` says so. It is
loaded by `ctypes` and links neither torch nor OpenMP; torch's own thread pool is handed to it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

logger = logging.getLogger("icsbound")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The native library, or None (said once, at INFO) where none was built for this installation."""
    for path in sorted(Path(__file__).parent.glob("_kernels*.so")) + sorted(Path(__file__).parent.glob("_kernels*.pyd")):
        return ctypes.CDLL(str(path))
    logger.info("no native library was built for this installation of icsbound: running on torch alone, slower")
    return None
