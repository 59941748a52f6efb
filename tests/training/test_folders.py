from pathlib import Path

import numpy as np
import pytest
import torch

from icsbound._check import InputError
from icsbound.training import data, loop, recipes
from icsbound.training.config import TrainConfig

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of pictures of several shapes and formats, 12 for training and 4 for test."""
    rng = np.random.default_rng(0)
    data._in_memory.cache_clear()
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("dark", "light")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                shape = [(20, 20), (20, 37), (41, 20)][k % 3]
                pixels = rng.integers(0, 100, (*shape, 3), dtype=np.uint8) + np.uint8(140 * label)
                Image.fromarray(pixels).save(folder / f"{k:02}.{'png' if k % 2 else 'JPEG'}")
            (folder / "notes.txt").write_text("not a picture")
    return tmp_path


def test_pictures_become_squares_in_the_order_of_their_names(pictures: Path) -> None:
    splits = data.load("folder", data_dir=pictures, image_size=16)
    assert splits.train.images.shape == (12, 3, 16, 16)
    assert splits.test.images.shape == (4, 3, 16, 16)
    assert splits.train.labels.tolist() == [0] * 6 + [1] * 6
    assert splits.train.classes == 2
    assert float(splits.train.images[:6].double().mean()) < 100 < float(splits.train.images[6:].double().mean())


def test_a_picture_of_the_right_size_keeps_its_pixels(pictures: Path) -> None:
    images = data.load("folder", data_dir=pictures, image_size=20).train.images
    wide = np.asarray(Image.open(pictures / "train" / "dark" / "01.png"))  # 20 high and 37 wide: its middle
    assert torch.equal(images[1].permute(1, 2, 0), torch.from_numpy(wide[:, 8:28].copy()))


def test_a_network_trains_on_pictures(pictures: Path, tmp_path: Path) -> None:
    recipe = recipes.recipe("short", "folder", epochs=1, batch_size=4)
    assert recipe.flip
    made = TrainConfig(
        data="folder",
        data_dir=str(pictures),
        image_size=16,
        model="resnet8:width=2",
        arm="bn",
        recipe=recipe,
        threads=1,
    )
    assert loop.train(made, tmp_path / "run").step == 3


def test_names_what_is_wrong(pictures: Path) -> None:
    with pytest.raises(InputError, match=r"^data_dir must name the folder with the classes of images, got None$"):
        data.load("folder")
    with pytest.raises(InputError, match=r"^data_dir must hold a folder train of classes, got '.*light'$"):
        data.load("folder", data_dir=pictures / "train" / "light")
    broken = pictures / "train" / "light" / "03.png"
    broken.write_bytes(broken.read_bytes()[:200])
    data._in_memory.cache_clear()
    with pytest.raises(InputError, match=r"light/03.png: the image cannot be decoded \("):
        data.load("folder", data_dir=pictures, image_size=16)
    with pytest.warns(UserWarning, match=r"^1 of 12 images of the training part were left out: .*light/03.png"):
        assert len(data.load("folder", data_dir=pictures, image_size=16, skip_bad=1).train) == 11
    broken.unlink()
    (pictures / "val" / "grey").mkdir()
    data._in_memory.cache_clear()
    with pytest.raises(InputError, match=r"^data_dir must hold the same classes .*, got \['grey'\] in one alone$"):
        data.load("folder", data_dir=pictures, image_size=16)
