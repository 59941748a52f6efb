"""Pictures, image folders and parquet files from elsewhere."""

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from hostile import answered, pictures, png, refused

from icsbound.training import data, folders, hub
from icsbound.training import pictures as reader

Image = pytest.importorskip("PIL.Image")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def decoded(content: bytes | Path, where: str = "x.png") -> np.ndarray:
    with reader.opened(content, where) as image:
        return reader.centre(image, 8)


def sound(kind: str = "PNG", size: int = 32) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


NAMES = tuple(pictures(Path("mark")))


@pytest.mark.parametrize("name", NAMES)
def test_no_picture(shelf: Path, mark: Path, name: str) -> None:
    content = pictures(mark)[name]
    assert refused(decoded, content).startswith("x.png: the image cannot be decoded (")
    (shelf / "x.png").write_bytes(content)
    assert "x.png: the image cannot be decoded (" in refused(decoded, shelf / "x.png", str(shelf / "x.png"))


def test_a_bomb_is_refused_by_its_header(shelf: Path) -> None:
    """Before any of its 13,300 × 13,300 pixels has memory."""
    assert "pixels" in refused(decoded, png(13_300, 13_300))
    assert "60000" in refused(decoded, png(60_000, 60_000)) or "pixels" in refused(decoded, png(60_000, 60_000))


def test_a_sound_picture_is_none_of_these(shelf: Path) -> None:
    assert decoded(sound()).shape == (8, 8, 3)
    assert decoded(png(64, 64)).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", reader.FORMATS)
def test_any_damage_gives_a_picture_or_a_sentence(shelf: Path, kind: str) -> None:
    whole = sound(kind)
    draw = random.Random(kind)
    for _ in range(60):
        content = bytearray(whole[: draw.randint(1, len(whole))] if draw.random() < 0.3 else whole)
        for _ in range(draw.choice((1, 3, 20))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pillow's own, of odd metadata
            answered(decoded, bytes(content))


def test_folders_name_the_file_and_read_nothing_outside(shelf: Path, mark: Path) -> None:
    for split in ("train", "val"):
        for label in ("a", "b"):
            (shelf / split / label).mkdir(parents=True)
            (shelf / split / label / "1.png").write_bytes(sound())
    # names that are paths, commands and markup to careless programs
    for name in ("; touch executed.png", "$(touch executed).png", "<script>.png", "..png", "%2e%2e.png", "a\nb.png"):
        (shelf / "train" / "a" / name).write_bytes(sound())
    assert len(data.load("folder", data_dir=shelf, image_size=8).train) == 7
    (shelf / "train" / "a" / "c\nd.png").write_bytes(b"no picture")
    data._in_memory.cache_clear()
    assert r"c\nd.png: the image" in refused(data.load, "folder", data_dir=shelf, image_size=8)
    (shelf / "train" / "a" / "c\nd.png").unlink()
    data._in_memory.cache_clear()
    for name in NAMES:
        (shelf / "train" / "b" / "2.png").write_bytes(pictures(mark)[name])
        assert "2.png: the image cannot be decoded" in refused(data.load, "folder", data_dir=shelf, image_size=8)
        lazily = data.load("folder", data_dir=shelf, image_size=8, in_memory=False, workers=0).train
        assert "2.png: the image cannot be decoded" in refused(lambda images=lazily.images: images[:])
    (shelf / "train" / "b" / "2.png").unlink()
    os.symlink("loop.png", shelf / "train" / "b" / "loop.png")
    assert len(folders.both(shelf)[0].labels) == 7  # a link to itself is no file


def table(folder: Path, images: object, labels: object, name: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table({"img": images, "label": labels}), path)
    return path


def test_parquet_files_that_are_none(shelf: Path) -> None:
    path = table(shelf, [{"bytes": sound(), "path": None}] * 3, [0, 1, 2])
    whole = path.read_bytes()
    draw = random.Random(0)
    contents = [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", whole[:-1], whole[: len(whole) // 2], b"\0" * 100]
    contents.append(whole[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1")  # a footer longer than the file
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 5))):
            # the footer decides everything, and is not covered by a checksum
            content[draw.randrange(len(whole) // 2, len(whole))] = draw.randrange(256)
        contents.append(bytes(content))
    for content in contents:
        path.write_bytes(content)
        answered(hub.Table, "cifar10", hub.KNOWN["cifar10"], str(shelf), 0)
    for content in contents[:7]:
        path.write_bytes(content)
        assert str(path) in refused(hub.Table, "cifar10", hub.KNOWN["cifar10"], str(shelf), 0)


def test_parquet_files_of_something_else(shelf: Path) -> None:
    cell = {"bytes": sound(), "path": None}
    for images, labels in (
        ([1, 2, 3], [0, 1, 2]),
        (["a", "b", "c"], [0, 1, 2]),
        ([{"path": "/etc/passwd"}] * 3, [0, 1, 2]),
        ([{"bytes": 3}] * 3, [0, 1, 2]),
        ([[cell]] * 3, [0, 1, 2]),
        ([cell] * 3, ["0", "1", "2"]),
        ([cell] * 3, [0.0, 1.0, 2.0]),
        ([cell] * 3, [0, 1, 2**40]),
        ([cell] * 3, [True, False, True]),
        ([cell] * 3, [[0], [1], [2]]),
    ):
        columns = hub.Columns(hub="x", image="img", label="label", classes=3, parts=("train", "train"), rows=(3, 3))
        table(shelf, images, labels)

        def read(columns: hub.Columns = columns) -> None:
            source = hub.Table("x", columns, str(shelf), 0)
            reader.once(source, "x", 32, exact=True)

        refused(read)


def test_parquet_bombs_are_refused_by_their_footer(shelf: Path) -> None:
    """A small file that says it holds far more rows, or bytes, than the data set has."""
    nothing = pyarrow.array([None], pyarrow.struct([("bytes", pyarrow.binary())])).take(pyarrow.array([0] * 10))
    path = shelf / "train-00000-of-00001.parquet"
    part = pyarrow.table({"img": pyarrow.concat_arrays([nothing] * 1000), "label": np.zeros(10_000, np.int64)})
    with parquet.ParquetWriter(path, part.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(part)
    assert path.stat().st_size < 100_000
    assert "hold 50000 images, got 100000" in refused(hub.Table, "cifar10", hub.KNOWN["cifar10"], str(shelf), 0)
    cells = [{"bytes": b"\0" * 10**7, "path": None}] * 20
    parquet.write_table(
        pyarrow.table({"img": cells, "label": [0] * 20}), path, compression="zstd", use_dictionary=False
    )
    assert path.stat().st_size < 1_000_000
    columns = hub.Columns(
        hub="x", image="img", label="label", classes=3, parts=("train", "train"), rows=(20, 20), size=32
    )
    assert "bytes" in refused(hub.Table, "x", columns, str(shelf), 0)
