"""Data sets in the layout of the Hugging Face hub: parquet files with a column of pictures and a column of labels.

CIFAR's files are small and read whole, by pyarrow. All others are read by the library `datasets`, which fetches them
from the hub or takes them from a folder, and keeps the rows on disk, in its own cache, mapped into memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icsbound._check import InputError, fail


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a data set has its pictures and labels: `hub` is its name there, `parts` its splits for training and test.

    `classes`, `rows` (of both splits) and `size` are None where they are not known beforehand.
    """

    hub: str
    image: str | None = None
    label: str | None = None
    classes: int | None = None
    parts: tuple[str, str | None] = ("train", None)
    rows: tuple[int, int] | None = None
    size: int | None = None


# Counts as published by the data sets' authors; fewer rows mean a download that was cut short.
KNOWN = {
    "cifar10": Columns(
        hub="uoft-cs/cifar10",
        image="img",
        label="label",
        classes=10,
        parts=("train", "test"),
        rows=(50_000, 10_000),
        size=32,
    ),
    "cifar100": Columns(
        hub="uoft-cs/cifar100",
        image="img",
        label="fine_label",
        classes=100,
        parts=("train", "test"),
        rows=(50_000, 10_000),
        size=32,
    ),
    # The hub's own test part has no labels.
    "imagenet": Columns(
        hub="ILSVRC/imagenet-1k",
        image="image",
        label="label",
        classes=1000,
        parts=("train", "validation"),
        rows=(1_281_167, 50_000),
    ),
}
# Bytes of a row beside its pixels, generously: names, labels, a picture's header.
_BESIDE = 4096
_TESTS = ("test", "validation", "val", "valid")


def named(name: str, image: str | None, label: str | None) -> Columns:
    """The columns of data set `name`: a known one, or ``hub:NAME`` or ``hub:NAME:IMAGE:LABEL``."""
    if not name.startswith("hub:"):
        known = KNOWN[name]
        for flag, value in (("image_column", image), ("label_column", label)):
            if value is not None:
                fail(flag, f"be left out with data {name!r}, whose columns are known", value)
        return known
    parts = name.split(":")[1:]
    if len(parts) not in (1, 3) or not all(parts):
        fail("data", "read hub:NAME or hub:NAME:IMAGE_COLUMN:LABEL_COLUMN", name)
    if len(parts) == 3:
        image, label = image or parts[1], label or parts[2]
    return Columns(hub=parts[0], image=image, label=label)


class Table:
    """One split of a small data set, from the parquet files ``SPLIT-*`` of a folder, encoded pictures in memory."""

    def __init__(self, name: str, columns: Columns, folder: str, part: int) -> None:
        split, image, label = columns.parts[part], columns.image, columns.label
        try:
            import pyarrow.parquet as parquet
        except ModuleNotFoundError:
            raise InputError(
                f"data {name!r} must be read with pyarrow and pillow; pip install 'icsbound[data]'"
            ) from None
        self._where: list[tuple[Path, int]] = []
        self._contents: list[Any] = []
        labels: list[Any] = []
        files = _files(name, folder, split)
        _check_footers(name, columns, part, files)
        for file in files:
            try:
                table = parquet.read_table(file, columns=[image, label])
                cells, theirs = table.column(image).to_pylist(), table.column(label).to_pylist()
                self._contents += [None if cell is None else cell["bytes"] for cell in cells]
            except Exception as error:  # a reader raises whatever a damaged file makes it meet
                raise InputError(
                    f"{file} must hold the columns {image} and {label} of {name}: {_line(error)}"
                ) from None
            labels += theirs
            self._where += [(file, row) for row in range(len(theirs))]
        self.labels = _labels(labels, columns.classes, self._named)

    def _named(self, row: int) -> str:
        file, number = self._where[row]
        return f"{file}, row {number}"

    def picture(self, index: int) -> tuple[bytes, str]:
        """The content of a picture, and its file and row."""
        return _content(self._contents[index], self._named(index)), self._named(index)


class Rows:
    """One split as `datasets` keeps it, rows read when they are asked for."""

    def __init__(self, rows: Any, columns: Columns, what: str, classes: int | None) -> None:
        self.what, self._image, self._rows = what, columns.image, rows
        labels = rows.data.column(columns.label).to_pylist()
        self.labels = _labels(labels, classes, lambda row: f"{what}, row {row}")

    def picture(self, index: int) -> tuple[bytes, str]:
        """The content of a picture, and its row."""
        where = f"{self.what}, row {index}"
        cell = self._rows[index][self._image]
        return _content(cell["bytes"] if isinstance(cell, dict) else None, where), where


def both(name: str, columns: Columns, folder: str | None) -> tuple[Rows, Rows, int]:
    """The rows for training and those for test, and the number of classes.

    `folder` holds parquet files ``SPLIT-*``; None: they are fetched from the hub. Raises InputError for what cannot be
    had, is not whole, or has labels out of range.
    """
    train, test = load(name, columns, folder, streaming=False)
    columns, classes = settled(name, columns, train)
    named = [f"the {part} part of {name}" for part in ("training", "test")]
    for part, rows, what in zip((0, 1), (train, test), named, strict=True):
        if columns.rows is not None and len(rows) != columns.rows[part]:
            fail(what, f"hold {columns.rows[part]} images", len(rows))
    first = Rows(train, columns, named[0], classes)
    if classes is None:
        classes = int(first.labels.max()) + 1
    return first, Rows(test, columns, named[1], classes), classes


