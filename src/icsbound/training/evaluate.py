"""Finished runs off the distribution they were trained on: shifted inputs, changed weights, and the known remedies
against both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from icsbound._check import InputError, fail, one_of, positive_int, real
from icsbound.norm import mixed_statistics
from icsbound.training import data, devices, loop, published, results, seeds
from icsbound.training.config import TrainConfig, make, usable
from icsbound.training.corruptions import CORRUPTIONS, corrupt
from icsbound.training.perturb import perturb
from icsbound.training.progress import Event, Progress, quiet
from icsbound.training.remedies import AS_THEY_ARE, batch_statistics, recalibrate
from icsbound.training.score import score
from icsbound.training.session import augmentation, in_channels_last, load_splits, network, normalization

_KEPT = 2**30  # bytes of shifted images that are kept from one run to the next

Scored: TypeAlias = Callable[[str, int], tuple[float, int]]  # corruption and severity -> accuracy, number of images


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under what a finished run is evaluated.

    shifts: names of corruptions, each with ``:SEVERITY`` or at all five; "none"; "all" for every corruption.
        Corruptions are made anew from the test images (see `corruptions`), or with shift_dir taken from that folder
        of published ones (see `published`), and then bear its name: ``CIFAR-10-C/fog``.
    perturb: what is done to the weights (see `perturb`): "none", "prune:FRACTION", "quantize:BITS", "average:RUN",
        "average:snapshots", "average:snapshots:LAST" or "alpha:VALUE".
    recalibrate: stored statistics are estimated anew on so many clean training images (0: not), after the weights
        changed; with `augment` on images shifted, mirrored and cropped at random as in the run's training, which is
        what its weights are used to.
    eval_batch: images are normalized by the statistics of test batches of so many (0: stored statistics), in random
        order or `by_label`, sorted by class.
    mix: the share of the image's own statistics in each layer's (0: none).
    standardize: each image to mean 0 and variance 1 before the network.
    seed: fixes corruptions, orders and draws, so that all runs see the same.
    """

    shifts: tuple[str, ...] = ("none",)
    shift_dir: str | None = None
    perturb: str = "none"
    recalibrate: int = 0
    augment: bool = False
    eval_batch: int = 0
    by_label: bool = False
    mix: float = 0.0
    standardize: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.cases()
        positive_int("seed", self.seed, 0)
        positive_int("recalibrate", self.recalibrate, 0)
        positive_int("eval_batch", self.eval_batch, 0)
        real("mix", self.mix, 0.0, 1.0)
        if self.mix and self.eval_batch:
            fail("mix", "be 0 with an eval_batch, which leaves no stored statistics to mix with", self.mix)
        if self.augment and not self.recalibrate:
            fail("augment", "come with recalibrate: images that are classified stay as they are", self.augment)
        if self.by_label and not self.eval_batch:
            fail("by_label", "come with an eval_batch: stored statistics know no order", self.by_label)

    def cases(self) -> list[tuple[str, int]]:
        """Every (corruption, severity), ("none", 0) for clean images."""
        found: list[tuple[str, int]] = []
        known = list(CORRUPTIONS) if self.shift_dir is None else published.names(self.shift_dir)
        for text in self.shifts:
            name, colon, severity = text.partition(":")
            if text == "none":
                found.append(("none", 0))
                continue
            names = known if name == "all" else [one_of("shift", name, [*known, "none", "all"])]
            if colon and severity not in ("1", "2", "3", "4", "5"):
                fail("severity", "be 1, 2, 3, 4 or 5", severity)
            found += [(name, level) for name in names for level in ([int(severity)] if colon else range(1, 6))]
        if not found or len(set(found)) < len(found):
            fail("shifts", "name at least one, each once", self.shifts)
        return found

    def shift_name(self, shift: str) -> str:
        """What shifts the input, for the table: published images by the name of their folder too."""
        if self.shift_dir is None or shift == "none":
            return shift
        return f"{Path(self.shift_dir).expanduser().resolve().name}/{shift}"

    def perturbation(self) -> str:
        """What is done to the weights, for the table: another run by the name of its folder, not where it lies."""
        kind, _, value = self.perturb.partition(":")
        return f"average:{Path(value).name}" if kind == "average" else self.perturb

    def remedy(self) -> str:
        """What is done against the shift, and by which draws where not those of seed 0, for the table."""
        parts = [f"recalibrate:{self.recalibrate}"] if self.recalibrate else []
        parts += ["augment"] if self.augment else []
        parts += [f"mix:{self.mix:g}"] if self.mix else []
        parts += ["standardize"] if self.standardize else []
        parts += ["by-label"] if self.by_label else []
        # Without it other draws would count as measured already.
        parts += [f"shift-seed:{self.seed}"] if self.seed else []
        return "+".join(parts) or "none"


