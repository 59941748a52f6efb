"""Where captured clouds lie: their dtype, the memory they may take, and files for what is beyond it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from icsbound._check import InputError, fail

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Store:
    """Clouds of n rows, filled batch by batch; the first tells all widths, which are checked before the rest runs.

    memory: the most bytes all clouds may take (None: no limit).
    spill: a folder for unnamed files in which, the largest first, clouds beyond `memory` are kept as memory maps (all
        of them where `memory` is None). Nothing is left on the disk when the tensors are gone.
    """

    def __init__(
        self, n: int, dtype: torch.dtype | None, memory: int | None, spill: str | os.PathLike[str] | None
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            fail("dtype", "be None or one of " + ", ".join(str(d).removeprefix("torch.") for d in DTYPES), dtype)
        if spill is not None and not os.path.isdir(spill):
            fail("spill", "be an existing folder", spill)
        self._n, self._dtype, self._memory, self._spill = n, dtype, memory, spill
        self.clouds: dict[Any, torch.Tensor] = {}

    def write(self, rows: slice, parts: dict[Any, torch.Tensor], named: Callable[[Any], str]) -> None:
        """Keep one batch: `parts` holds its rows of every cloud. `named` says in words what a key stands for."""
        if not self.clouds:
            self._allocate(parts)
        for key in parts.keys() ^ self.clouds.keys():
            raise InputError(f"{named(key)} must be there in every batch of the probe; it was in some only")
        for key, part in parts.items():
            held = self.clouds[key]
            if part.shape[1:] != held.shape[1:]:
                raise InputError(
                    f"{named(key)} must have the same size in every batch, got {part.shape[1]} numbers an input after "
                    f"{held.shape[1]}"
                )
            held[rows] = part

    def _allocate(self, parts: dict[Any, torch.Tensor]) -> None:
        sizes = {key: self._n * part.shape[1] * self._dtype_of(part).itemsize for key, part in parts.items()}
        inside, limit = sum(sizes.values()), self._memory
        spilled = set()
        for key in sorted(sizes, key=sizes.__getitem__, reverse=True) if self._spill is not None else []:
            if limit is None or inside > limit:
                spilled.add(key)
                inside -= sizes[key]
        if limit is not None and inside > limit:
            widest = max(sizes.values())
            raise InputError(
                f"memory must be at least {inside} bytes for these layers and {self._n} inputs (the largest cloud "
                f"takes {widest}), got {limit}; measure fewer layers or inputs, take view 'pooled' or dtype float16, "
                "or name a folder by spill"
            )
        for key, part in parts.items():
            dtype = self._dtype_of(part)
            shape = (self._n, part.shape[1])
            self.clouds[key] = (
                self._mapped(shape, dtype) if key in spilled else torch.empty(shape, dtype=dtype, device=part.device)
            )

    def _dtype_of(self, part: torch.Tensor) -> torch.dtype:
        return self._dtype or part.dtype

    def _mapped(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        with tempfile.TemporaryFile(dir=self._spill, prefix="icsbound-") as file:  # the map outlives the open file
            mapped = np.memmap(file, dtype=np.uint8, mode="w+", shape=(shape[0] * shape[1] * dtype.itemsize,))
        return torch.from_numpy(mapped).view(dtype).view(shape)
