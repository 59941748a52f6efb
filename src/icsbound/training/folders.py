"""Image folders, DIR/train/CLASS/* and DIR/val/CLASS/* (or test), ImageNet's own layout among them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icsbound._check import InputError, fail

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TRAIN, TEST = ("train",), ("val", "test", "validation")


class Files:
    """The picture files of one split: classes are numbered in the order of their names, files sorted in each."""

    def __init__(self, root: str | Path, names: tuple[str, ...]) -> None:
        split = next((Path(root) / name for name in names if (Path(root) / name).is_dir()), None)
        if split is None:
            fail("data_dir", f"hold a folder {' or '.join(names)} of classes", str(root))
        self.split = split
        with os.scandir(split) as entries:
            self.classes = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
        labels, names_of = [], []
        for label, name in enumerate(self.classes):
            # Files alone: a pipe of such a name would be waited for.
            with os.scandir(split / name) as entries:
                files = sorted(entry.name for entry in entries if _is_file(entry))
            for file in files:
                if os.path.splitext(file)[1].lower() in SUFFIXES:
                    labels.append(label)
                    names_of.append(os.fsencode(file))
        if len(self.classes) < 2 or not labels:
            right = "hold images in folders of at least two classes"
            fail(str(split), right, f"{len(self.classes)} classes, {len(labels)} images")
        self.labels: Tensor = torch.tensor(labels, device="cpu")
        # One array of bytes: a million strings would be copied into every worker.
        self._names = np.array(names_of, dtype=bytes)

    def picture(self, index: int) -> tuple[Path, str]:
        """The file of a picture, and its path."""
        path = self.split / self.classes[int(self.labels[index])] / os.fsdecode(bytes(self._names[index]))
        # A name may hold what no terminal should be told, line breaks among it.
        return path, "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def both(root: str | Path) -> tuple[Files, Files]:
    """The files for training and those for test. Raises InputError where their classes differ."""
    if not Path(root).is_dir():
        fail("data_dir", "be the folder of train/CLASS and val/CLASS", str(root), ", which is no folder")
    train, test = Files(root, TRAIN), Files(root, TEST)
    if train.classes != test.classes:
        differing = sorted({*train.classes} ^ {*test.classes})
        raise InputError(f"data_dir must hold the same classes for training and test, got {differing} in one alone")
    return train, test
