"""Scalars of a training under way, to TensorBoard or any other tracker that Accelerate knows.

Loss and learning rate come every `EVERY` steps, accuracy, images a second and alpha after each epoch, the mean
scale-free shift of each view and the alpha of the layers at each capture of the monitor. TensorBoard files lie in the
run's folder; a run that goes on from step s takes back what was logged after s, so that no point appears twice. Other
trackers keep what they were sent.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icsbound import records
from icsbound._check import InputError, one_of
from icsbound.records import DistanceRecord, EpochRecord, LayerRecord
from icsbound.training.config import TrainConfig

EVERY = 10


def names() -> list[str]:
    """What `tracker` may be."""
    from accelerate import tracking

    return ["auto", "none", *map(str, tracking.LOGGER_TYPE_TO_CLASS)]


def chosen(name: str) -> str | None:
    """The tracker that `name` stands for, None for none. "auto" is TensorBoard where it is installed.

    Raises InputError for a tracker that is unknown or not installed.
    """
    if name == "none" or (name == "auto" and importlib.util.find_spec("tensorboard") is None):
        return None
    one_of("tracker", name, names())
    name = "tensorboard" if name == "auto" else name
    from accelerate import tracking

    if name not in [str(found) for found in tracking.get_available_trackers()]:
        extra = "pip install 'icsbound[track]'" if name == "tensorboard" else f"install {name}"
        raise InputError(f"tracker {name} must be installed; {extra}")
    return name


class Tracker:
    """A tracker of one run, which goes on from `step`."""

    def __init__(self, name: str, config: TrainConfig, out: Path, step: int) -> None:
        from accelerate import tracking

        kind: Any = tracking.LOGGER_TYPE_TO_CLASS[name]
        options: dict[str, Any] = {"logging_dir": str(out)} if kind.requires_logging_directory else {}
        if name == "tensorboard":
            options["purge_step"] = step + 1
        self._tracker: Any = kind("tensorboard" if name == "tensorboard" else config.run, **options)
        self._tracker.start()
        if name != "tensorboard":  # there config.json lies beside it
            self._tracker.store_init_configuration(config.to_dict())

    def step(self, step: int, loss: float | None, lr: float) -> None:
        """Tell of an optimizer step, where it is the turn of one."""
        if step % EVERY == 0:
            self._log(step, {"train/lr": lr} | ({} if loss is None else {"train/loss": loss}))

    def epoch(self, record: EpochRecord, model: nn.Module) -> None:
        """Tell of an epoch that is over."""
        values = {
            "epoch/train_loss": record.train_loss,
            "epoch/loss": record.loss,
            "epoch/accuracy": record.accuracy,
            "epoch/images_per_second": record.images_per_second,
        }
        alphas = [p.detach().flatten() for name, p in model.named_parameters() if name.endswith("alpha")]
        if alphas:
            alpha = torch.cat(alphas).double()
            values |= {f"alpha/{what}": float(getattr(alpha, what)()) for what in ("mean", "min", "max")}
        self._log(record.step, values)

    def captured(self, lines: Sequence[records.Record]) -> None:
        """Tell of what the monitor measured."""
        shifts: dict[tuple[int, str], list[float]] = defaultdict(list)
        alphas: dict[int, dict[str, float]] = defaultdict(dict)
        for line in lines:
            if isinstance(line, DistanceRecord) and line.scale_free is not None:
                shifts[line.step_b, line.view].append(line.scale_free)
            elif isinstance(line, LayerRecord) and line.alpha_mean is not None:
                alphas[line.step][f"alpha/{line.layer}"] = line.alpha_mean
        for (step, view), values in shifts.items():
            self._log(step, {f"ics/{view}": sum(values) / len(values)})
        for step, of_layers in alphas.items():
            self._log(step, of_layers)

    def close(self) -> None:
        """Write what is left and let go."""
        self._tracker.finish()

    def _log(self, step: int, values: dict[str, float]) -> None:
        self._tracker.log(values, step=step)