def refuse_unfinished(run: Path) -> None:
    """Raise InputError unless the folder `run` is that of a finished run."""
    if loop.finished(run) is None:
        raise InputError(f"{run} must be the folder of a finished run; icsbound train --resume {run} finishes it")


def weights(run: Path) -> dict[str, Tensor]:
    """The parameters and buffers that the finished run in folder `run` left."""
    import safetensors.torch

    refuse_unfinished(run)
    try:
        return safetensors.torch.load_file(run / "model.safetensors")
    except Exception as error:  # safetensors raises an exception of its own for a damaged file
        raise InputError(f"{run / 'model.safetensors'} cannot be read: {error}") from None


def load(
    run: str | Path, *, data_dir: str | Path | None = None, model: str | None = None
) -> tuple[TrainConfig, nn.Module, data.Splits]:
    """The config, trained network (in evaluation mode) and data of the finished run in folder `run`; its model is to be
    named again by `model` where it is code (see `TrainConfig.load`).
    """
    run = Path(run)
    config = TrainConfig.load(run, (model,))
    state = weights(run)
    splits = load_splits(config if data_dir is None else dataclasses.replace(config, data_dir=str(data_dir)))
    made = network(config, splits.train).to(getattr(torch, config.dtype))
    try:
        made.load_state_dict(state)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"{run / 'model.safetensors'} does not fit the network of config.json: {text}") from None
    return config, made.eval(), splits


def evaluate(
    runs: Sequence[str | Path],
    out: str | Path,
    conditions: Conditions,
    *,
    setting: str = "evaluate",
    phase: str = "explore",
    data_dir: str | Path | None = None,
    model: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress = quiet,
) -> list[results.Line]:
    """The accuracy of each finished run in `runs` under every case of `conditions`, one line each in
    ``out/results.jsonl``.

    A line is written as soon as it is measured, and what the table holds already is not measured again. The part
    evaluated is that of the run's own `split`, and `device` that which the run was trained on, unless it names another
    ("auto", "cpu", "cuda" or "mps"). Raises InputError, before anything is written, for a run that is not finished, for
    one whose model is code and not named again by `model`, and for a device that torch cannot use here.
    """
    out = Path(out)
    configs = [(Path(folder), _checked(Path(folder), conditions, model, device)) for folder in runs]
    table = out / "results.jsonl"
    known = {line.key: line for line in results.read(table)}
    lines: list[results.Line] = []
    cases = conditions.cases()
    shifted = _Shifted(conditions, len(configs))
    with devices.threads(threads):
        for folder, config in configs:
            scored: Scored | None = None
            for number, case in enumerate(cases, 1):
                line = _asked(config, case, conditions, setting, phase)
                if line.key not in known:
                    # Not before: data and network of a run of which all is known are not even read.
                    scored = scored or _prepared(folder, out, conditions, shifted, config.device, data_dir, model)
                    started = time.perf_counter()
                    accuracy, images = scored(*case)
                    seconds = time.perf_counter() - started
                    known[line.key] = dataclasses.replace(line, accuracy=accuracy, images=images, seconds=seconds)
                    results.append(table, known[line.key])
                lines.append(known[line.key])
                progress(Event(folder.name, number, len(cases), accuracy=lines[-1].accuracy, unit="evaluations"))
    return lines


