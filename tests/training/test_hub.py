"""Data sets in the hub's layout, from local parquet files: the same code reads them from the hub itself."""

import dataclasses
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from small import stopped_and_resumed

from icsbound._check import InputError
from icsbound.training import data, evaluate, hub, recipes, stream
from icsbound.training.batches import Augment, Batches
from icsbound.training.config import TrainConfig

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, no network, and no wait at the end of a stream's threads."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    datasets.disable_progress_bars()


def grey(level: int, height: int = 24, width: int = 30) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, split: str, contents: list[Any], labels: list[Any], number: int = 0, **columns: Any) -> Path:
    """One file of a split: column image {bytes, path} with the hub's own types, column label of three classes."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    features |= {name: datasets.Value("int64") for name in columns}
    rows = {"image": [{"bytes": c, "path": None} for c in contents], "label": labels, **columns}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-{number:05}-of-00002.parquet"
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)
    return path


N = 20


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Twenty training pictures in two files, whose grey level says their row, and six for test."""
    for part in (0, 1):
        rows = range(part * 10, part * 10 + 10)
        write(tmp_path / "shelf" / "data", "train", [grey(10 * r) for r in rows], [r % 3 for r in rows], part)
    write(tmp_path / "shelf" / "data", "validation", [grey(10 * r) for r in range(6)], [0, 1, 2, 0, 1, 2])
    return tmp_path / "shelf"


def rows(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0] // 10).tolist()


def test_rows_are_decoded_when_they_are_asked_for(shelf: Path) -> None:
    splits = data.load("hub:me/shelf", data_dir=shelf, image_size=16, workers=0, hold_out=0.3)
    assert isinstance(splits.train.images, data.Pictures)
    assert (len(splits.train), len(splits.validation), len(splits.test), splits.train.classes) == (14, 6, 6, 3)
    both = [*rows(splits.train.images[:]), *rows(splits.validation.images[:])]
    assert sorted(both) == list(range(N))
    for part in (splits.train, splits.validation, splits.test):
        assert part.labels.tolist() == [r % 3 for r in rows(part.images[:])]
    images, labels, _ = next(Batches(splits.train, 8, seed=0).epoch(0))
    assert labels.tolist() == [r % 3 for r in rows(images)]


def test_rows_are_decoded_once_into_memory(shelf: Path) -> None:
    train = data.load("hub:me/shelf:image:label", data_dir=shelf, image_size=16, in_memory=True).train
    assert isinstance(train.images, torch.Tensor)
    assert rows(train.images) == list(range(N))


def test_columns_are_found_or_named(shelf: Path) -> None:
    for split in ("train", "test"):
        write(shelf / "other", split, [grey(0)] * 4, [0, 1, 2, 0], coarse=[0, 1, 1, 0])
    named = data.load("hub:me/other", data_dir=shelf / "other", image_size=8, label_column="coarse", workers=0)
    assert named.train.labels.tolist() == [0, 1, 1, 0]
    assert named.train.classes == 2
    for flag, name, message in (
        ("label_column", "fine", r"^label_column must be one of image, label, coarse, got 'fine'$"),
        ("image_column", "picture", r"^image_column must be one of image, label, coarse, got 'picture'$"),
    ):
        with pytest.raises(InputError, match=message):
            data.load("hub:me/other", data_dir=shelf / "other", workers=0, **{flag: name})
    with pytest.raises(InputError, match=r"^data must read hub:NAME or hub:NAME:IMAGE_COLUMN:LABEL_COLUMN, got"):
        data.load("hub:me/other:image", data_dir=shelf)


def epoch(
    train: data.Dataset, number: int, start: int = 0, **share: int
) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    return list(Batches(train, 6, seed=3, augment=Augment(0, True, 0.5), **share).epoch(number, start))


