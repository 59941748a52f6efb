"""What a run is: every choice that changes its numbers, in one object that is saved first and compared on resuming."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from icsbound._check import InputError, fail, nearest, one_of, positive_int, real, shown
from icsbound.training import arms, checkpoint, data, foreign
from icsbound.training.pretrained import Pretrained
from icsbound.training.recipes import RECIPES, Recipe


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """The internal covariate shift to follow: on `probe` held-out images, every normalization layer, in each of
    `views`.

    The layers are captured before training and after `every` steps each, or where `every` is None at `captures` steps
    in all: step k of these is total·(k / captures)², so that they are dense at the start, where the network moves
    fastest. `picture` names the layer that is drawn; True: the last one, False: none.
    """

    probe: int = 256
    captures: int = 7
    every: int | None = None
    views: tuple[str, ...] = ("pooled", "sample")
    against: str = "previous"
    law: str = "eval"
    picture: bool | str = True

    def __post_init__(self) -> None:
        positive_int("probe", self.probe, 2)
        positive_int("captures", self.captures)
        if self.every is not None:
            positive_int("every", self.every)
        if not self.views:
            fail("views", "name at least one view", self.views)
        for view in self.views:
            one_of("views", view, ("sample", "pooled", "position", "projection"))
        one_of("against", self.against, ("previous", "first"))
        one_of("law", self.law, ("eval", "train", "frozen"))

    def schedule(self, steps: int) -> Callable[[int], bool]:
        """Whether the layers are captured after a given step of a run of `steps`."""
        if self.every is not None:
            every = self.every
            return lambda step: step % every == 0
        chosen = {round(steps * (k / self.captures) ** 2) for k in range(self.captures + 1)}
        return chosen.__contains__


DEVICES = ("auto", "cpu", "cuda", "mps")


def usable(device: str) -> str:
    """The device that "auto" stands for here, or `device` itself. Raises InputError where torch cannot use it."""
    one_of("device", device, DEVICES)
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = ("cuda" if has["cuda"] else "cpu") if device == "auto" else device
    if not has[device]:
        fail("device", "be one that torch can use here, " + " or ".join(d for d in has if has[d]), device)
    return device


# Not written where they are None, nor a monitor's picture where it is True and weights' `by_seed` where it is false:
# configs of before they existed stay what they were.
_WHERE_GIVEN = {"pretrained", "mean", "std"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. `standardize` brings each image to mean 0 and variance 1 by itself; else each channel's mean is taken
    off and the rest divided by its "std" or "variance" (`divide_by`). `mean` and `std`, a number a channel in units
    where pixel values are 0...1, say by which (None: by those of the training part).

    `split` is the part whose accuracy is reported; "validation" is held out of the training part first. `per_arm` names
    the values of the recipe that an arms file sets, for this or other arms of the same comparison (see `per_arm`).
    `pretrained` says which weights the run begins at (None: random ones). How pictures are read (`skip_bad` to
    `workers`) is told in `data.Reading`.

    `device` is auto, cpu, cuda or mps; `precision` is that of autocast (no, bf16, fp16), `dtype` that of the
    parameters (float32 or float64). `threads` are torch's on the CPU (None: as many as torch takes); they are part of
    a run because the order of a sum depends on them.
    """

    data: str = "digits"
    data_dir: str | None = None
    model: str = "resnet8"
    pretrained: Pretrained | None = None
    arm: str = "unitized"
    seed: int = 0
    recipe: Recipe = field(default_factory=lambda: RECIPES["short"])
    per_arm: tuple[str, ...] = ()
    dropout: float = 0.0
    standardize: bool = False
    divide_by: str = "std"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    split: str = "test"
    hold_out: float = 0.1
    device: str = "auto"
    precision: str = "no"
    dtype: str = "float32"
    channels_last: bool = True
    compile: bool = False
    skip_bad: int = 0
    image_size: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    in_memory: bool | None = None
    stream: bool = False
    workers: int | None = None
    threads: int | None = None
    monitor: MonitorConfig | None = None

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            fail("seed", "be an integer of at least 0", self.seed)
        arms.parse(self.arm)
        if not isinstance(self.recipe, Recipe):
            fail("recipe", "be a recipe", self.recipe)
        if not self.recipe.epochs and self.pretrained is None:
            fail("epochs", "be at least 1 where no weights are given to begin, and end, at", self.recipe.epochs)
        real("dropout", self.dropout, 0.0, 0.99)
        one_of("split", self.split, ("test", "validation"))
        real("hold_out", self.hold_out, 0.0, 0.9)
        if self.split == "validation" and not self.hold_out:
            fail("hold_out", "be above 0 to evaluate on the validation part", self.hold_out)
        one_of("device", self.device, DEVICES)
        one_of("precision", self.precision, ("no", "bf16", "fp16"))
        one_of("dtype", self.dtype, ("float32", "float64"))
        positive_int("skip_bad", self.skip_bad, 0)
        if self.image_size is not None:
            positive_int("image_size", self.image_size, 4)
        if self.workers is not None:
            positive_int("workers", self.workers, 0)
        if self.stream and self.in_memory:
            fail("in_memory", "be left out with stream, which keeps nothing", self.in_memory)
        one_of("divide_by", self.divide_by, ("std", "variance"))
        self._check_inputs()
        if self.threads is not None:
            positive_int("threads", self.threads)

    def _check_inputs(self) -> None:
        if self.mean is None and self.std is None:
            return
        if self.mean is None or self.std is None or len(self.mean) != len(self.std):
            fail("mean and std", "be given together, one number each for every channel", (self.mean, self.std))
        if self.standardize:
            fail("mean and std", "be left out with standardize, which uses neither", (self.mean, self.std))
        for value in self.mean:
            real("mean", value, 0.0, 1.0)
        for value in self.std:
            if real("std", value, 0.0, 1.0) == 0:
                fail("std", "be above 0 in every channel", self.std)

    @property
    def run(self) -> str:
        """The run's name, ARM-seedSEED."""
        return f"{self.arm}-seed{self.seed}"

    def resolved(self) -> TrainConfig:
        """This run with its device and image size settled, its data folder absolute, and the weights it begins at known
        by their hash.

        Raises InputError where torch cannot use the device asked for, and where there are no such weights.
        """
        known = self.shared()
        start = None if known.pretrained is None else known.pretrained.of(self.seed)
        return dataclasses.replace(known, pretrained=start)

    def shared(self) -> TrainConfig:
        """What is `resolved` of this run for every seed: all but weights of which each seed has its own."""
        folder = None if self.data_dir is None else str(Path(self.data_dir).expanduser().resolve())
        size = self.image_size
        if size is None and data.scaled(self.data):
            size = data.default_size(self.data)
        start = None if self.pretrained is None else self.pretrained.resolved()
        return dataclasses.replace(self, device=usable(self.device), data_dir=folder, image_size=size, pretrained=start)

    def to_dict(self) -> dict[str, Any]:
        """This run as plain values of JSON, without `pretrained`, `mean` and `std` where there are none."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        if self.monitor is not None and self.monitor.picture is True:
            del values["monitor"]["picture"]
        if self.pretrained is not None and not self.pretrained.by_seed:
            del values["pretrained"]["by_seed"]
        return {key: value for key, value in values.items() if value is not None or key not in _WHERE_GIVEN}

    def moved(self, data_dir: str | None = None, weights: str | None = None) -> TrainConfig:
        """This run with its data, and the weights that it begins at, where they lie now, if they moved."""
        start = self.pretrained
        if weights is not None:
            if start is None:
                fail("weights", "be left out with a run that begins at random ones", weights)
            start = dataclasses.replace(start, file=weights)
        return dataclasses.replace(self, data_dir=data_dir or self.data_dir, pretrained=start)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The run that `values` describe. Raises InputError for a field this version does not know."""
        if not isinstance(values, Mapping):
            fail("config", "be an object of names and values", values)
        values = dict(values)
        for key, inner in (("recipe", Recipe), ("monitor", MonitorConfig), ("pretrained", Pretrained)):
            if values.get(key) is not None:
                values[key] = _build(inner, values[key], key)
        built: TrainConfig = _build(cls, values, "config")
        return built

    @classmethod
    def load(cls, folder: str | Path, models: Sequence[str | None] = ()) -> TrainConfig:
        """The run that the ``config.json`` in `folder` describes.

        A folder may come from anywhere. A model in it that would import and call a function, or fetch something, must
        be one of `models`: those that the caller named.
        """
        config = cls.from_dict(read_json(Path(folder) / "config.json"))
        check_consent(folder, config.model, models)
        return config


