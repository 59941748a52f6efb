"""What a measurement compares: states of networks, from files and runs, on probes from data sets.

===========================  =========================================================================================
checkpoints                  states, by step
===========================  =========================================================================================
a file and a file            0: the first, 1: the second; the network is named by `model`
a run and a run              0 and 1, each the finished network of a run's folder, built as its config.json says
one run                      every state that is kept of its training, and the untrained network, which the seed gives
one file or run, and data_b  0: on `data`; 1, 2 ...: the same weights on each of `data_b`
===========================  =========================================================================================
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icsbound._check import InputError, fail, is_text, one_of, positive_int, real
from icsbound.measure import laws, picture, views
from icsbound.measure.capture import Probe, Settings, snapshot
from icsbound.measure.collector import NeverRan, Snapshot
from icsbound.measure.cost import refuse_large_probe
from icsbound.measure.store import NAMES, refuse_too_much
from icsbound.training import arms, data, loop, models, seeds, spec, weights
from icsbound.training.config import TrainConfig, check_fields, usable
from icsbound.training.corruptions import corrupt
from icsbound.training.session import begun, load_splits, network, normalization

FEW = 8  # inputs on which a measurement is tried before it begins


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is measured: see the table above for `checkpoints`, one or two paths of files or runs' folders.

    model: of files, ``pkg.module:factory`` (called without arguments, returns the network) or a name with settings
        as in a training, with the normalization `arm`. None for runs, whose config.json says it.
    data: a data set's name (None: the run's own), alone or with a corruption, as in
        ``digits:shift=contrast,severity=3``, or ``pkg.module:function``, which is given n and returns n inputs as
        `icsbound.capture` takes them.
    data_b: other data for the same weights. Inputs are prepared as for the data of the run, or else `data`.
    layers: names and patterns; none: every normalization layer.
    probe: how many held-out inputs; at least 8, and some tens for the verdicts' normal approximation to hold.
    batch_size: inputs a pass; under law "train" also what the statistics are taken over, and under "frozen" the
        number of training inputs that give them.
    seed: fixes the choice of the probe, and the split of digits where no run has one (None: the run's own, 0 for
        files).
    rate: the share of false ones allowed among all "moved" verdicts.
    smallest: what a verdict takes for a shift, in units of a layer's spread in the first state; 0: any.
    picture: the layer that is drawn, in the first view (None: the last).
    dtype: how outputs are kept, such as "float16" for half of the memory; None: as layers give them.
    """

    checkpoints: tuple[str, ...]
    model: str | None = None
    arm: str = "bn"
    data: str | None = None
    data_dir: str | None = None
    data_b: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    views: tuple[str, ...] = ("pooled", "sample")
    side: str = "outputs"
    law: str = "eval"
    probe: int = 512
    batch_size: int = 256
    seed: int | None = None
    rate: float = 0.05
    smallest: float = 0.0
    picture: str | None = None
    dtype: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= len(self.checkpoints) <= 2:
            fail("checkpoints", "be one or two files or runs", self.checkpoints)
        if self.data_b and len(self.checkpoints) == 2:
            fail("data_b", "come with one checkpoint, whose layers it compares on several data sets", self.data_b)
        if len(set(self.data_b)) < len(self.data_b):
            fail("data_b", "name each data set once", self.data_b)
        for view in self.views:
            one_of("view", view, views.VIEWS)
        if not self.views:
            fail("views", "name at least one view", self.views)
        one_of("side", self.side, ("outputs", "inputs"))
        one_of("law", self.law, laws.LAWS)
        positive_int("probe", self.probe, 8)
        positive_int("batch_size", self.batch_size)
        if self.seed is not None:
            positive_int("seed", self.seed, 0)
        real("rate", self.rate, 0.0, 1.0)
        real("smallest", self.smallest, 0.0)
        if self.dtype is not None:
            one_of("dtype", self.dtype, NAMES)
        arms.parse(self.arm)

    def to_dict(self) -> dict[str, Any]:
        """This measurement as plain values of JSON, without `picture` where none is named."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.picture is None:  # configs of before it existed stay what they were
            del values["picture"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MeasureConfig:
        """The measurement that `values` describe."""
        check_fields(cls, values, "config")
        try:
            given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
            return cls(**given)
        except TypeError as error:
            raise InputError(f"config.json must be that of a measurement: {error}") from None


@dataclass(frozen=True)
class State:
    """A network with the weights of a file, on some data."""

    step: int
    path: Path | None  # None: untrained
    run: Path | None  # the folder whose config.json says what the network is; None: the measurement says it
    data: str | None  # None: the run's own


@dataclass(frozen=True)
class Pair:
    """Two states to compare, and the name that the records of their distances bear."""

    run: str
    a: State
    b: State


class States:
    """All states of one measurement, and how to capture them. Raises InputError for whatever cannot be measured.

    memory, spill: where the clouds of each state may lie, as for `icsbound.capture`.
    """

    def __init__(
        self, config: MeasureConfig, memory: int | None = None, spill: str | os.PathLike[str] | None = None
    ) -> None:
        if memory is not None:
            positive_int("memory", memory)
        self._room: dict[str, Any] = {"memory": memory, "spill": spill}
        first = Path(config.checkpoints[0])
        self.home = TrainConfig.load(first, (config.model,)) if first.is_dir() else None  # says how inputs are prepared
        if self.home is not None:
            self.home = _moved(self.home, config.data_dir)
        if config.data is None and self.home is None:
            fail("data", f"name the probe's data set ({', '.join(data.DATASETS)}, or pkg.module:function)", None)
        seed = (self.home.seed if self.home else 0) if config.seed is None else config.seed
        paths = tuple(str(Path(path).expanduser().resolve()) for path in config.checkpoints)
        folder = config.data_dir and str(Path(config.data_dir).expanduser().resolve())
        device = usable(config.device)
        self.config = dataclasses.replace(config, checkpoints=paths, seed=seed, data_dir=folder, device=device)
        self.pairs = _pairs(self.config, self.home)
        for pair in self.pairs:
            if not is_text(pair.run):
                fail("checkpoints", "have names that can be shown", pair.run)
        self._probes: dict[str | None, tuple[Probe, Tensor | None]] = {}
        # Data that are not in memory would be listed anew for every state.
        self._splits = functools.lru_cache(maxsize=2)(load_splits)
        for pair in self.pairs:
            self._inputs(pair.b.data)
        ends = (self.pairs[0].a, self.pairs[-1].b)  # a run's states between them have the same network
        tried = [self._tried(state) for state in ends]
        _same_layers(ends[1].step, *tried)
        if config.picture is not None:
            picture.check(config.picture, [layer for layer, view in tried[0].clouds if view == config.views[0]])
        if fewest := [len(cloud) for one in tried for cloud in one.clouds.values() if len(cloud) < FEW]:
            fail("data", f"be a function that returns {config.probe} inputs when asked for them", min(fewest))
        refuse_large_probe(config.probe, (cloud.shape[1] for one in tried for cloud in one.clouds.values()))
        if spill is None:
            refuse_too_much({k: config.probe * c[0].nbytes for k, c in tried[0].clouds.items()}, config.probe, memory)

    def _tried(self, state: State) -> Snapshot:
        """What `capture` gives for the first few inputs; for all, where these do not reach a layer, an expert's say."""
        try:
            return self.capture(state, FEW)
        except NeverRan:
            return self.capture(state, self.config.probe)

    def files(self) -> dict[str, str]:
        """SHA-256 of every file of weights, by its name: a measurement that goes on must find the same."""
        paths = dict.fromkeys(s.path for pair in self.pairs for s in (pair.a, pair.b) if s.path is not None)
        return {f"{number}: {path.name}": weights.digest(path) for number, path in enumerate(paths)}

    def capture(self, state: State, most: int | None = None) -> Snapshot:
        """The clouds of every chosen layer in `state`, in every view; with `most`, of so many inputs at most."""
        config, model = self.config, self.network(state)
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        probe, statistics = self._inputs(state.data)
        settings = Settings(
            side=config.side,
            law=config.law,
            batch_size=config.batch_size,
            statistics=None if statistics is None else _placed(statistics, config.device, dtype),
            dtype=None if config.dtype is None else getattr(torch, config.dtype),
            **(self._room if most is None else {"spill": self._room["spill"]}),
        )
        placed: Probe = _placed(probe, config.device, dtype, most)
        try:
            return snapshot(model, placed, config.layers or None, config.views, settings)
        except RuntimeError as error:
            if most is None:
                raise
            raise InputError(f"model must run on the probe: {error}") from None

    def network(self, state: State) -> nn.Module:
        """The network of `state` in evaluation mode, on the device of the measurement."""
        config = self.config
        if state.run is not None:
            own = _moved(TrainConfig.load(state.run, (config.model,)), config.data_dir)
            made = begun if state.path is None else network
            model = made(own, self._splits(own).train).to(getattr(torch, own.dtype))
        elif config.model is None:
            fail("model", "be given for files of weights, as pkg.module:factory or as in a training", None)
        elif weights.is_import(config.model):
            made = weights.called("model", config.model)
            if not isinstance(made, nn.Module):
                fail("model", "be a function that returns a torch.nn.Module", made)
            model = made
        else:
            assert config.data is not None
            if weights.is_import(config.data):
                fail("model", "be pkg.module:factory where the data are a function's", config.model)
            train = _load(config.data, self.home, config).train
            _, channels, _, size = train.images.shape
            arm = arms.parse(config.arm)
            model = models.network(config.model, arm, classes=train.classes, channels=channels, size=size)
        if state.path is not None:
            model = weights.fill(model, weights.read(state.path), state.path)
        return model.to(config.device).eval()

    def _inputs(self, text: str | None) -> tuple[Probe, Tensor | None]:
        """The probe from the data `text`, and the batch that gives the statistics of law "frozen"."""
        if text not in self._probes:
            self._probes[text] = self._drawn(text)
        return self._probes[text]

    def _drawn(self, text: str | None) -> tuple[Probe, Tensor | None]:
        config, n = self.config, self.config.probe
        if text is not None and weights.is_import(text):
            if config.law == "frozen":
                fail("law", "be 'eval' or 'train' with data from a function, which have no training part", config.law)
            probe: Probe = weights.called("data", text, n)
            return probe, None
        splits = _load(text, self.home, config)
        part = splits.part(self.home.split) if self.home and _own(text, self.home) else splits.test
        if n > len(part):
            fail("probe", f"be at most the {len(part)} held-out images of {part.name}", n)
        assert config.seed is not None
        order = seeds.permutation(len(part), config.seed, "probe")
        images = _corrupted(text, part.images[order[:n]], config.seed)
        normalize = self._normalize()
        if images.shape[1] != len(normalize.mean):
            fail("data_b", f"have images of {len(normalize.mean)} channels, as the network was made for", text)
        statistics = None
        if config.law == "frozen":
            order = seeds.permutation(len(splits.train), config.seed, "statistics")
            batch = _corrupted(text, splits.train.images[order[: config.batch_size]], config.seed)
            statistics = normalize(batch)
        return normalize(images), statistics

    def _normalize(self) -> data.Normalize:
        """How images become inputs of the network: as in its training, or by the training part of `data`."""
        if self.home is not None:
            return normalization(self.home, self._splits(self.home).train)
        assert self.config.data is not None
        if weights.is_import(self.config.data):
            fail("data_b", "be a function too where data is one, so that both prepare their inputs alike", "a data set")
        return data.Normalize.of(_load(self.config.data, None, self.config).train)


