"""How a network is trained: every value of a recipe is a field, none hides in the loop.

Learning rates are functions of the step alone, so that a resumed run needs no state of a schedule.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from icsbound._check import fail, nearest, one_of, positive_int, real


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with momentum, its schedule, and what is done to images and parameters.

    `lr` is the largest learning rate, come to linearly from 0 over the share `warmup` of all steps. ``one-cycle``: then
    along a cosine to 0. ``steps``: then constant, multiplied by `factors[k]` from epoch `milestones[k]` on. Alpha
    learns at `lr` times `alpha_lr_factor`. Weight decay reaches the weights of convolutions and linear layers; biases
    and the parameters of normalization layers (alpha, gamma, beta) only if `decay_all`.

    The gradient of a step is summed over `accumulate` parts of its batch, each normalized by its own statistics. With
    `ema` = d > 0 the network that is evaluated and saved is the running average a ← d·a + (1 - d)·w of weights and
    statistics.

    In training, with `crop_scale` > 0, images are random-resized crops: of that share of the area or more, sides in a
    ratio of at most `crop_ratio` (see `crops`). Then they are shifted by up to the share `shift` of their width, and
    mirrored if `flip`. In evaluation the middle is taken of `eval_crop` of a picture's shorter side.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_all: bool = False
    alpha_lr_factor: float = 1.0
    schedule: str = "one-cycle"
    warmup: float = 0.25
    milestones: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float = 0.0
    shift: float = 0.0
    flip: bool = False
    crop_scale: float = 0.0
    crop_ratio: float = 4 / 3
    eval_crop: float = 1.0

    def __post_init__(self) -> None:
        positive_int("epochs", self.epochs, 0)
        positive_int("batch_size", self.batch_size)
        positive_int("accumulate", self.accumulate)
        if self.accumulate > 1 and self.batch_size < 2 * self.accumulate:
            fail(
                "accumulate",
                f"leave at least 2 of the {self.batch_size} images of a batch to each part",
                self.accumulate,
            )
        for name, high in (("lr", math.inf), ("weight_decay", math.inf), ("alpha_lr_factor", math.inf)):
            real(name, getattr(self, name), 0.0, high)
        for name in ("momentum", "warmup", "label_smoothing", "shift", "ema", "crop_scale"):
            real(name, getattr(self, name), 0.0, 1.0)
        real("crop_ratio", self.crop_ratio, 1.0)
        real("eval_crop", self.eval_crop, 0.01, 1.0)
        if self.clip_norm is not None:
            real("clip_norm", self.clip_norm, 0.0)
        if self.nesterov and not self.momentum:
            fail("momentum", "be above 0 with nesterov", self.momentum)
        for name in ("nesterov", "decay_all", "flip"):
            if not isinstance(getattr(self, name), bool):
                fail(name, "be true or false", getattr(self, name))
        one_of("schedule", self.schedule, ("one-cycle", "steps"))
        for epoch in self.milestones:
            positive_int("milestones", epoch, 0)
        for factor in self.factors:
            real("factors", factor, 0.0)
        if len(self.milestones) != len(self.factors) or sorted(self.milestones) != list(self.milestones):
            fail("milestones", "rise and be as many as factors", (self.milestones, self.factors))

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of optimizer step `step` = 0, 1, ..., epochs·steps_per_epoch - 1."""
        total = self.epochs * steps_per_epoch
        up = self.warmup * total
        if step + 1 < up:
            return self.lr * (step + 1) / up
        if self.schedule == "steps":
            passed = bisect.bisect_right(self.milestones, step // steps_per_epoch)
            return self.lr * (self.factors[passed - 1] if passed else 1.0)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * (step + 1 - up) / (total + 1 - up)))


# `short`: a one-cycle budget for a CPU. `published`: what the paper's public code does on CIFAR. `imagenet-90`: what
# residual networks are commonly trained by on ImageNet (with resnet50 and images of 224×224: 76 % in the literature).
RECIPES: dict[str, Recipe] = {
    # Batch, rate, epochs and shift were chosen for all arms alike on a fifth of the training digits, held out for that.
    "short": Recipe(name="short", epochs=5, batch_size=32, lr=0.1, shift=0.04),
    "published": Recipe(
        name="published",
        epochs=200,
        batch_size=128,
        lr=0.05,
        schedule="steps",
        warmup=0.0,
        milestones=(60, 120, 160),
        factors=(0.2, 0.04, 0.008),
        shift=0.125,
        flip=True,
    ),
    "imagenet-90": Recipe(
        name="imagenet-90",
        epochs=90,
        batch_size=256,
        lr=0.1,
        nesterov=False,
        weight_decay=1e-4,
        schedule="steps",
        warmup=0.0,
        milestones=(30, 60, 80),
        factors=(0.1, 0.01, 0.001),
        flip=True,
        crop_scale=0.08,
        eval_crop=0.875,
    ),
}
# Where a data set needs other values than the digits: photographs are mirrored, digits never are.
_FOR_DATA: dict[tuple[str, str], dict[str, Any]] = {
    ("short", name): {"batch_size": 128, "shift": 0.125, "flip": True}
    for name in ("cifar10", "cifar100", "imagenet", "folder", "hub")
}


def recipe(name: str = "short", data: str = "digits", **changes: Any) -> Recipe:
    """The recipe called `name` as it is for data set `data`, with `changes` to its fields."""
    if name not in RECIPES:
        fail("recipe", "be one of " + ", ".join(RECIPES), name, nearest(name, RECIPES))
    names = {f.name for f in dataclasses.fields(Recipe)} - {"name"}
    for key in changes:
        if key not in names:
            fail("a setting of the recipe", "be one of " + ", ".join(sorted(names)), key, nearest(key, names))
    return dataclasses.replace(RECIPES[name], **{**_FOR_DATA.get((name, data.partition(":")[0]), {}), **changes})


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """`model`'s trainable parameters as groups for an optimizer, with `weight_decay` and `lr_factor` each, in a fixed
    order.
    """
    groups: dict[str, list[nn.Parameter]] = {"weights": [], "rest": [], "alpha": []}
    for name, parameter in _named(model):
        kind = "alpha" if name.endswith("alpha") else "weights" if parameter.ndim > 1 else "rest"
        groups[kind].append(parameter)
    return [
        {
            "params": parameters,
            "lr": 0.0,
            "lr_factor": recipe.alpha_lr_factor if kind == "alpha" else 1.0,
            "weight_decay": recipe.weight_decay if kind == "weights" or recipe.decay_all else 0.0,
        }
        for kind, parameters in groups.items()
        if parameters
    ]


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
