"""Tiny data in the layouts that the documentation's commands read: pictures, parquet files, CIFAR-10-C, and weights."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from icsbound.training import arms, hub, models

CLASSES, SIZE = 10, 32
ROWS = {"train": 160, "test": 40}


def bring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make DIR, which is an image folder and holds CIFAR's parquet files as well, CIFAR-10-C and resnet18.pth.

    The pictures are noise. That CIFAR-10 and ImageNet have so few is made known, and so is that there is no network.
    """
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    datasets.disable_progress_bars()
    for name in ("cifar10", "imagenet"):
        few = dataclasses.replace(hub.KNOWN[name], rows=tuple(ROWS.values()), classes=CLASSES)
        monkeypatch.setitem(hub.KNOWN, name, few)

    names = [f"class{label}" for label in range(CLASSES)]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    generator = np.random.default_rng(0)
    for split, rows in ROWS.items():
        contents = [png(generator) for _ in range(rows)]
        labels = [row % CLASSES for row in range(rows)]
        for row, (content, label) in enumerate(zip(contents, labels, strict=True)):
            place = folder / "DIR" / {"train": "train", "test": "val"}[split] / names[label]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row}.png").write_bytes(content)
        table = {"img": [{"bytes": content, "path": None} for content in contents], "label": labels}
        file = folder / "DIR" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(table, features=features).to_parquet(file)

    corrupted = folder / "CIFAR-10-C"
    corrupted.mkdir()
    np.save(corrupted / "labels.npy", np.tile(np.arange(ROWS["test"], dtype=np.uint8) % CLASSES, 5))
    for name in ("fog", "snow"):
        np.save(corrupted / f"{name}.npy", generator.integers(0, 256, (5 * ROWS["test"], SIZE, SIZE, 3), np.uint8))

    model = models.network("resnet8:width=1", arms.parse("bn"), classes=CLASSES, channels=3, size=SIZE, seed=0)
    torch.save(model.state_dict(), folder / "resnet18.pth")  # of the network that stands for it in the tests


def png(generator: np.random.Generator) -> bytes:
    """A picture of noise."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()
