"""Where captured clouds lie: their dtype, the memory they may take, and files for what is beyond it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from icsbound._check import FLOATS, InputError, fail

Key: TypeAlias = tuple[str, int, str]  # layer, which of its calls in one pass, view

NAMES = tuple(str(dtype).removeprefix("torch.") for dtype in FLOATS)


class Store:
    """Clouds of n rows, filled batch by batch; the first tells all widths, and is kept apart until it ends.

    memory: the most bytes all clouds may take (None: no limit); InputError at the first cloud that goes beyond it.
    spill: a folder for unnamed files in which, the largest first, clouds beyond `memory` are kept as memory maps (all
        of them where `memory` is None). Nothing is left on the disk when the tensors are gone.
    """

    def __init__(
        self, n: int, dtype: torch.dtype | None, memory: int | None, spill: str | os.PathLike[str] | None
    ) -> None:
        if dtype is not None and dtype not in FLOATS:
            fail("dtype", "be None or one of " + ", ".join(NAMES), dtype)
        if spill is not None and not os.path.isdir(spill):
            fail("spill", "be an existing folder", str(spill))
        self._n, self._dtype, self._memory, self._spill = n, dtype, memory, spill
        self._first: dict[Key, torch.Tensor] | None = {}  # the rows of the first batch, until it ends
        self._sizes: dict[Key, int] = {}  # of the whole clouds, in bytes
        self.clouds: dict[Key, torch.Tensor] = {}

    def write(self, key: Key, rows: slice, part: torch.Tensor, named: str) -> None:
        """Copy the `rows` of the cloud `key`, called `named` in words; `part` may change afterwards."""
        if self._first is not None:
            kept = self._dtype or part.dtype
            self._sizes[key] = self._n * part[0].numel() * kept.itemsize
            if self._spill is None:
                refuse_too_much(self._sizes, self._n, self._memory)  # before it is copied
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
        """Give every cloud its place, now that all widths are known."""
        first, self._first = self._first or {}, None
        spilled = self._spilled()
        for key in list(first):
            part = first.pop(key)  # so that it is freed as soon as it is copied
            shape = (self._n, part.shape[1])
            if key in spilled:
                self.clouds[key] = self._mapped(shape, part.dtype)
            else:
                self.clouds[key] = part if len(part) == self._n else part.new_empty(shape)
            self.clouds[key][rows] = part

    def _spilled(self) -> set[Key]:
        """The clouds that go to files, so that the sizes of the others sum to no more than the limit."""
        spilled: set[Key] = set()
        if self._spill is not None:
            inside = sum(self._sizes.values())
            for key in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
                if self._memory is None or inside > self._memory:
                    spilled.add(key)
                    inside -= self._sizes[key]
        return spilled

    def _mapped(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        size = shape[0] * shape[1] * dtype.itemsize
        try:
            with tempfile.TemporaryFile(dir=self._spill, prefix="icsbound-") as file:  # the map outlives the open file
                if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process
                    os.posix_fallocate(file.fileno(), 0, size)
                mapped = np.memmap(file, dtype=np.uint8, mode="w+", shape=(size,))
        except OSError as error:
            fail("spill", f"be a folder with room for a file of {size} bytes", str(self._spill), f": {error.strerror}")
        return torch.from_numpy(mapped).view(dtype).view(shape)


def refuse_too_much(sizes: Mapping[Any, int], n: int, memory: int | None) -> None:
    """Raise InputError where clouds of n rows exceed `memory`: their `sizes` in bytes, by (layer, ..., view)."""
    total = sum(sizes.values())
    if memory is None or total <= memory:
        return
    largest = max(sizes, key=sizes.__getitem__)
    raise InputError(
        f"memory must be at least {total} bytes for {len(sizes)} {'cloud' if len(sizes) == 1 else 'clouds'} of {n} "
        f"inputs (the largest, of layer {largest[0]!r} in view {largest[-1]!r}, takes {sizes[largest]}), got {memory}; "
        "measure fewer layers or inputs, take view 'pooled' or dtype float16, or name a folder by spill"
    )