def load(name: str, columns: Columns, folder: str | None, *, streaming: bool) -> tuple[Any, Any]:
    """The two splits as `datasets` gives them, pictures left encoded."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise InputError(
            f"data {name!r} must be read with datasets, which is not installed; pip install 'icsbound[hub]'"
        ) from None
    try:
        if folder is None:
            have = list(datasets.get_dataset_split_names(columns.hub))
            parts = _parts(name, columns, have)
            splits = [datasets.load_dataset(columns.hub, split=part, streaming=streaming) for part in parts]
        else:
            all_of = {split: _files(name, folder, split, required=False) for split in ("train", *_TESTS)}
            files = {split: [str(file) for file in those] for split, those in all_of.items() if those}
            parts = _parts(name, columns, list(files))
            found = {part: files[part] for part in parts}
            splits = [
                datasets.load_dataset("parquet", data_files=found, split=part, streaming=streaming) for part in parts
            ]
        first, second = (_encoded(datasets, split, columns) for split in splits)
    except InputError:
        raise
    except Exception as error:  # the hub, the network, the disk or a damaged file
        where = "from the hub, by its name there; data_dir names a folder that holds it" if folder is None else folder
        raise InputError(f"data {name!r} must be readable {where}: {_line(error)}") from None
    return first, second


def _encoded(datasets: Any, split: Any, columns: Columns) -> Any:
    image = columns.image or _only(split, datasets.Image, "image_column")
    if image not in split.features:
        fail("image_column", "be one of " + ", ".join(split.features), image)
    return split.cast_column(image, datasets.Image(decode=False))


def _only(split: Any, kind: Any, flag: str) -> str:
    """The one column of this kind."""
    found = [column for column, feature in split.features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        fail(flag, "be named, one of " + ", ".join(split.features), None)
    return str(found[0])


def settled(name: str, columns: Columns, split: Any) -> tuple[Columns, int | None]:
    """`columns` with both names, and the number of classes if anything says it."""
    import datasets

    image = columns.image or _only(split, datasets.Image, "image_column")
    label = columns.label or _only(split, datasets.ClassLabel, "label_column")
    if label not in split.features:
        fail("label_column", "be one of " + ", ".join(split.features), label)
    said = getattr(split.features[label], "num_classes", None)
    if columns.classes is not None and said is not None and said != columns.classes:
        fail(f"data {name!r}", f"have {columns.classes} classes", said)
    return dataclasses.replace(columns, image=image, label=label), columns.classes or said


def count(name: str, columns: Columns, folder: str | None, rows: Any) -> int:
    """How many rows the training part has, if anything says it without reading them all."""
    if columns.rows is not None:
        return columns.rows[0]
    if folder is not None:
        import pyarrow.parquet as parquet

        return sum(int(parquet.read_metadata(file).num_rows) for file in _files(name, folder, columns.parts[0]))
    said = (rows.info.splits or {}).get(columns.parts[0])
    if said is None or not said.num_examples:
        fail("stream", "be left out with data whose number of rows the hub does not say", name)
    return int(said.num_examples)


def _parts(name: str, columns: Columns, have: list[str]) -> tuple[str, str]:
    train, test = columns.parts
    test = test or next((split for split in _TESTS if split in have), None)
    if train not in have or test not in have:
        fail(f"data {name!r}", f"have a split train and a split {test or ', '.join(_TESTS)}", have)
    return train, str(test)


def _check_footers(name: str, columns: Columns, part: int, files: list[Path]) -> None:
    """Raise InputError where files say that they hold other than the rows of the data set, or far more bytes than its
    pictures have: a few kilobytes may unpack to what no memory holds.
    """
    import pyarrow.parquet as parquet

    rows, size = 0, 0
    for file in files:
        try:
            footer = parquet.read_metadata(file)
            rows += footer.num_rows
            size += sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
        except Exception as error:
            raise InputError(f"{file} must be a parquet file: {_line(error)}") from None
    if columns.rows is not None and rows != columns.rows[part]:
        fail(
            f"the {columns.parts[part]} part of {name} in {files[0].parent}", f"hold {columns.rows[part]} images", rows
        )
    if columns.size is not None and size > rows * (_BESIDE + 2 * 3 * columns.size**2):
        most = f"at most {_BESIDE + 2 * 3 * columns.size**2} bytes a row, as pictures of {columns.size} pixels have"
        fail(f"the {columns.parts[part]} part of {name} in {files[0].parent}", f"have {most}", f"{size} bytes in all")


def _files(name: str, folder: str, split: str | None, *, required: bool = True) -> list[Path]:
    """The parquet files of a split, in the folder or in ``data`` below it."""
    if not Path(folder).is_dir():
        fail("data_dir", f"be the folder with the parquet files of {name}", folder, ", which is no folder")
    files = sorted(Path(folder).glob(f"{split}-*.parquet")) or sorted(Path(folder).glob(f"data/{split}-*.parquet"))
    if not files and required:
        fail("data_dir", f"hold files {split}-*.parquet of {name}", folder)
    return files


def _content(content: Any, where: str) -> bytes:
    # A cell may name a path or an address instead: nothing there is opened.
    if not isinstance(content, bytes):
        raise InputError(f"{where}: the image cannot be decoded (the row holds no bytes of it)")
    return content


def _labels(values: list[Any], classes: int | None, where: Callable[[int], str]) -> Tensor:
    """`values` as a tensor. Raises InputError naming the first row whose label is none of the classes."""
    for row, value in enumerate(values):
        if wrong := wrong_label(value, classes):
            raise InputError(f"{where(row)}: {wrong}")
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def wrong_label(value: Any, classes: int | None) -> str:
    """Why `value` is no label of so many classes (None: of any number); nothing where it is one."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0 and (not classes or value < classes):
        return ""
    right = f"a whole number in 0...{classes - 1}" if classes else "a whole number from 0"
    return f"the label must be {right}, got {value!r}"


def _line(error: Exception) -> str:
    return next(iter((str(error) or type(error).__name__).splitlines()), type(error).__name__)[:300]
