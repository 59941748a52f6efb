"""Batches that are fixed by seed and epoch, and what is done to their images at random.

Shapes: images (B, C, H, W) uint8, labels (B,) int64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icsbound._check import fail, positive_int
from icsbound.training import crops, seeds
from icsbound.training.data import Dataset
from icsbound.training.pictures import Pictures, RandomCrop
from icsbound.training.stream import Stream


@dataclass(frozen=True)
class Augment:
    """Random shifts of up to `shift` pixels each way (zeros move in) and, if `flip`, left-right reflections of every
    other image; with `scale` > 0 random-resized crops before (see `crops`).
    """

    shift: int = 0
    flip: bool = False
    scale: float = 0.0
    ratio: float = 4 / 3

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For n images: the offset (n, 2) of each crop in its padded image, 0...2·shift, and whether it is mirrored
        (n,).
        """
        offsets = torch.randint(0, 2 * self.shift + 1, (n, 2), generator=generator, device="cpu")
        mirrored = torch.rand(n, generator=generator, device="cpu") < (0.5 if self.flip else 0.0)
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
        return picked.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Batches:
    """The batches of each epoch: a permutation and augmentation fixed by `seed` and the epoch's number.

    The last batch of an epoch is shorter where `batch_size` does not divide the images; where it would hold a single
    one, that image waits for the next epoch's permutation, since one image has no batch statistics. In a group of
    `world` processes each takes every `world`-th image of the same batch, so that the batches do not depend on how
    many processes there are (but for a stream, which they share out: see `stream`).
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
        n, device = len(self.dataset), self.dataset.images.device
        offsets, mirrored = self.augment.draw(n, seeds.generator(self.seed, "augment", epoch))
        offsets, mirrored = offsets.to(device), mirrored.to(device)
        wholes = [slice(b * self.batch_size, min(n, (b + 1) * self.batch_size)) for b in range(start, len(self))]
        # A stream may have an image left over, which waits as above.
        for whole, (images, labels) in zip(wholes, self._cropped(epoch, start, wholes), strict=False):
            share = self._share(whole)
            yield self.augment.apply(images, offsets[share], mirrored[share]), labels, whole.stop - whole.start

    def _share(self, whole: slice) -> slice:
        return slice(whole.start + self.rank, whole.stop, self.world)

    def _cropped(self, epoch: int, start: int, wholes: list[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of this process's share of each batch, cropped but not yet shifted and mirrored."""
        data, scale, ratio = self.dataset, self.augment.scale, self.augment.ratio
        crop = RandomCrop(scale, ratio, self.seed, epoch) if scale else None
        if isinstance(data.images, Stream):
            place = {"start": start, "rank": self.rank, "world": self.world}
            yield from data.images.decoded(self.seed, epoch, self.batch_size, **place, crop=crop)
            return
        order = seeds.permutation(len(data), self.seed, "order", epoch)
        if isinstance(data.images, Pictures):
            yield from data.images.decoded((order[self._share(whole)] for whole in wholes), crop)
            return
        order = order.to(data.images.device)
        for whole in wholes:
            index = order[self._share(whole)]
            images = data.images[index]
            if crop is not None:
                height, width = images.shape[2:]
                generator = seeds.generator(self.seed, "crop", epoch, whole.start)
                boxes = crops.boxes(whole.stop - whole.start, height, width, scale, ratio, generator)
                images = crops.resized(images, boxes[self.rank :: self.world])
            yield images, data.labels[index]