def _asked(
    config: TrainConfig, case: tuple[str, int], conditions: Conditions, setting: str, phase: str
) -> results.Line:
    """The line of a case, before it is measured."""
    shift, severity = case
    return results.of_run(
        config,
        setting,
        phase,
        shift=conditions.shift_name(shift),
        severity=severity,
        perturbation=conditions.perturbation(),
        remedy=conditions.remedy(),
        eval_batch=conditions.eval_batch,
        accuracy=0.0,
        seconds=0.0,
        versions=devices.versions(),
    )


def _prepared(
    run: Path,
    out: Path,
    conditions: Conditions,
    shifted: _Shifted,
    device: str,
    data_dir: str | Path | None,
    model: str | None,
) -> Scored:
    """What scores the run under a case, once its weights are changed and its statistics estimated anew as asked."""
    config, network, splits = load(run, data_dir=data_dir, model=model)
    normalize = normalization(config, splits.train, conditions.standardize)
    clean = splits.part(config.split)
    perturb(network, conditions.perturb, run)
    network = network.to(device)
    if config.channels_last:  # as it was trained; convolutions on a CPU take less time so
        network = in_channels_last(network)
    make(out)  # now that nothing is left to be refused
    if conditions.recalibrate:
        augment = augmentation(config.recipe, splits.train) if conditions.augment else AS_THEY_ARE
        recalibrate(network, splits.train, normalize, conditions.recalibrate, seed=conditions.seed, augment=augment)

    def scored(shift: str, severity: int) -> tuple[float, int]:
        part = shifted.part(clean, shift, severity)
        return _score(network, part, normalize, conditions), len(part)

    return scored


def _checked(run: Path, conditions: Conditions, model: str | None, device: str | None) -> TrainConfig:
    """The run's config, with the device that it is evaluated on. Refuses what need not be built to be seen: a run that
    is not finished, is code, or does not go with the shift, and a device that is not here.
    """
    config = TrainConfig.load(run, (model,))
    refuse_unfinished(run)
    if conditions.shift_dir is not None and config.split != "test":
        fail("shift_dir", "go with runs whose split is 'test': published images are test images", config.split)
    try:
        return dataclasses.replace(config, device=usable(device or config.device))
    except InputError as error:
        more = "" if device else f", where {run} was trained; --device names another to evaluate it on"
        raise InputError(f"{error}{more}") from None


class _Shifted:
    """The part that a run is evaluated on under every shift. Where several runs are evaluated on the same images, what
    became of these is kept for the runs after, up to `_KEPT` bytes.
    """

    def __init__(self, conditions: Conditions, runs: int) -> None:
        self._conditions = conditions
        self._room = _KEPT if runs > 1 else 0
        self._of: object = None
        self._images = torch.empty(0)
        self._made: dict[tuple[str, int], Tensor] = {}

    def part(self, clean: data.Dataset, shift: str, severity: int) -> data.Dataset:
        if shift == "none":
            return clean
        if self._conditions.shift_dir is not None:
            return published.part(self._conditions.shift_dir, shift, severity, clean)
        if clean.images is not self._of:
            # Pictures that are not kept in memory are decoded once for all corruptions.
            self._of, self._images, self._made = clean.images, clean.images[:], {}
        images = self._made.get((shift, severity))
        if images is None:
            images = corrupt(self._images, shift, severity, self._conditions.seed)
            if sum(one.nbytes for one in self._made.values()) + images.nbytes <= self._room:
                self._made[shift, severity] = images
        return dataclasses.replace(clean, images=images)


def _score(model: nn.Module, part: data.Dataset, normalize: data.Normalize, conditions: Conditions) -> float:
    dtype = next(model.parameters()).dtype
    if not conditions.eval_batch:
        with mixed_statistics(model, conditions.mix) if conditions.mix else contextlib.nullcontext():
            return score(model, part, normalize, dtype)[1]
    order = seeds.permutation(len(part), conditions.seed, "test order")
    if conditions.by_label:
        order = order[part.labels[order].argsort(stable=True)]
    with batch_statistics(model):
        return score(model, part.take(order), normalize, dtype, conditions.eval_batch, keep_mode=True)[1]


def finished_below(folder: str | Path) -> Iterator[Path]:
    """The finished runs in `folder`, itself or one level below, in the order of their names."""
    folder = Path(folder)
    for path in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if loop.finished(path) is not None:
            yield path