def _pairs(config: MeasureConfig, home: TrainConfig | None) -> list[Pair]:
    first = Path(config.checkpoints[0])
    if config.data_b:
        path, run = _weights_of(first)
        base = State(0, path, run, config.data)
        others = [State(step, path, run, text) for step, text in enumerate(config.data_b, 1)]
        return [Pair(str(other.data), base, other) for other in others]
    if len(config.checkpoints) == 2:
        second = Path(config.checkpoints[1])
        a, b = (State(step, *_weights_of(path), config.data) for step, path in enumerate((first, second)))
        names = (first.name, second.name)
        if names[0] == names[1]:
            names = (f"{first.parent.name}/{names[0]}", f"{second.parent.name}/{names[1]}")
        return [Pair(f"{names[1]} against {names[0]}", a, b)]
    if home is None:
        fail("checkpoints", "be two, or one with data_b, or the folder of a run", str(first))
    steps = _kept(first, home)
    if len(steps) < 2:
        raise InputError(
            f"{first} must hold states of its training to compare, got none; icsbound train --snapshots 1 keeps one "
            "an epoch"
        )
    states = [State(step, path, first, config.data) for step, path in sorted(steps.items())]
    return [Pair(home.run, a, b) for a, b in itertools.pairwise(states)]


def _kept(run: Path, home: TrainConfig) -> dict[int, Path | None]:
    """Step -> weights of every state that is kept of the training in the folder `run`; None for the untrained one."""
    found: dict[int, Path | None] = {0: None}
    kept = list((run / "snapshots").glob("step-*.safetensors"))
    if not home.recipe.ema:  # else a checkpoint's weights are not those of the average, which snapshots hold
        kept = [*(run / "checkpoints").glob("step-*.pt"), *kept]
    for path in kept:  # a snapshot comes before a checkpoint of the same step, since it stays
        if match := re.fullmatch(r"step-(\d{9})\.(pt|safetensors)", path.name):
            found[int(match[1])] = path
    result = loop.finished(run)
    if result is not None:
        found.setdefault(result.step, run / "model.safetensors")
    return found


