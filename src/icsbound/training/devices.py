"""Devices, processes and autocast, by Hugging Face Accelerate (imported when a run begins)."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from icsbound import _version
from icsbound._check import InputError

logger = logging.getLogger("icsbound")


def accelerator(device: str, precision: str) -> Any:
    """An `accelerate.Accelerator` on `device` ("cpu", "cuda", "mps"), in the process group that torchrun set up, if
    any.
    """
    if device == "cpu" and precision == "bf16":
        _bf16_is_slow()
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ModuleNotFoundError:
        raise InputError(
            "training must have accelerate, which is not installed; pip install 'icsbound[train]'"
        ) from None
    try:
        return Accelerator(cpu=device == "cpu", mixed_precision=precision)
    except ValueError:
        # Accelerate keeps one state for a whole process; an earlier run in it had another device or precision.
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        return Accelerator(cpu=device == "cpu", mixed_precision=precision)


@functools.cache
def _bf16_is_slow() -> None:
    """Say so, once, where it is: a training step was measured to take twice as long as in float32 on a processor with
    AVX-512, and nine times on one without.
    """
    # An older torch cannot tell, and nothing is said.
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if has.get("architecture") == "x86_64" and not (has.get("avx512_bf16") or has.get("amx_bf16")):
        logger.warning(
            "precision bf16 on a processor without instructions for it (AVX512_BF16, AMX): torch emulates it and takes "
            "twice to nine times as long as with precision no"
        )


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch with `count` threads (None: as it is), and as before afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(device: torch.device | None = None) -> int:
    """The most memory in use so far, bytes: allocated on `device` where that is a CUDA device, else resident in this
    process; 0 on a system that does not tell.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on."""
    return {
        "icsbound": _version.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
