"""Published corruptions as pictures in folders, the way ImageNet-C has them; as arrays: see `test_evaluate`."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from small import config

from icsbound._check import InputError
from icsbound.training import data, loop, published
from icsbound.training import evaluate as ev
from icsbound.training.evaluate import Conditions, evaluate
from icsbound.training.score import score


def save(pixels: torch.Tensor, folder: Path, label: int, number: int) -> None:
    place = folder / f"class{label}"
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(place / f"{number}.png")


@pytest.fixture
def corrupted(tmp_path: Path) -> Path:
    """Six test pictures as they are at severity 1, and darker at severity 2; a data set that they belong to beside."""
    for number, pixels in enumerate(torch.randint(256, (14, 16, 16, 3), dtype=torch.uint8)):
        save(pixels, tmp_path / "data" / ("train" if number < 8 else "val"), number % 2, number)
        if number >= 8:
            save(pixels, tmp_path / "PICTURES-C" / "fog" / "1", number % 2, number)
            save(pixels // 4, tmp_path / "PICTURES-C" / "fog" / "2", number % 2, number)
    return tmp_path / "PICTURES-C"


def test_pictures_of_a_severity_are_taken_as_they_are(corrupted: Path, tmp_path: Path) -> None:
    reading = {"data": "folder", "data_dir": str(tmp_path / "data"), "image_size": 16}
    loop.train(config(monitor=None, workers=0, recipe={"epochs": 1, "batch_size": 4}, **reading), tmp_path / "run")
    made, model, splits = ev.load(tmp_path / "run")
    conditions = Conditions(shifts=("none", "fog:1", "fog:2"), shift_dir=str(corrupted))
    lines = evaluate([tmp_path / "run"], tmp_path / "table", conditions)
    assert [(line.shift, line.severity) for line in lines] == [
        ("none", 0),
        ("PICTURES-C/fog", 1),
        ("PICTURES-C/fog", 2),
    ]
    images = splits.test.images[:]
    assert torch.equal(published.part(corrupted, "fog", 2, splits.test).images[:], images // 4)
    dark = dataclasses.replace(splits.test, images=images // 4)
    expected = score(model, dark, ev.normalization(made, splits.train))[1]
    assert [line.accuracy for line in lines] == [lines[0].accuracy, lines[0].accuracy, expected]


def test_pictures_that_do_not_fit_are_named(corrupted: Path, tmp_path: Path) -> None:
    test = data.load("folder", data_dir=tmp_path / "data", image_size=16).test
    assert published.names(corrupted) == ["fog"]
    with pytest.raises(InputError, match=r"^shift_dir must hold fog at severity 3, got '.*PICTURES-C'$"):
        published.part(corrupted, "fog", 3, test)
    grey = dataclasses.replace(test, images=test.images[:, :1])
    with pytest.raises(InputError, match=r"^shift_dir must hold arrays: pictures have 3 channels, and folder 1, got "):
        published.part(corrupted, "fog", 1, grey)
    (corrupted / "fog" / "2" / "class0" / "8.png").unlink()
    with pytest.raises(InputError, match=r"fog/2 must have as many labels of each class as the test part of folder$"):
        published.part(corrupted, "fog", 2, test)
    with pytest.raises(InputError, match=r"^shift_dir must be a folder with NAME\.npy .*, or NAME/SEVERITY/CLASS, as "):
        published.names(tmp_path / "data")
