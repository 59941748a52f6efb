"""Independent random streams, each named by a seed and a purpose.

A run draws from several sources (split, initial weights, batch order, augmentation, dropout). Each has its own
generator, so that a change in one (an arm that draws a number more) leaves the others as they were, and so that every
draw can be repeated from its name alone: a resumed run needs the position in an epoch, and no state of a sampler.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def number(seed: int, *purpose: str | int) -> int:
    """A 63-bit number fixed by `seed` and `purpose` (SHA-256), the same on every machine."""
    name = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose of one seed: what draws from it says that it is on the CPU, since torch may have
    another device as its default.
    """
    return torch.Generator("cpu").manual_seed(number(seed, *purpose))


def permutation(n: int, seed: int, *purpose: str | int) -> Tensor:
    """0 ... n - 1 in random order, for one purpose of one seed: (n,) int64 on the CPU."""
    return torch.randperm(n, generator=generator(seed, *purpose), device="cpu")
