"""The corrupted test sets that their authors publish, as CIFAR-10-C and ImageNet-C.

Source: Hendrycks & Dietterich (ICLR 2019, arXiv 1903.12261). As arrays: ``NAME.npy`` holds one corruption, (5n, H, W,
C) uint8, the n test images at severity 1, then at 2, and so on; ``labels.npy`` the labels, (5n,), in the order of the
images. As pictures: ``NAME/SEVERITY/CLASS/*``, classes numbered in the order of their names; they come cut to size,
and are only scaled where the network takes another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icsbound._check import InputError, fail
from icsbound.training import pictures
from icsbound.training.data import Dataset
from icsbound.training.folders import Files

_LABELS = "labels"
SEVERITIES = 5


def names(folder: str | Path) -> list[str]:
    """The corruptions in `folder`, sorted. Raises InputError where it holds none, or arrays without labels."""
    arrays = {path.stem for path in Path(folder).glob("*.npy") if path.is_file()}
    if _LABELS in arrays:
        found = arrays - {_LABELS}
    else:  # arrays without labels are of no use
        found = set() if arrays else {path.parent.name for path in Path(folder).glob("*/1") if path.is_dir()}
    if not found:
        right = (
            "be a folder with NAME.npy and labels.npy, as CIFAR-10-C has them, or NAME/SEVERITY/CLASS, as ImageNet-C"
        )
        fail("shift_dir", right, str(folder))
    return sorted(found)


def part(folder: str | Path, name: str, severity: int, test: Dataset) -> Dataset:
    """Corruption `name` at `severity` 1...5 of the test part `test`, with the labels that the folder gives.

    Raises InputError, naming the file or folder, unless it holds as many images as `test` at each severity, arrays of
    the same shape, and as many of each class.
    """
    folder = Path(folder)
    where, images, labels = (_pictures if (folder / name).is_dir() else _rows)(folder, name, severity, test)
    ours = test.labels.bincount(minlength=test.classes)
    if int(labels.max()) >= test.classes or not torch.equal(labels.bincount(minlength=test.classes), ours.cpu()):
        raise InputError(f"{where} must have as many labels of each class as the test part of {test.name}")
    return Dataset(test.name, images, labels.to(test.labels.device), test.classes)


def _rows(folder: Path, name: str, severity: int, test: Dataset) -> tuple[Path, Tensor | pictures.Pictures, Tensor]:
    """From arrays: the file of the labels, the images, and the labels."""
    n, (channels, height, width) = len(test), tuple(test.images.shape[1:])
    images = _array(folder / f"{name}.npy", (SEVERITIES * n, height, width, channels))
    labels = _array(folder / f"{_LABELS}.npy", (SEVERITIES * n,))
    rows = slice((severity - 1) * n, severity * n)
    pixels = torch.from_numpy(images[rows].transpose(0, 3, 1, 2).copy()).to(test.images.device)
    return folder / f"{_LABELS}.npy", pixels, torch.from_numpy(labels[rows].astype(np.int64))


def _pictures(folder: Path, name: str, severity: int, test: Dataset) -> tuple[Path, Tensor | pictures.Pictures, Tensor]:
    """From files: their folder, the images, decoded when they are asked for, and the labels."""
    pictures.require()
    if test.images.shape[1] != 3:
        fail("shift_dir", f"hold arrays: pictures have 3 channels, and {test.name} {test.images.shape[1]}", str(folder))
    if not (folder / name / str(severity)).is_dir():
        fail("shift_dir", f"hold {name} at severity {severity}", str(folder))
    files = Files(folder / name, (str(severity),))
    images = pictures.Pictures(
        source=files,
        index=torch.arange(len(files.labels), device="cpu"),
        size=test.images.shape[-1],
        keep=1.0,
        bad=pictures.Bad(0),
        workers=pictures.default_workers(),
    )
    return files.split, images, files.labels


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
