"""Encoded pictures: decoded once into memory, or by worker processes each time they are asked for.

Pictures come from anywhere and are data of strangers. Only the formats below are decoded (pillow knows others, one of
which runs a program), none larger than pillow's own limit against decompression bombs, and every failure names the
picture. Shapes: decoded images (B, 3, size, size) uint8.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import math
import os
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from icsbound._check import InputError
from icsbound.training import crops, devices, seeds

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# Images of a batch that is decoded for its own sake: for evaluation or a probe.
_PORTION = 250
# Pictures that a thread takes at a time: asking for each takes as long as decoding a small one.
_TASK = 16
_CPU = torch.device("cpu")

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def require() -> None:
    """Raise InputError where pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("pictures must be decoded by pillow, which is missing; pip install 'icsbound[data]'") from None


@contextlib.contextmanager
def opened(content: Path | bytes, where: str) -> Iterator[Any]:
    """The pillow image in a file or in `content`, its header read; whatever fails inside becomes an InputError that
    names `where`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(file, formats=FORMATS) as image:
            most = Image.MAX_IMAGE_PIXELS or math.inf
            if image.width * image.height > most:
                raise ValueError(f"{image.width}×{image.height} pixels are more than {most:,}")
            yield image
    except InputError:
        raise
    except UnidentifiedImageError:  # its message would name an object's address
        raise InputError(f"{where}: the image cannot be decoded (it is no {', '.join(FORMATS)})") from None
    except Exception as error:  # a decoder raises whatever a hostile file makes it meet
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: the image cannot be decoded ({text})") from None


def centre(image: Any, size: int, keep: float = 1.0) -> Pixels:
    """The square about the middle with `keep` of the shorter side, scaled to (size, size, 3)."""
    # JPEG files are decoded at the next larger of a few sizes, which is quicker.
    image.draft("RGB", (math.ceil(size / keep), math.ceil(size / keep)))
    side = max(1, round(min(image.size) * keep))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _scaled(image, (left, top, left + side, top + side), size)


def random_crop(image: Any, size: int, scale: float, ratio: float, generator: torch.Generator) -> Pixels:
    """A random-resized crop (see `crops`) as (size, size, 3)."""
    width, height = image.size
    top, left, high, wide = crops.boxes(1, height, width, scale, ratio, generator)[0].tolist()
    image.draft("RGB", (math.ceil(size * width / wide), math.ceil(size * height / high)))
    across, down = image.width / width, image.height / height
    return _scaled(image, (left * across, top * down, (left + wide) * across, (top + high) * down), size)


def _scaled(image: Any, box: tuple[float, float, float, float], size: int) -> Pixels:
    from PIL import Image

    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box))


class Source(Protocol):
    """Encoded pictures with labels (N,) in 0...classes - 1."""

    labels: Tensor

    def picture(self, index: int) -> tuple[Path | bytes, str]:
        """A file or its content, and how a message names it."""
        ...


def once(
    source: Source, what: str, size: int, *, keep: float = 1.0, exact: bool = False, skip_bad: int = 0
) -> tuple[Tensor, Tensor]:
    """All pictures of `source` as (N, 3, size, size) uint8, and their labels.

    With `exact` a picture of another size is bad. Up to `skip_bad` bad ones are left out, with a warning; one more
    raises InputError.
    """
    require()

    count = len(source.labels)
    images = np.empty((count, size, size, 3), dtype=np.uint8)

    def decode(indices: range) -> list[tuple[int, InputError]]:
        """Fill the places of `indices`; those that cannot be, with the reason."""
        wrong = []
        for index in indices:
            content, where = source.picture(index)
            try:
                with opened(content, where) as image:
                    if exact and image.size != (size, size):
                        found = f"{image.width}×{image.height}"
                        raise InputError(f"{where}: the image must be {size}×{size} pixels, got {found}")
                    images[index] = centre(image, size, keep)
            except InputError as error:
                wrong.append((index, error))
        return wrong

    good, bad = torch.ones(count, dtype=torch.bool, device="cpu"), []
    tasks = [range(count)[begin : begin + _TASK] for begin in range(0, count, _TASK)]
    # Decoding leaves Python's lock, so that threads share the work; each picture has its own place.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for index, error in itertools.chain.from_iterable(threads.map(decode, tasks)):
            bad.append(str(error))
            good[index] = False
            if len(bad) > skip_bad:
                threads.shutdown(cancel_futures=True)
                raise error
    if bad:
        warnings.warn(f"{len(bad)} of {count} images of {what} were left out: {'; '.join(bad)}", stacklevel=2)
    stack = torch.from_numpy(images).permute(0, 3, 1, 2)
    return (stack[good] if bad else stack).contiguous(), source.labels[good]


@dataclass(frozen=True)
class RandomCrop:
    """Random-resized crops that keep `scale` of a picture's area or more, their sides' ratio at most `ratio`; each
    fixed by `seed`, `epoch` and the picture's number.
    """

    scale: float
    ratio: float
    seed: int
    epoch: int


@dataclass(frozen=True)
class Encoded:
    """A picture on its way to a worker: its number, and its content where the worker has no source to find it in."""

    number: int
    content: bytes | None = None
    where: str = ""
    label: int = -1


@dataclass(frozen=True)
class Decoder:
    """What a worker does: a batch of encoded pictures into images, labels, and what is wrong with those that cannot be
    decoded, whose places are taken by the next ones of the batch.
    """

    source: Source | None
    size: int
    keep: float
    crop: RandomCrop | None = None

    def __getitem__(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor, list[str]]:
        decoded: list[tuple[Pixels, int]] = []
        waiting, bad = 0, []
        for one in batch:
            try:
                decoded += [self._one(one)] * (waiting + 1)
                waiting = 0
            except InputError as error:
                bad.append(str(error))
                waiting += 1
        decoded += decoded[:1] * waiting
        pixels = np.stack([p for p, _ in decoded]) if decoded else np.empty((0, self.size, self.size, 3), np.uint8)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor([label for _, label in decoded], dtype=torch.int64, device="cpu"), bad

    def _one(self, one: Encoded) -> tuple[Pixels, int]:
        content: Path | bytes | None
        content, where, label = one.content, one.where, one.label
        if content is None:
            assert self.source is not None
            content, where = self.source.picture(one.number)
            label = int(self.source.labels[one.number])
        with opened(content, where) as image:
            if self.crop is None:
                return centre(image, self.size, self.keep), label
            generator = seeds.generator(self.crop.seed, "crop", self.crop.epoch, one.number)
            return random_crop(image, self.size, self.crop.scale, self.crop.ratio, generator), label


class Bad:
    """The pictures that could not be decoded so far, and how many there may be."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: set[str] = set()

    def note(self, messages: Iterable[str]) -> None:
        """Warn of pictures not met before; raise InputError for the first that is too many."""
        for message in messages:
            if message not in self.found:
                self.found.add(message)
                if len(self.found) > self.most:
                    raise InputError(message)
                warnings.warn(f"{message}; another of its batch takes its place", stacklevel=4)


