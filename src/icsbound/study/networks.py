"""Trained networks for studies: small ones, trained on the digits by the one loop, or finished runs of the user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from icsbound._check import InputError
from icsbound.measure.capture import Settings, snapshot
from icsbound.measure.collector import Snapshot
from icsbound.norm.modules import UnitizedBatchNorm
from icsbound.study.setting import Setting
from icsbound.training import checkpoint, data, loop, pool, recipes, seeds, weights
from icsbound.training.compare import folder_name
from icsbound.training.config import MonitorConfig, TrainConfig
from icsbound.training.evaluate import finished_below
from icsbound.training.pretrained import Pretrained
from icsbound.training.session import begun, load_splits, network, normalization

PROBE = 256
MODEL = "resnet8:width=8"
Wanted: TypeAlias = Sequence[str] | Callable[[int], Sequence[str]]
MONITOR: dict[str, Any] = {"probe": 64, "captures": 7, "views": ("pooled",)}


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, its config, and the images it is measured on."""

    folder: Path
    config: TrainConfig

    @property
    def arm(self) -> str:
        """What the run is called in a study: its arm, and the factor of alpha's learning rate where it has one."""
        factor = self.config.recipe.alpha_lr_factor
        return self.config.arm if factor == 1 else f"{self.config.arm}, alpha's rate × {factor:g}"

    def splits(self) -> data.Splits:
        return load_splits(self.config)

    def normalize(self) -> data.Normalize:
        return normalization(self.config, self.splits().train)

    def probe(self, n: int = PROBE) -> data.Dataset:
        """n held-out images, the same for every run of one seed."""
        part = self.splits().part(self.config.split)
        order = seeds.permutation(len(part), self.config.seed, "probe")
        return part.take(order[:n])

    def inputs(self, n: int = PROBE) -> Tensor:
        """The probe as the network takes it."""
        return self.normalize()(decoded(self.probe(n))[0])

    def network(self, path: Path | None = None) -> nn.Module:
        """The network with the weights in `path`, by default the final ones, in evaluation mode."""
        path = self.folder / "model.safetensors" if path is None else path
        made = network(self.config, self.splits().train).to(self._dtype)
        return weights.fill(made, weights.read(path), path)

    def untrained(self) -> nn.Module:
        """The network as it began, in evaluation mode."""
        return begun(self.config, self.splits().train).to(self._dtype).eval()

    def start_at_end_of_alpha(self) -> Path:
        """A file beside the run: the weights that it began at, but for each channel's alpha, which is as it ended."""
        path = self.folder / "start-at-end-of-alpha.safetensors"
        if not path.exists():
            start, end = self.untrained(), self.network()
            for name, layer in end.named_modules():
                if isinstance(layer, UnitizedBatchNorm):
                    start.get_submodule(name).get_parameter("alpha").data.copy_(layer.clamped_alpha())
            checkpoint.write_model(path, start.state_dict())
        return path

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.config.dtype)
        return dtype

    def states(self) -> Iterator[tuple[int, nn.Module]]:
        """Step and network of every state that is kept: untrained, snapshots, final."""
        yield 0, self.untrained()
        result = loop.finished(self.folder)
        assert result is not None
        kept = {int(p.stem.split("-")[1]): p for p in (self.folder / "snapshots").glob("step-*.safetensors")}
        kept.setdefault(result.step, self.folder / "model.safetensors")
        for step, path in sorted(kept.items()):
            yield step, self.network(path)


def decoded(part: data.Dataset) -> tuple[Tensor, Tensor]:
    """All images of `part`, which may lie in files, and their labels."""
    images, labels = zip(*part.portions(250), strict=True)
    return torch.cat(images), torch.cat(labels)


def clouds(
    model: nn.Module, inputs: Tensor, views: Sequence[str], side: str = "outputs", law: str = "eval"
) -> Snapshot:
    """What the normalization layers of `model` put out, or are given, on `inputs`; one batch under law "train"."""
    dtype = next(model.parameters()).dtype
    return snapshot(model, inputs.to(dtype), None, views, Settings(side=side, law=law, batch_size=len(inputs)))


def trained(setting: Setting, wanted: Wanted, seed: int) -> list[Trained]:
    """A run of each arm in `wanted` at `seed`: found among the user's where a folder of such is given, else trained.

    `wanted` is names of arms, or a function that gives them for a seed.

    ``ARM*FACTOR`` trains ARM with alpha's learning rate times FACTOR, and ``ARM<OTHER`` begins each channel's alpha
    where that of OTHER ended, which is trained already. Those of the setting's other seeds are trained beside it, which
    keeps all cores at work. Of the user's runs the first of each arm and seed counts; an arm that is not among them is
    left out. Raises InputError where there is none at all.
    """
    names = wanted if callable(wanted) else lambda _: wanted
    if setting.runs is not None:
        return _found(setting.runs, [arm for arm in names(seed) if not set("*<") & set(arm)], seed)
    tasks = [_task(setting, name, seed) for name in names(seed)]
    others = [_task(setting, name, other) for other in setting.seeds if other != seed for name in names(other)]
    waiting = [task for task in (*tasks, *others) if loop.finished(task.out) is None]
    if waiting:
        pool.run(waiting, jobs=setting.jobs, progress=setting.progress, again="the same command with --resume")
    return [Trained(task.out, task.config.resolved()) for task in tasks]


def arms_in(folder: Path) -> dict[str, set[int]]:
    """The arms of the finished runs in `folder`, itself or one level below, each with its seeds."""
    found: dict[str, set[int]] = {}
    for path in finished_below(folder):
        config = TrainConfig.load(path)
        found.setdefault(config.arm, set()).add(config.seed)
    return found


def _task(setting: Setting, name: str, seed: int) -> pool.Task:
    begun, _, other = name.partition("<")
    arm, _, factor = begun.partition("*")
    # Small batches: enough steps in little time.
    recipe = recipes.recipe(epochs=6 if setting.full else 2, batch_size=20, alpha_lr_factor=float(factor or 1))
    config = TrainConfig(
        model=MODEL,
        arm=arm,
        seed=seed,
        recipe=recipe,
        threads=1,
        device="cpu",
        monitor=MonitorConfig(**MONITOR),
    )
    if other:
        source = Trained(_folder(setting, other, seed), config)
        config = dataclasses.replace(config, pretrained=Pretrained(file=str(source.start_at_end_of_alpha())))
    return pool.Task(config, _folder(setting, name, seed), snapshots=1)


def _folder(setting: Setting, name: str, seed: int) -> Path:
    return setting.networks / folder_name(f"{name}-seed{seed}")


def _found(folder: Path, wanted: Sequence[str], seed: int) -> list[Trained]:
    runs: dict[str, Trained] = {}
    for path in finished_below(folder):
        config = TrainConfig.load(path)
        if config.seed == seed and config.arm in wanted:
            runs.setdefault(config.arm, Trained(path, config))
    if not runs:
        raise InputError(
            f"runs must hold finished runs of {' or '.join(wanted)} at seed {seed}, in itself or one level below, got "
            f"none in {str(folder)!r}"
        )
    return [runs[arm] for arm in wanted if arm in runs]
