"""Scalars of a training under way, to TensorBoard or any other tracker that Accelerate knows.

Loss and learning rate come every `EVERY` steps, accuracy, images a second and alpha after each epoch, the mean
scale-free shift of each view and the alpha of the layers at each capture of the monitor. TensorBoard files lie in the
run's folder; a run that goes on from step s takes back what was logged after s, so that no point appears twice. Other
trackers keep what they were sent: ``tracker-NAME.jsonl`` in the folder has the points that one was told, so that a run
that goes on, and meets them again with the same values, leaves them out; and the tracker's own name for the run, by
which it goes on in the same one.
"""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
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


# How a tracker is told which of its runs to go on in: by an id that it is given from the start,
_GIVEN: dict[str, Callable[[str], dict[str, Any]]] = {
    "wandb": lambda run: {"id": run, "resume": "allow"},
    "swanlab": lambda run: {"id": run, "resume": "allow"},
    "comet_ml": lambda run: {"experiment_key": run},
    "trackio": lambda run: {"name": run, "resume": "allow"},
}
# or by one of its own, which it is asked for (the option that takes it, and where it stands).
_ASKED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "mlflow": ("run_id", lambda tracker: tracker.active_run.info.run_id),
    "aim": ("run_hash", lambda tracker: tracker.writer.hash),
    "clearml": ("continue_last_task", lambda tracker: tracker.task.id),
}


class Told:
    """What a tracker was told of a run, in the file at `path`: a line with the tracker's name for the run, then one a
    point. A point under way when the process was killed may be told again; a line cut short is taken back.
    """

    def __init__(self, path: Path) -> None:
        self.run: str | None = None
        self._points: set[tuple[int, str]] = set()
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            for line in map(json.loads, whole.splitlines()):
                self.run = line.get("run", self.run)
                self._points |= {(line["step"], name) for name in line.get("values", ())}
                if not isinstance(self.run, str | None):
                    raise TypeError(f"{self.run!r} is no name of a run")
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{path} must hold what a tracker was told, one JSON object a line: {error}") from None
        self.begun = bool(whole)
        self._file = open(path, "ab")  # noqa: SIM115  # open as long as the run is under way
        self._file.truncate(len(whole))

    def begin(self, run: str | None) -> None:
        """Note the tracker's name for a run that begins."""
        self.run = run
        self._write({"run": run})

    def fresh(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """Those of `values` that were not told yet."""
        return {name: value for name, value in values.items() if (step, name) not in self._points}

    def add(self, step: int, values: dict[str, float]) -> None:
        """Note that `values` have been told."""
        self._write({"step": step, "values": list(values)})

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


class Tracker:
    """A tracker of one run, which goes on from `step`."""

    def __init__(self, name: str, config: TrainConfig, out: Path, step: int) -> None:
        from accelerate import tracking

        kind: Any = tracking.LOGGER_TYPE_TO_CLASS[name]
        options: dict[str, Any] = {"logging_dir": str(out)} if kind.requires_logging_directory else {}
        self._told: Told | None = None
        if name == "tensorboard":  # it can take points back, and config.json lies beside it
            self._tracker: Any = kind(name, **options, purge_step=step + 1)
            self._tracker.start()
            return
        self._told = told = Told(out / f"tracker-{name}.jsonl")
        begun, run = told.begun, told.run
        if name in _GIVEN:
            run = run or uuid.uuid4().hex
            options |= _GIVEN[name](run)
        elif name in _ASKED and run is not None:
            options[_ASKED[name][0]] = run
        self._tracker = kind(config.run, **options)
        self._tracker.start()
        if not begun:
            self._tracker.store_init_configuration(config.to_dict())
            told.begin(_ASKED[name][1](self._tracker) if name in _ASKED else run)

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
        if self._told is not None:
            self._told.close()

    def _log(self, step: int, values: dict[str, float]) -> None:
        if self._told is None:
            self._tracker.log(values, step=step)
        elif new := self._told.fresh(step, values):
            self._tracker.log(new, step=step)
            self._told.add(step, new)
