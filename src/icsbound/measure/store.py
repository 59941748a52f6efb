"""Where captured clouds lie: their dtype, the memory they may take, and files for what is beyond it."""

from __future__ import annotations

import os
import tempfile
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
        self._first: dict[Any, torch.Tensor] | None = {}  # the rows of the first batch, until it ends
        self.clouds: dict[Any, torch.Tensor] = {}

    def write(self, key: Any, rows: slice, part: torch.Tensor, named: str) -> None:
        """Copy the `rows` of the cloud `key`, called `named` in words; `part` may change afterwards."""
        if self._first is not None:
            kept = self._dtype or part.dtype
            self._first[key] = part.to(kept, copy=True, memory_format=torch.contiguous_format)
            return
        held = self.clouds.get(key)
        if held is None:
            raise InputError(f"{named} must be there in every batch of the probe, but the first had none")
        if part.shape[1:] != held.shape[1:]:
            raise InputError(
                f"{named} must have the same size in every batch, got {part.shape[1]} numbers an input after "
                f"{held.shape[1]}"
            )
        held[rows] = part

    def end_first_batch(self, rows: slice) -> None:
        """Give every cloud its place, now that all widths are known; raises InputError where they exceed `memory`."""
        first, self._first = self._first or {}, None
        sizes = {key: self._n * part[0].nbytes for key, part in first.items()}
        spilled = self._spilled(sizes)
        for key in list(first):
            part = first.pop(key)  # so that it is freed as soon as it is copied
            shape = (self._n, part.shape[1])
            if key in spilled:
                self.clouds[key] = self._mapped(shape, part.dtype)
            else:
                self.clouds[key] = part if len(part) == self._n else part.new_empty(shape)
            self.clouds[key][rows] = part

    def _spilled(self, sizes: dict[Any, int]) -> set[Any]:
        """The clouds that go to files, so that the `sizes` of the others sum to no more than the limit."""
        inside, limit, spilled = sum(sizes.values()), self._memory, set()
        if self._spill is not None:
            for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
                if limit is None or inside > limit:
                    spilled.add(key)
                    inside -= sizes[key]
        if limit is not None and inside > limit:
            raise InputError(
                f"memory must be at least {inside} bytes for these layers and {self._n} inputs (the largest cloud "
                f"takes {max(sizes.values())}), got {limit}; measure fewer layers or inputs, take view 'pooled' or "
                "dtype float16, or name a folder by spill"
            )
        return spilled

    def _mapped(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        with tempfile.TemporaryFile(dir=self._spill, prefix="icsbound-") as file:  # the map outlives the open file
            mapped = np.memmap(file, dtype=np.uint8, mode="w+", shape=(shape[0] * shape[1] * dtype.itemsize,))
        return torch.from_numpy(mapped).view(dtype).view(shape)