def check_consent(folder: str | Path, text: str | None, given: Sequence[str | None], flag: str = "--model") -> None:
    """Raise InputError where the ``config.json`` in `folder` names code as `text` that is not among `given`."""
    if text is not None and foreign.needs_consent(text) and text not in given:
        raise InputError(
            f"{folder} names {text!r} in its config.json, which is code that would be run: if you trust it, name it "
            f"again by {flag}"
        )


def _build(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        fail(where, "be an object of names and values", values)
    check_fields(cls, values, where)
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError as error:
        raise InputError(f"{where} cannot be read: {error}") from None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What JSON has for a field's declared type. A config may come from anywhere, and a constructor checks values alone.
_IS: dict[str, Callable[[Any], bool]] = {
    "None": lambda v: v is None,
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": _number,
    "tuple[str, ...]": lambda v: isinstance(v, list | tuple) and all(isinstance(one, str) for one in v),
    "tuple[int, ...]": lambda v: isinstance(v, list | tuple) and all(_IS["int"](one) for one in v),
    "tuple[float, ...]": lambda v: isinstance(v, list | tuple) and all(map(_number, v)),
}


def check_fields(cls: Any, values: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless `values` are fields of the dataclass `cls`, those of plain types of their types."""
    types = {f.name: str(f.type).split(" | ") for f in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in types:
            raise InputError(f"{where} must hold fields of {cls.__name__}, got {shown(key)}{nearest(key, types)}")
        plain = [kind for kind in types[key] if kind in _IS]
        if len(plain) == len(types[key]) and not any(_IS[kind](value) for kind in plain):
            fail(f"{key} in {where}", f"be {' or '.join(types[key])}", value)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file at `path`."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} must be the folder of a run, and holds no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:  # the last for what is nested deeply
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        fail(str(path), "hold a JSON object", values)
    return values


# What may differ in a run that goes on: where its files lie.
PLACES = ("data_dir", "pretrained.file")


def refuse_another(folder: Path, values: dict[str, Any], free: tuple[str, ...] = ()) -> None:
    """Raise InputError, showing every difference, where `folder` holds a config other than `values`.

    Keys in `free` may differ (where the data lie).
    """
    path = folder / "config.json"
    if not path.exists():
        return
    changes = [
        f"{key}: {_show(was)} there, {_show(now)} here"
        for key, was, now in _differences(read_json(path), values)
        if key not in free
    ]
    if changes:
        raise InputError(f"{folder} holds another run and cannot go on as this one ({'; '.join(changes)})")


def claim(folder: Path, values: dict[str, Any]) -> None:
    """Write `values` as the ``config.json`` of `folder`, unless it has one (which `refuse_another` has compared)."""
    make(folder)
    path = folder / "config.json"
    if not path.exists():
        checkpoint.write(path, (json.dumps(values, indent=2) + "\n").encode())


def make(folder: Path) -> None:
    """Make the folder of a run's, and those above it, where they are missing. Raises InputError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out must be a folder that can be written, got {str(folder)!r}: {error.strerror}") from None


def _show(value: Any) -> str:
    return "nothing" if value is _MISSING else json.dumps(value)


_MISSING = object()


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(prefix, old, new)]
    found = []
    for key in sorted({*old, *new}):
        found += _differences(old.get(key, _MISSING), new.get(key, _MISSING), f"{prefix}.{key}" if prefix else key)
    return found