def _weights_of(path: Path) -> tuple[Path, Path | None]:
    """The file of weights that `path` stands for, and the run that it belongs to."""
    if not path.is_dir():
        return path, None
    if loop.finished(path) is None:
        raise InputError(f"{path} must be the folder of a finished run; icsbound train --resume {path} finishes it")
    return path / "model.safetensors", path


def _moved(run: TrainConfig, data_dir: str | None) -> TrainConfig:
    """`run` with its data where they lie now."""
    return run if data_dir is None else dataclasses.replace(run, data_dir=data_dir)


def _own(text: str | None, home: TrainConfig) -> bool:
    return text is None or spec.split("data", text)[0] == home.data


def _load(text: str | None, home: TrainConfig | None, config: MeasureConfig) -> data.Splits:
    """The splits of the data set in `text`; the run's own as its training split them."""
    if home is not None and _own(text, home):
        return load_splits(home)
    assert text is not None
    assert config.seed is not None
    return data.load(spec.split("data", text)[0], config.seed, data_dir=config.data_dir)


def _corrupted(text: str | None, images: Tensor, seed: int) -> Tensor:
    name, settings = spec.split("data", text) if text is not None else ("", {})
    for key in settings:
        if key not in ("shift", "severity"):
            fail(f"a setting of data {name!r}", "be shift or severity", key)
    if not settings:
        return images
    return corrupt(images, str(settings.get("shift")), settings.get("severity", 3), seed)


def _placed(probe: Any, device: str, dtype: torch.dtype | None, most: int | None = None) -> Any:
    """The tensors of `probe`, of `most` inputs at most, on `device`, those of floating point in `dtype`."""
    if isinstance(probe, Tensor):
        return probe[:most].to(device, dtype if probe.is_floating_point() else None)
    if isinstance(probe, dict):
        return {key: _placed(value, device, dtype, most) for key, value in probe.items()}
    if isinstance(probe, tuple | list):
        return [_placed(value, device, dtype, most) for value in probe]
    return probe


def _same_layers(step: int, a: Snapshot, b: Snapshot) -> None:
    """Raise InputError unless both states, of step 0 and `step`, have the same layers with as many values each."""
    only = sorted({layer for layer, _ in a.clouds.keys() ^ b.clouds.keys()})
    if only:
        names = ", ".join(map(repr, only))
        raise InputError(f"layers must run in the states of step 0 and {step}, got {names} in only one of them")
    for (layer, view), cloud in a.clouds.items():
        other = b.clouds[layer, view]
        if cloud.shape != other.shape:
            raise InputError(
                f"layer {layer!r} must have equally many values in the states of step 0 and {step}, got "
                f"{cloud.shape[1]} and {other.shape[1]}"
            )
