import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small import stopped_and_resumed
from torch import Tensor

from icsbound._check import InputError
from icsbound.training import data, folders, pictures, recipes
from icsbound.training.batches import Augment, Batches
from icsbound.training.config import TrainConfig
from icsbound.training.pictures import Bad, Pictures, RandomCrop

Image = pytest.importorskip("PIL.Image")


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


class Contents:
    """Pictures in memory, of several shapes; the grey level of each says its number."""

    def __init__(self, n: int = 9) -> None:
        shapes = [(20, 24), (31, 20), (20, 20)]
        self.contents = [encoded(np.full((*shapes[k % 3], 3), 20 * k, np.uint8)) for k in range(n)]
        self.labels = torch.arange(n) % 4

    def picture(self, index: int) -> tuple[bytes, str]:
        return self.contents[index], f"picture {index}"


def made(source: pictures.Source, skip_bad: int = 0, workers: int = 0, size: int = 8) -> Pictures:
    index = torch.arange(len(source.labels))
    return Pictures(source=source, index=index, size=size, bad=Bad(skip_bad), workers=workers)


def levels(images: Tensor) -> list[int]:
    """The number of each picture, which is all of one grey."""
    assert bool((images == images[:, :1, :1, :1]).all())
    return (images[:, 0, 0, 0] // 20).tolist()


def test_they_stand_where_a_tensor_of_images_does() -> None:
    images = made(Contents())
    assert images.shape == (9, 3, 8, 8)
    assert images[:].dtype == torch.uint8
    assert levels(images[:]) == list(range(9))
    assert levels(images[2:4]) == [2, 3]
    assert levels(images[torch.tensor([7, 1])]) == [7, 1]
    assert images[:0].shape == (0, 3, 8, 8)
    some = images.take(torch.tensor([5, 3, 8])).to("cpu")
    assert some.shape == (3, 3, 8, 8)
    assert levels(some[1:]) == [3, 8]
    dataset = data.Dataset("contents", images, images.source.labels, 4)
    assert len(dataset) == 9
    parts = list(dataset.take(torch.tensor([4, 2, 0])).portions(2))
    assert [levels(x) for x, _ in parts] == [[4, 2], [0]]
    assert [y.tolist() for _, y in parts] == [[0, 2], [0]]


def test_the_middle_is_scaled_as_pillow_scales_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    with pictures.opened(encoded(pixels), "x") as image:
        whole = pictures.centre(image, 40)
        assert np.array_equal(whole, pixels[:, 8:48])  # of the right size: its own pixels
        inner = pictures.centre(image, 16, keep=0.5)
    expected = Image.fromarray(pixels[10:30, 18:38]).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.abs(inner.astype(int) - np.asarray(expected)).max() <= 40  # sampled a little beyond the box's edge
    assert np.abs(inner.astype(int) - np.asarray(expected)).mean() < 3


def test_a_large_photograph_is_decoded_at_less_than_its_size() -> None:
    ramp = np.repeat(np.linspace(0, 255, 800).astype(np.uint8)[None, :, None], 600, 0).repeat(3, 2)
    crop = RandomCrop(0.08, 4 / 3, seed=0, epoch=0)
    for number in range(5):
        with pictures.opened(encoded(ramp, "JPEG"), "x") as image:
            generator = pictures.seeds.generator(crop.seed, "crop", crop.epoch, number)
            box = pictures.crops.boxes(1, 600, 800, 0.08, 4 / 3, generator)[0].tolist()
            generator = pictures.seeds.generator(crop.seed, "crop", crop.epoch, number)
            out = pictures.random_crop(image, 32, 0.08, 4 / 3, generator).astype(float)
            # the drawn part of the ramp, wherever the decoder began
            assert out[:, 0].mean() == pytest.approx(ramp[0, box[1], 0], abs=6)
            assert out[:, -1].mean() == pytest.approx(ramp[0, box[1] + box[3] - 1, 0], abs=6)
            assert image.width < 800 or box[3] < 200


def test_workers_decode_the_same_as_one_process_and_leave_its_generator() -> None:
    dataset = data.Dataset("contents", made(Contents()), Contents().labels, 4)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    alone = list(Batches(dataset, 4, seed=1, augment=Augment(1, True, 0.3)).epoch(2))
    several = dataclasses.replace(dataset, images=dataclasses.replace(dataset.images, workers=2))
    helped = list(Batches(several, 4, seed=1, augment=Augment(1, True, 0.3)).epoch(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [n for *_, n in alone] == [4, 4]
    for (x, y, n), (x2, y2, n2) in zip(alone, helped, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert n == n2


def test_an_epoch_can_be_entered_anywhere_and_shared_out() -> None:
    rng = np.random.default_rng(1)
    source = Contents(13)
    source.contents = [encoded(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)) for _ in range(13)]
    for images in (made(source), made(source)[:]):  # decoded when asked for, and in memory
        dataset = data.Dataset("random", images, source.labels, 4)
        batches = Batches(dataset, 4, seed=7, augment=Augment(1, True, 0.2))
        whole = list(batches.epoch(3))
        assert len(whole) == 3
        later = list(batches.epoch(3, start=1))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[1:], later, strict=True))
        assert not torch.equal(whole[0][0], next(batches.epoch(4))[0])
        shares = [list(dataclasses.replace(batches, rank=rank, world=2).epoch(3)) for rank in (0, 1)]
        for (x, y, n), (x0, y0, n0), (x1, y1, n1) in zip(whole, *shares, strict=True):
            assert n == n0 == n1
            assert torch.equal(x[0::2], x0)
            assert torch.equal(x[1::2], x1)
            assert torch.equal(y[0::2], y0)
            assert torch.equal(y[1::2], y1)


def test_bad_pictures_are_counted_and_their_places_taken() -> None:
    source = Contents()
    source.contents[1] = source.contents[2] = source.contents[8] = b"no picture"
    with pytest.raises(InputError, match=r"^picture 1: the image cannot be decoded \(it is no JPEG, PNG, "):
        made(source)[:4]
    with pytest.warns(UserWarning, match=r"^picture [128]: .*; another of its batch takes its place$"):
        images, labels = next(made(source, skip_bad=3).decoded([torch.tensor([0, 1, 2, 3, 8])]))
    assert levels(images) == [0, 3, 3, 3, 0]
    assert labels.tolist() == [0, 3, 3, 3, 0]
    some = made(source, skip_bad=1)
    with pytest.warns(UserWarning, match="picture 1"):
        some[:2]
    some[:2]  # the same one is not counted, nor warned of, again
    with pytest.raises(InputError, match=r"^picture 8: the image cannot be decoded"):
        some[6:]
    with (
        pytest.warns(UserWarning, match="picture 1"),
        pytest.raises(InputError, match=r"^every batch must hold an image that can be decoded: picture 1"),
    ):
        made(source, skip_bad=3)[1:2]


def folder(root: Path, count: int = 8) -> Path:
    rng = np.random.default_rng(0)
    for split, n in (("train", count), ("val", 3)):
        for label, name in enumerate(("n01440764", "n02102040")):
            (root / split / name).mkdir(parents=True)
            for k in range(n):
                pixels = rng.integers(0, 100, (30, 40, 3), dtype=np.uint8) + np.uint8(140 * label)
                Image.fromarray(pixels).save(root / split / name / f"{name}_{k}.JPEG")
    return root


def test_a_run_on_pictures_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    recipe = recipes.recipe("imagenet-90", "folder", epochs=2, batch_size=4, lr=0.01)
    config = TrainConfig(
        data="folder",
        data_dir=str(folder(tmp_path / "images")),
        in_memory=False,
        image_size=16,
        workers=1,
        model="resnet8:width=2",
        arm="unitized",
        split="validation",
        hold_out=0.25,
        recipe=recipe,
        threads=1,
    )
    stopped_and_resumed(config, tmp_path, steps=6)


def test_imagenet_is_whole_or_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    message = r"must have 1,281,167 and 50,000 images of 1,000 classes, got 16 and 6 of 2 in .*--no-in-memory$"
    with pytest.raises(InputError, match=message):
        data.load("imagenet", data_dir=tmp_path)


def test_files_are_listed_and_nothing_else(tmp_path: Path) -> None:
    folder(tmp_path, 2)
    os.mkfifo(tmp_path / "train" / "n01440764" / "pipe.png")  # opening it would wait for ever
    (tmp_path / "train" / "n01440764" / "below.png").mkdir()
    strange = os.fsencode(tmp_path / "train" / "n01440764") + b"/\xff\xfe.jpg"
    with open(strange, "wb") as file:
        file.write((tmp_path / "train" / "n01440764" / "n01440764_0.JPEG").read_bytes())
    train, test = folders.both(tmp_path)
    assert (len(train.labels), len(test.labels)) == (5, 6)
    with pictures.opened(*train.picture(2)) as image:
        assert image.size == (40, 30)


def test_decoded_once_each_has_its_place_whichever_thread_had_it() -> None:
    source = Contents(12)
    source.contents *= 5  # several tasks of each thread
    source.labels = torch.arange(60)
    source.contents[3] = source.contents[31] = source.contents[59] = b"no picture"
    kept = [k for k in range(60) if k not in (3, 31, 59)]
    with pytest.warns(UserWarning, match=r"^3 of 60 images of all were left out: picture 3: .*; picture 31: .*59: "):
        images, labels = pictures.once(source, "all", 8, skip_bad=3)
    assert images.shape == (57, 3, 8, 8)
    assert labels.tolist() == kept
    assert levels(images) == [k % 12 for k in kept]
    with pytest.raises(InputError, match=r"^picture 59: the image cannot be decoded"):
        pictures.once(source, "all", 8, skip_bad=2)
