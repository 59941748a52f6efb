"""Image folders, DIR/train/CLASS/* and DIR/val/CLASS/* (or test), decoded once to one size and kept in memory as
uint8.
"""

from __future__ import annotations

import functools
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icsbound._check import InputError, fail

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


# train and val of two folders or sizes stay in memory.
@functools.lru_cache(maxsize=4)
def read(folder: str, train: bool, size: int, skip_bad: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images (N, 3, size, size) uint8, labels (N,) and class names of one split of the image folder `folder`.

    Classes are numbered in the order of their names. Each image is scaled so that its shorter side is `size`, and its
    middle is kept. Raises InputError naming the file where more than `skip_bad` images cannot be decoded; up to so
    many are left out, with a warning.
    """
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("data 'folder' must be read with pillow; pip install 'icsbound[data]'") from None
    root = Path(folder)
    candidates = [root / name for name in (("train",) if train else ("val", "test", "validation"))]
    split = next((path for path in candidates if path.is_dir()), None)
    if split is None:
        fail("data_dir", f"hold a folder {' or '.join(path.name for path in candidates)} of classes", folder)
    classes = tuple(sorted(path.name for path in split.iterdir() if path.is_dir()))
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((split / name).iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if len(classes) < 2 or not files:
        fail(
            str(split), "hold images in folders of at least two classes", f"{len(classes)} classes, {len(files)} images"
        )
    # Decoding leaves Python's lock, so that threads share the work; results keep the order of the files.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        decoded = list(threads.map(lambda entry: _decoded(entry[0], size), files))
    bad = [str(found) for found in decoded if isinstance(found, InputError)]
    if len(bad) > skip_bad:
        raise InputError(bad[skip_bad])
    if bad:
        warnings.warn(f"{len(bad)} of {len(files)} images in {split} were left out: {'; '.join(bad)}", stacklevel=3)
    kept = [
        (image, label) for image, (_, label) in zip(decoded, files, strict=True) if not isinstance(image, InputError)
    ]
    images = torch.from_numpy(np.stack([image for image, _ in kept])).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([label for _, label in kept]), classes


def _decoded(path: Path, size: int) -> np.ndarray[Any, Any] | InputError:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft(
                "RGB", (size, size)
            )  # JPEG files are decoded at the next larger of a few sizes, which is quicker
            width, height = image.size
            scale = size / min(width, height)
            scaled = image.convert("RGB").resize(
                (max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.BILINEAR
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return InputError(f"{path}: the image cannot be decoded ({error})")
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    return np.asarray(scaled.crop((left, top, left + size, top + size)))