def test_a_stream_is_shuffled_by_epoch_and_can_be_entered_anywhere(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BUFFER", 7)
    splits = data.load("hub:me/shelf", data_dir=shelf, image_size=16, stream=True, workers=0)
    train = splits.train
    assert train.images.shape == (N, 3, 16, 16)
    whole = epoch(train, 0)
    assert [n for *_, n in whole] == [6, 6, 6, 2]
    seen = [row for images, *_ in whole for row in rows(images)]
    assert sorted(seen) == list(range(N))
    assert seen != sorted(seen)
    assert all(labels.tolist() == [r % 3 for r in rows(images)] for images, labels, _ in whole)
    assert [r for images, *_ in epoch(train, 1) for r in rows(images)] != seen
    for (x, y, _), (x2, y2, _) in zip(whole[2:], epoch(train, 0, start=2), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    shares = [epoch(train, 0, rank=rank, world=2) for rank in (0, 1)]
    for (x, _, n), (x0, _, n0), (x1, _, n1) in zip(whole, *shares, strict=True):
        assert n == n0 == n1
        assert torch.equal(x[0::2], x0)
        assert torch.equal(x[1::2], x1)
    assert rows(splits.test.images[:]) == list(range(6))
    with pytest.raises(InputError, match=r"^the training part of hub:me/shelf must be read in order, since it is"):
        train.images[torch.tensor([3])]


def shares(
    train: data.Dataset, number: int, world: int = 2, only: int | None = None, **options: int
) -> list[list[list[int]]]:
    """Process (or one of them only) -> batch -> its rows."""
    assert isinstance(train.images, stream.Stream)
    mine = dataclasses.replace(train, images=train.images.shared(world))
    return [
        [rows(images) for images, *_ in epoch(mine, number, rank=rank, world=world, **options)]
        for rank in range(world)
        if only in (None, rank)
    ]


def test_processes_have_files_to_themselves(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BUFFER", 4)
    monkeypatch.setattr(stream, "_LEAST", 4)
    train = data.load("hub:me/shelf", data_dir=shelf, image_size=16, stream=True, workers=0).train
    whose = set()
    for number in range(6):
        both = shares(train, number)
        assert [[len(batch) for batch in mine] for mine in both] == [[3, 3, 3, 1]] * 2
        halves = [sorted(itertools.chain(*mine)) for mine in both]
        assert sorted(halves) == [list(range(10)), list(range(10, 20))]
        whose.add(halves[0][0])
        assert both != shares(train, number + 1)
        assert both == shares(train, number)
        for start in (1, 3):
            assert shares(train, number, start=start) == [mine[start:] for mine in both]
    assert whose == {0, 10}  # files change hands


def test_processes_read_no_rows_but_their_own(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = data.load("hub:me/shelf", 5, data_dir=shelf, image_size=16, stream=True, workers=0, hold_out=0.3).train
    read: list[int] = []
    chosen = stream.HeldOut.chosen

    def watched(held: stream.HeldOut, row: Any) -> bool:
        with Image.open(io.BytesIO(row["image"]["bytes"])) as picture:
            read.append(picture.getpixel((0, 0))[0] // 10)
        return chosen(held, row)

    monkeypatch.setattr(stream.HeldOut, "chosen", watched)
    for rank in (0, 1):
        read.clear()
        shares(train, 0, only=rank)
        assert len({row // 10 for row in read}) == 1
        assert len(set(read)) == 10


def test_shares_of_unequal_length_fill_every_batch(shelf: Path) -> None:
    # By content more is held out of one file than of the other.
    splits = data.load("hub:me/shelf", 2, data_dir=shelf, image_size=16, stream=True, workers=0, hold_out=0.4)
    held = rows(splits.validation.images[:])
    left = [10 - sum(row // 10 == file for row in held) for file in (0, 1)]
    assert left[0] != left[1]
    for number in range(3):
        both = shares(splits.train, number)
        whole, rest = divmod(sum(left), 6)
        assert [[len(batch) for batch in mine] for mine in both] == [
            [3] * whole + [len(range(rank, rest, 2))] * (rest > 1) for rank in (0, 1)
        ]
        assert not set(held) & set(itertools.chain(*both[0], *both[1]))
        assert len({row // 10 for batch in both[0] for row in batch}) == 1
        assert both == shares(splits.train, number)
        assert shares(splits.train, number, start=1) == [mine[1:] for mine in both]


def test_row_groups_are_shared_out_where_files_are_too_few(shelf: Path) -> None:
    table = parquet.read_table(shelf / "data" / "train-00000-of-00002.parquet")
    (shelf / "data" / "train-00001-of-00002.parquet").unlink()
    train = shelf / "data" / "train-00000-of-00002.parquet"
    read: dict[str, Any] = {"data_dir": shelf, "image_size": 16, "stream": True, "workers": 0}
    parquet.write_table(table, train, row_group_size=5)
    both = shares(data.load("hub:me/shelf", **read).train, 0)
    assert sorted(sorted(itertools.chain(*mine)) for mine in both) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    parquet.write_table(table, train)
    few = data.load("hub:me/shelf", **read).train
    message = (
        r"^the training part of hub:me/shelf has 1 shards \(files or row groups\), which 2 processes cannot share out"
    )
    with pytest.warns(UserWarning, match=message):
        both = shares(few, 0)
    whole = [rows(images) for images, *_ in epoch(few, 0)]
    assert both == [[batch[rank::2] for batch in whole] for rank in (0, 1)]


def test_part_of_a_stream_is_held_out(shelf: Path) -> None:
    splits = data.load("hub:me/shelf", 5, data_dir=shelf, image_size=16, stream=True, workers=0, hold_out=0.4)
    held = rows(splits.validation.images[:])
    assert 0 < len(held) < N
    trained = [row for images, *_ in epoch(splits.train, 0) for row in rows(images)]
    left = N - len(held)
    assert len(trained) == left - (left % 6 == 1)  # a single image waits for the next epoch
    assert not set(held) & set(trained)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_goes_on_as_if_it_had_not_stopped(shelf: Path, tmp_path: Path, streamed: bool) -> None:
    recipe = recipes.recipe("imagenet-90", "hub:me/shelf", epochs=2, batch_size=8, lr=0.01, shift=0.1)
    config = TrainConfig(
        data="hub:me/shelf",
        data_dir=str(shelf),
        stream=streamed,
        image_size=16,
        workers=0,
        model="resnet8:width=2",
        arm="bn",
        recipe=recipe,
        threads=1,
    )
    stopped_and_resumed(config, tmp_path, steps=6)
    conditions = evaluate.Conditions(shifts=("none", "contrast:3"))
    assert len(evaluate.evaluate([tmp_path / "unbroken"], tmp_path / "table", conditions)) == 2


def test_what_is_wrong_is_named_by_its_row(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(shelf / "bad", "test", [grey(0)] * 3, [0, 1, 2])
    read: dict[str, Any] = {"data_dir": shelf / "bad", "image_size": 8, "workers": 0}
    # no bytes, but the path of a file that could be opened
    path = write(shelf / "bad", "train", [grey(0), grey(0), grey(0)[:60]], [0, 1, 2])
    table = parquet.read_table(path)
    cells = table.column("image").to_pylist()
    cells[1] = {"bytes": None, "path": str(path)}
    parquet.write_table(table.set_column(0, table.field(0), [cells]), path)
    train = data.load("hub:me/bad", **read).train
    for index, text in ((1, "the row holds no bytes of it"), (2, ".*")):
        message = rf"^the training part of hub:me/bad, row {index}: the image cannot be decoded \({text}\)$"
        with pytest.raises(InputError, match=message):
            train.images[torch.tensor([index])]
    with pytest.warns(UserWarning, match="row [12]: "):
        data.load("hub:me/bad", **read, skip_bad=2).train.images[:]
    write(shelf / "bad", "train", [grey(0)] * 3, [0, -1, 2])
    for streamed in (False, True):
        with pytest.raises(InputError, match=r"row [0-9]+.*: the label must be a whole number in 0...2, got -1$"):
            list(Batches(data.load("hub:me/bad", **read, stream=streamed).train, 3, seed=0).epoch(0))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"^data 'hub:me/bad' must be readable .*bad: "):
        data.load("hub:me/bad", **read)
    path.unlink()
    with pytest.raises(
        InputError, match=r"^data 'hub:me/bad' must have a split train and a split test, got \['test'\]$"
    ):
        data.load("hub:me/bad", **read)
    with pytest.raises(
        InputError, match=r"^data 'hub:me/bad' must be readable from the hub, by its name there; data_dir"
    ):
        data.load("hub:me/bad")


def test_known_sets_must_be_whole(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^data 'imagenet' must have 1000 classes, got 3$"):
        data.load("imagenet", data_dir=shelf)
    few = hub.Columns(
        hub="me/few", image="image", label="label", classes=3, parts=("train", "validation"), rows=(20, 7)
    )
    monkeypatch.setitem(hub.KNOWN, "imagenet", few)
    with pytest.raises(InputError, match=r"^the test part of imagenet must hold 7 images, got 6$"):
        data.load("imagenet", data_dir=shelf)
    longer = hub.Columns(
        hub="me/few", image="image", label="label", classes=3, parts=("train", "validation"), rows=(21, 6)
    )
    monkeypatch.setitem(hub.KNOWN, "imagenet", longer)
    train = data.load("imagenet", data_dir=shelf, image_size=16, workers=0, stream=True).train
    with pytest.raises(InputError, match=r"^the training part of imagenet must hold 21 images, got 20$"):
        list(epoch(train, 0))
    empty = dataclasses.replace(train.images, rows=train.images.rows.take(0))
    with pytest.raises(InputError, match=r"^the training part of imagenet must hold 21 images, got 0$"):
        empty[:2]
    with pytest.raises(InputError, match=r"^the training part of imagenet must hold 21 images, got at most 12$"):
        list(empty.decoded(0, 0, 6, start=2))