def default_workers() -> int:
    """One for each core that this process may use, up to eight."""
    return min(8, devices.cores())


def decode(
    decoder: Decoder, batches: Iterable[Sequence[Encoded]], bad: Bad, workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of each of `batches`, on `device`, decoded ahead by `workers` processes (0: by this one).

    What comes out does not depend on `workers`.
    """
    loader: DataLoader[Any] = DataLoader(
        decoder,  # type: ignore[arg-type]  # it is indexed by batches, not by numbers
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals,
        # The loader draws a seed for its workers, and must not draw it from the run's.
        generator=torch.Generator("cpu"),
    )
    with torch.device("cpu"):  # where that seed is drawn, whatever torch's default
        decoded = iter(loader)
    for images, labels, messages in decoded:
        bad.note(messages)
        if messages and not len(images):
            raise InputError(f"every batch must hold an image that can be decoded: {messages[0]}")
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _leave_signals(_: int) -> None:
    # Ctrl-C and SIGTERM are for the run, which ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Stands where a data set has the tensor of its images: the pictures of `source` at `index`, decoded when they are
    asked for by `workers` processes (0: by this one), onto `device`.
    """

    source: Source
    index: Tensor
    size: int
    keep: float = 1.0
    bad: Bad
    workers: int = 0
    device: torch.device = _CPU

    @property
    def shape(self) -> torch.Size:
        """(N, 3, size, size)."""
        return torch.Size((len(self.index), 3, self.size, self.size))

    def to(self, device: torch.device | str) -> Pictures:
        """The same pictures, decoded images on `device`."""
        return dataclasses.replace(self, device=torch.device(device))

    def take(self, index: Tensor) -> Pictures:
        """The pictures at `index`, in its order."""
        return dataclasses.replace(self, index=self.index[index.cpu()])

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """The images at `index`, the square about the middle of each."""
        chosen = self.index[index if isinstance(index, slice) else index.cpu()]
        parts = [torch.empty(0, 3, self.size, self.size, dtype=torch.uint8, device=self.device)]
        parts += [images for images, _ in self._decoded(torch.split(chosen, _PORTION))]
        return torch.cat(parts)

    def decoded(self, batches: Iterable[Tensor], crop: RandomCrop | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of batches of indices, by random crops or else the squares about the middle."""
        return self._decoded((self.index[batch] for batch in batches), crop)

    def _decoded(self, batches: Iterable[Tensor], crop: RandomCrop | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        keys = ([Encoded(number) for number in batch.tolist()] for batch in batches)
        return decode(Decoder(self.source, self.size, self.keep, crop), keys, self.bad, self.workers, self.device)
