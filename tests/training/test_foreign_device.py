"""Training draws and builds on the CPU, whatever device torch has as its default.

With "meta" as the default, a tensor of which no device was said holds no values, and a CPU generator cannot fill it.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import config, few_digits

from icsbound.training import arms, crops, data, loop, models, seeds
from icsbound.training.batches import Augment, Batches
from icsbound.training.config import MonitorConfig
from icsbound.training.evaluate import Conditions, evaluate


def test_a_run_and_its_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    recipe = {"epochs": 1, "ema": 0.9, "shift": 0.1, "flip": True, "clip_norm": 1.0}
    made = config(
        arm="unitized:alpha_drawn=(0.2, 0.8)",
        split="validation",
        monitor=MonitorConfig(probe=12, captures=1),
        recipe=recipe,
    )
    conditions = Conditions(shifts=("none", "contrast:3"), recalibrate=20, augment=True, eval_batch=8, by_label=True)

    def trained(name: str) -> tuple[bytes, list[float]]:
        loop.train(made, tmp_path / name)
        lines = evaluate([tmp_path / name], tmp_path / f"{name}-table", conditions)
        return (tmp_path / name / "model.safetensors").read_bytes(), [line.accuracy for line in lines]

    plain = trained("plain")
    with torch.device("meta"):
        assert trained("meta") == plain


def test_pictures_and_crops(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    for part in ("train", "val"):
        for number in range(6):
            path = tmp_path / part / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels + np.uint8(number)).save(path)

    def seen(in_memory: bool) -> list[torch.Tensor]:
        parts = data.load("folder", data_dir=tmp_path, image_size=8, in_memory=in_memory, workers=0, hold_out=0.4)
        mean = data.Normalize.of(parts.train).mean
        batches = Batches(parts.train, 2, 0, Augment(1, True, 0.5)).epoch(1)
        portions = parts.test.portions(4)
        boxes = crops.boxes(5, 20, 30, 0.1, 4 / 3, seeds.generator(0, "boxes"))
        return [mean, boxes, *(t for images, labels, _ in batches for t in (images, labels)), *(x for x, _ in portions)]

    for in_memory in (True, False):
        plain = seen(in_memory)
        with torch.device("meta"):
            there = seen(in_memory)
        assert len(plain) == len(there)
        assert all(map(torch.equal, plain, there))


@pytest.mark.parametrize("name", ["resnet8:width=2", "nets:tiny"])
@pytest.mark.parametrize("arm", ["bn", "unitized", "gn:group_size=2"])
def test_networks(name: str, arm: str) -> None:
    def state() -> dict[str, torch.Tensor]:
        made = models.network(name, arms.parse(arm), classes=3, channels=1, size=8, seed=1)
        return made.state_dict()

    plain = state()
    with torch.device("meta"):
        there = state()
    assert plain.keys() == there.keys()
    assert all(torch.equal(value, there[key]) for key, value in plain.items())
