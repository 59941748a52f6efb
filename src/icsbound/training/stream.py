"""Training pictures that are read as they come and never kept: for data sets larger than the disk.

An epoch's order is that of the files, themselves in random order, shuffled in a buffer; it is fixed by seed and epoch,
so that a resumed run skips what it has seen. Of several processes each has shards to itself, other ones each epoch, and
reads and decodes nothing else; its worker processes are handed rows that are read. Shards are files, or where there are
too few of those their row groups. They may differ in length: a process that comes to the end of its own begins them
again, and what another has left over waits for the next epoch. Where shards are too few, every process reads all rows
and decodes its share of each batch, and the run says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icsbound._check import InputError
from icsbound.training import seeds
from icsbound.training.hub import Columns, wrong_label
from icsbound.training.pictures import Bad, Decoder, Encoded, RandomCrop, decode

# Rows among which the next is drawn. An ImageNet row has about 110 kB.
BUFFER = 4096
_LEAST = 256  # of one process, where many share that number
# So many shards a process differ in number by a tenth at most; fewer must be equally many.
_MANY = 10
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class HeldOut:
    """Which rows are held out: those whose content, hashed with `seed`, falls into the share `share`.

    A row's place says nothing, since files are read in random order. Equal pictures fall on the same side.
    """

    columns: Columns
    share: float
    seed: int

    def chosen(self, row: Any) -> bool:
        """Whether `row` is held out."""
        digest = hashlib.blake2b(_content(row, self.columns), digest_size=8, key=str(self.seed).encode()).digest()
        return int.from_bytes(digest, "big") < self.share * 2**64

    def left(self, row: Any) -> bool:
        """Whether `row` is not held out."""
        return not self.chosen(row)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Stands where a data set has the tensor of its images, `count` of them, which can be read in order alone.

    `rows` is an iterable data set of `datasets`; rows that are `held_out` are passed over. `sharers` processes have
    shards of it to themselves.
    """

    rows: Any
    columns: Columns
    what: str
    count: int
    classes: int
    size: int
    keep: float
    bad: Bad
    workers: int
    held_out: HeldOut | None = None
    sharers: int = 1
    device: torch.device = _CPU

    @property
    def shape(self) -> torch.Size:
        """(N, 3, size, size)."""
        return torch.Size((self.count, 3, self.size, self.size))

    def to(self, device: torch.device | str) -> Stream:
        """The same stream, decoded images on `device`."""
        return dataclasses.replace(self, device=torch.device(device))

    def shared(self, world: int, *, say: bool = True) -> Stream:
        """The same stream for `world` processes, each with shards to itself; as it is, with a warning where they are to
        `say` so, if it has too few.
        """
        rows = self.rows
        # By row groups only where it must be, since every footer is read for it; older versions of `datasets` cannot.
        if _too_few(rows, world) and hasattr(rows, "reshard"):
            rows = rows.reshard()
        if not _too_few(rows, world):
            return dataclasses.replace(self, rows=rows, sharers=world)
        if say:
            warnings.warn(
                f"{self.what} has {rows.num_shards} shards (files or row groups), which {world} processes cannot share "
                f"out: each reads all rows and leaves those of the others; a multiple of {world} would do, or "
                f"{_MANY * world} and more",
                stacklevel=2,
            )
        return self

    def __getitem__(self, index: Any) -> Tensor:
        """The first images of a fixed order, ``[:n]``; all other places would need what is not kept."""
        if not isinstance(index, slice) or index.start not in (0, None) or index.step not in (1, None):
            raise InputError(f"{self.what} must be read in order, since it is streamed: other places are not kept")
        n = self.count if index.stop is None else min(index.stop, self.count)
        return next(self._batches(self._order(0), n, None))[0]

    def decoded(
        self,
        seed: int,
        epoch: int,
        batch_size: int,
        *,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        crop: RandomCrop | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of one process's share of the batches from `start` on of an epoch: where processes have
        shards to themselves as many of its own, else every `world`-th image of the batch from `rank`.
        """
        order = seeds.number(seed, "order", epoch)
        if world == self.sharers > 1:
            rows = self._own(order, start * batch_size // world, rank)
            return self._batches(rows, batch_size // world, crop)
        return self._batches(self._order(order, skip=start * batch_size), batch_size, crop, rank, world)

    def _order(self, seed: int, skip: int = 0) -> Iterator[Encoded]:
        shuffled = self._shuffled(seed, BUFFER).skip(skip)
        seen = skip
        for row in itertools.islice(shuffled, self.count - skip):
            yield encoded(row, self.columns, self.classes, seen, f"{self.what}, row {seen} of seed {seed}")
            seen += 1
        if seen < self.count:
            # Where none came, how many of those that were skipped there are is not known.
            got = f"at most {seen}" if seen == skip > 0 else str(seen)
            raise InputError(f"{self.what} must hold {self.count} images, got {got}")

    def _shuffled(self, seed: int, buffer: int) -> Any:
        rows = self.rows if self.held_out is None else self.rows.filter(self.held_out.left)
        return rows.shuffle(seed=seed, buffer_size=buffer)

    def _own(self, seed: int, skip: int, rank: int) -> Iterator[Encoded]:
        """What process `rank` has of an epoch, without the first `skip` pictures: image number i of the epoch is one of
        process i mod `sharers`.
        """
        world = self.sharers
        # Shuffled first: shards go to other processes in each epoch.
        mine = self._shuffled(seed, max(BUFFER // world, _LEAST)).shard(world, rank, contiguous=False)
        numbers = range(rank, self.count, world)[skip:]
        for number, row in zip(numbers, itertools.islice(self._again(mine, rank), skip, None), strict=False):
            where = f"{self.what}, row {number // world} of process {rank} of {world}, seed {seed}"
            yield encoded(row, self.columns, self.classes, number, where)

    def _again(self, rows: Any, rank: int) -> Iterator[Any]:
        """`rows` over and over."""
        while True:
            empty = True
            for row in rows:
                empty = False
                yield row
            if empty:
                raise InputError(f"{self.what} must hold images in the shards of every process, got none in {rank}'s")

    def _batches(
        self, rows: Iterator[Encoded], batch_size: int, crop: RandomCrop | None, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        whole = iter(lambda: list(itertools.islice(rows, batch_size)), [])
        mine = (batch[rank::world] for batch in whole)
        return decode(Decoder(None, self.size, self.keep, crop), mine, self.bad, self.workers, self.device)


class Gathered:
    """Encoded pictures in memory: the part of a stream that is read again and again."""

    def __init__(self, rows: Iterator[Encoded]) -> None:
        kept = list(rows)
        self._contents = [(one.content or b"", one.where) for one in kept]
        self.labels = torch.tensor([one.label for one in kept], dtype=torch.int64, device="cpu")

    def picture(self, index: int) -> tuple[bytes, str]:
        """The content of a picture, and its row."""
        return self._contents[index]


def _too_few(rows: Any, world: int) -> bool:
    count = int(rows.num_shards)
    return count < _MANY * world and count % world != 0


def encoded(row: Any, columns: Columns, classes: int, number: int, where: str) -> Encoded:
    """`row` on its way to a worker. Raises InputError for a label that is none of the classes."""
    label = row[columns.label]
    if wrong := wrong_label(label, classes):
        raise InputError(f"{where}: {wrong}")
    return Encoded(number, _content(row, columns), where, label)


def _content(row: Any, columns: Columns) -> bytes:
    cell = row[columns.image]
    content = cell.get("bytes") if isinstance(cell, dict) else None
    # A row may name a path or an address instead of a content: nothing there is opened, and nothing decodes as b"".
    return content if isinstance(content, bytes) else b""


def gathered(rows: Any, columns: Columns, classes: int, what: str, held_out: HeldOut | None = None) -> Gathered:
    """The rows that are `held_out`, or all of them, in memory."""
    numbered = ((k, row) for k, row in enumerate(rows) if held_out is None or held_out.chosen(row))
    return Gathered(encoded(row, columns, classes, k, f"{what}, row {k}") for k, row in numbered)
