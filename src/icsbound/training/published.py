"""The corrupted test sets that their authors publish, as CIFAR-10-C: pictures as arrays in a folder.

Source: Hendrycks & Dietterich (ICLR 2019, arXiv 1903.12261). ``NAME.npy`` holds one corruption, (5n, H, W, C) uint8,
the n test images at severity 1, then at 2, and so on; ``labels.npy`` the labels, (5n,), in the order of the images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from icsbound._check import InputError, fail
from icsbound.training.data import Dataset

_LABELS = "labels"
SEVERITIES = 5


def names(folder: str | Path) -> list[str]:
    """The corruptions in `folder`, sorted. Raises InputError where it holds none, or no labels."""
    found = sorted(path.stem for path in Path(folder).glob("*.npy") if path.is_file())
    if _LABELS not in found or len(found) < 2:
        fail("shift_dir", "be a folder with NAME.npy and labels.npy, as CIFAR-10-C has them", str(folder))
    return [name for name in found if name != _LABELS]


def part(folder: str | Path, name: str, severity: int, test: Dataset) -> Dataset:
    """Corruption `name` at `severity` 1...5 of the test part `test`, with the labels that the folder gives.

    Raises InputError, naming the file, unless it holds as many images as `test` at each severity, of the same shape,
    and as many of each class.
    """
    n, (channels, height, width) = len(test), tuple(test.images.shape[1:])
    images = _array(Path(folder) / f"{name}.npy", (SEVERITIES * n, height, width, channels))
    labels = _array(Path(folder) / f"{_LABELS}.npy", (SEVERITIES * n,))
    rows = slice((severity - 1) * n, severity * n)
    theirs = torch.from_numpy(labels[rows].astype(np.int64))
    ours = test.labels.bincount(minlength=test.classes)
    if int(theirs.max()) >= test.classes or not torch.equal(theirs.bincount(minlength=test.classes), ours.cpu()):
        raise InputError(
            f"{Path(folder) / f'{_LABELS}.npy'} must have as many labels of each class as the test part of {test.name}"
        )
    pixels = torch.from_numpy(images[rows].transpose(0, 3, 1, 2).copy())
    device = test.images.device
    return Dataset(test.name, pixels.to(device), theirs.to(device), test.classes)


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    """The uint8 array of this shape in the file at `path`, mapped into memory. No object in it is ever unpickled."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")  # of its own format alone, and never of objects
    except Exception as error:  # a reader raises whatever a damaged file makes it meet
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} must be an array of numpy: {text}") from None
    if found.dtype != np.uint8 or found.shape != shape:
        fail(str(path), f"be uint8 of shape {shape}, five times the test part", (found.shape, str(found.dtype)))
    return found
