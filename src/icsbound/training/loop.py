"""The one training loop: resumable at any step, with the same weights and records as if it had never stopped.

Nothing in a run depends on hidden state. The order and augmentation of a batch are fixed by seed and epoch, a step's
dropout by seed and step, the learning rate by the step alone; a checkpoint therefore needs only the step, the model,
the optimizer, the monitor's last capture, the running sum of the epoch's loss and how far the records had been
written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icsbound import _version, records
from icsbound._check import InputError, fail, positive_int
from icsbound.measure.monitor import ICSMonitor
from icsbound.training import arms, checkpoint, data, devices, interrupts, models, recipes, seeds
from icsbound.training.config import TrainConfig, claim
from icsbound.training.progress import Event, Progress, quiet

# On an accelerator, reading the loss waits for the device; there it is read once in so many steps.
_READ_LOSS_EVERY = 20
# A checkpoint holds the monitor's last capture, which may be large; short epochs need not write one each.
_SAVE_AFTER = 15.0  # seconds


class Diverged(RuntimeError):
    """Training met a loss or parameter that is not finite; the message names the step and the layer."""


# What a run may fail with for reasons that a sentence explains; anything else is a defect.
EXPECTED = (InputError, Diverged)


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    progress: Progress = quiet,
    checkpoint_every: int | None = None,
    keep: int = 2,
    stop: Callable[[], bool] = lambda: False,
) -> records.ResultRecord:
    """Train as `config` says in folder `out`, or go on where an earlier call was stopped; returns the result.

    `out` receives ``config.json`` first, then ``records.jsonl``, ``checkpoints/`` and last ``model.safetensors``.
    Checkpoints are written every `checkpoint_every` steps, or where that is None at the end of an epoch that comes 15
    seconds after the last one; the newest `keep` stay until the run is finished. A finished folder is left untouched
    and its result returned.

    Ctrl-C, SIGTERM or a true `stop()` end the run after the step under way with a checkpoint, by KeyboardInterrupt
    (SIGTERM: SystemExit 143). Raises InputError for a folder that holds another run, and `Diverged` where the loss is
    not finite.
    """
    out = Path(out)
    config = config.resolved()
    if checkpoint_every is not None:
        positive_int("checkpoint_every", checkpoint_every)
    positive_int("keep", keep)
    if (out / "config.json").exists():
        claim(out, config.to_dict(), free=("data_dir",))
        done = finished(out)
        if done is not None:
            progress(Event(config.run, done.step, done.step, done.loss, done.accuracy))
            return done
    accelerator = devices.accelerator(config.device, config.precision)
    with devices.threads(config.threads), interrupts.Interrupts() as signals:
        run = _Run(config, out, accelerator, progress, keep)  # refuses what cannot be trained, before a file is written
        claim(out, config.to_dict(), free=("data_dir",))
        with interrupts.only_here(out) if run.main else contextlib.nullcontext(), run:
            result = run.go(checkpoint_every, lambda: signals.caught, stop)
    if (
        signals.caught is not None
    ):  # while the last step was under way: the run is whole, and whoever called still has to stop
        _leave(signals.caught, f"{config.run} is finished")
    return result


def check(config: TrainConfig) -> None:
    """Raise the InputError that `train` would raise for `config` before its first step; write nothing."""
    config = config.resolved()
    _Run(config, Path(), devices.accelerator(config.device, config.precision), quiet, keep=1)


def _leave(caught: signal.Signals | None, text: str) -> NoReturn:
    if caught == signal.SIGTERM:
        raise SystemExit(128 + signal.SIGTERM)
    raise KeyboardInterrupt(text)


def resume(out: str | Path, *, data_dir: str | None = None, **options: Any) -> records.ResultRecord:
    """Go on with the run in folder `out`; `data_dir` says where its data lie now, if they moved; `options` as for
    `train`.
    """
    config = TrainConfig.load(out)
    return train(config if data_dir is None else dataclasses.replace(config, data_dir=data_dir), out, **options)


def finished(out: str | Path) -> records.ResultRecord | None:
    """The result of the run in folder `out`, or None where it is not finished."""
    path = Path(out) / "records.jsonl"
    if not path.exists() or not (Path(out) / "model.safetensors").exists():
        return None
    last = path.read_bytes().rsplit(b"\n", 2)[-2:]  # the last line ends with a newline, or it was cut off
    if len(last) < 2 or last[1] or b'"kind": "result"' not in last[0]:
        return None
    result = records.read(path)[-1]
    return result if isinstance(result, records.ResultRecord) else None


def evaluate(
    model: nn.Module, dataset: data.Dataset, normalize: data.Normalize, dtype: torch.dtype, batch_size: int = 500
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `model` with stored statistics on all of `dataset`; leaves the model's mode
    as it was.
    """
    was_training = model.training
    model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(dataset), batch_size):
            labels = dataset.labels[start : start + batch_size]
            logits = model(normalize(dataset.images[start : start + batch_size], dtype)).double()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
    model.train(was_training)
    return loss / len(dataset), right / len(dataset)


def peak_memory() -> int:
    """The largest resident memory of this process so far, bytes; 0 on a system that does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on."""
    return {
        "icsbound": _version.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


class _Run:
    """One run in one process: its data, model and optimizer, and where it stands."""

    def __init__(self, config: TrainConfig, out: Path, accelerator: Any, progress: Progress, keep: int) -> None:
        self.config, self.out, self.accelerator, self.progress, self.keep = config, out, accelerator, progress, keep
        self.main: bool = accelerator.is_main_process
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        recipe = config.recipe
        device = accelerator.device

        hold_out = config.hold_out if config.split == "validation" else 0.0
        splits = data.load(config.data, config.seed, data_dir=config.data_dir, hold_out=hold_out)
        self.normalize = data.Normalize.of(splits.train)
        self.held_out = _to(splits.part(config.split), device)
        width = splits.train.images.shape[-1]
        self.batches = data.Batches(
            _to(splits.train, device),
            recipe.batch_size,
            config.seed,
            data.Augment(round(recipe.shift * width), recipe.flip),
            accelerator.process_index,
            accelerator.num_processes,
        )
        self.steps_per_epoch = len(self.batches)
        self.steps = recipe.epochs * self.steps_per_epoch

        model = models.build(
            config.model,
            classes=splits.train.classes,
            channels=splits.train.images.shape[1],
            norm=arms.parse(config.arm).make,
            seed=config.seed,
            dropout=config.dropout,
        ).to(self.dtype)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(
            recipes.parameter_groups(model, recipe), lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.plain: nn.Module = accelerator.unwrap_model(self.model)  # without the wrapper of a process group
        self.monitor = self._monitor() if self.main and config.monitor is not None else None

        self.step = 0
        self.seconds = 0.0
        self.loss_sum, self.loss_count = 0.0, 0  # of the epoch under way
        self.last: tuple[float, float] | None = None  # loss and accuracy after the last epoch
        self._started = self._saved = time.perf_counter()
        self._unread: list[Tensor] = []  # sum and count of the losses of steps self._read + 1, ...
        self._read = 0
        self._writer: records.Writer | None = None

    def _monitor(self) -> ICSMonitor:
        config = self.config.monitor
        assert config is not None
        if config.probe > len(self.held_out):
            fail("probe", f"be at most the {len(self.held_out)} images of the {self.config.split} part", config.probe)
        order = torch.randperm(len(self.held_out), generator=seeds.generator(self.config.seed, "probe"))
        probe = self.normalize(self.held_out.images[order[: config.probe]], self.dtype)
        return ICSMonitor(
            self.plain,
            probe,
            run=self.config.run,
            every=config.schedule(self.steps),
            views=config.views,
            against=config.against,
            law=config.law,
        )

    # -- files
    # ------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> _Run:
        offset = self._restore()
        if self.main:
            self._writer = records.Writer(self.out / "records.jsonl", offset=offset)
        if not offset:
            self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, *lines: records.Record) -> None:
        if self._writer is not None:
            for line in lines:
                self._writer.write(line)

    def _begin(self) -> None:
        config = self.config
        self._write(
            records.RunRecord(
                run=config.run,
                arm=config.arm,
                seed=config.seed,
                dataset=config.data,
                model=config.model,
                parameters=sum(p.numel() for p in self.plain.parameters()),
                train_size=len(self.batches.dataset),
                evaluation_size=len(self.held_out),
                split=config.split,
                epochs=config.recipe.epochs,
                steps=self.steps,
                batch_size=config.recipe.batch_size,
                device=config.device,
                versions=versions(),
            )
        )
        self._watch()

    def _restore(self) -> int:
        """Load the newest sound checkpoint; returns how far the records had been written then, 0 where none is."""
        for path, state in checkpoint.newest(self.out / "checkpoints"):
            if isinstance(state, InputError):
                self._note(f"{state}; the checkpoint before it is taken instead")
                continue
            self.plain.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.accelerator.scaler is not None and state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            if self.monitor is not None:
                self.monitor.load_state_dict(state["monitor"])
            self.step, self.seconds = state["step"], state["seconds"]
            self._read = self.step
            self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]
            self.last = None if state["last"] is None else (state["last"][0], state["last"][1])
            self._note(f"goes on from {path.name}, step {self.step} of {self.steps}")
            offset: int = state["offset"]
            return offset
        return 0

    def _save(self) -> None:
        """Write a checkpoint of the step just taken, unless there is one."""
        self._read_losses()
        for name, value in (*self.plain.named_parameters(), *self.plain.named_buffers()):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                self._diverged(f"{name} holds a value that is not finite")
        if self._writer is None:
            return
        self._writer.sync()
        scaler = self.accelerator.scaler
        state = {
            "model": self.plain.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
            "step": self.step,
            "seconds": self.seconds + time.perf_counter() - self._started,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "last": self.last,
            "offset": self._writer.offset,
        }
        checkpoint.save(self.out / "checkpoints", self.step, state, self.keep)
        self._saved = time.perf_counter()

    def _note(self, text: str) -> None:
        if self.main:
            self.progress(Event(self.config.run, self.step, self.steps, note=text))

    # -- training
    # ---------------------------------------------------------------------------------------------------------

    def go(
        self, checkpoint_every: int | None, signaled: Callable[[], signal.Signals | None], stop: Callable[[], bool]
    ) -> records.ResultRecord:
        """Take the steps that are left, then write the model and the result."""
        self.model.train()
        self._started = self._saved = time.perf_counter()
        while self.step < self.steps:
            epoch, start = divmod(self.step, self.steps_per_epoch)
            began, first = time.perf_counter(), self.step
            for images, labels, whole in self.batches.epoch(epoch, start):
                loss = self._step(images, labels, whole)
                self.step += 1
                self._watch()
                ends_epoch = self.step % self.steps_per_epoch == 0
                if ends_epoch:
                    self._end_epoch(epoch, time.perf_counter() - began, self.step - first)
                halt = self._agreed(signaled() is not None or stop()) and self.step < self.steps
                if halt or self._due(checkpoint_every, ends_epoch):
                    self._save()
                if halt:
                    self._halt(signaled())
                if self.main:
                    self.progress(Event(self.config.run, self.step, self.steps, loss, self.last and self.last[1]))
        return self._finish()

    def _step(self, images: Tensor, labels: Tensor, whole: int) -> float | None:
        """One optimizer step; returns the batch's mean loss where it was read."""
        config, recipe = self.config, self.config.recipe
        torch.manual_seed(seeds.number(config.seed, "dropout", self.step, self.accelerator.process_index))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(self.step, self.steps_per_epoch) * group["lr_factor"]
        inputs = self.normalize(images, self.dtype)
        if config.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        total = F.cross_entropy(self.model(inputs), labels, reduction="sum", label_smoothing=recipe.label_smoothing)
        # Processes hold unequal shares of a short batch, and gradients are averaged over processes: the weight makes
        # the result the gradient of the whole batch's mean.
        loss = total * (self.accelerator.num_processes / whole)
        self._unread.append(torch.stack((total.detach().double(), torch.full_like(total, len(labels)).double())))
        device_type = self.accelerator.device.type
        mean = self._read_losses() if device_type == "cpu" or len(self._unread) >= _READ_LOSS_EVERY else None
        self.accelerator.backward(loss)
        if recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return mean

    def _read_losses(self) -> float | None:
        """Add the losses not yet read to the epoch's sum; returns the newest batch's mean. Raises `Diverged` where
        one is not finite.
        """
        if not self._unread:
            return None
        table = self.accelerator.reduce(torch.stack(self._unread), "sum").tolist()
        self._unread.clear()
        for total, count in table:
            self._read += 1
            if not math.isfinite(total):
                self._diverged(f"the loss is {total}", self._read)
            self.loss_sum += total
            self.loss_count += int(count)
        return float(table[-1][0] / table[-1][1])

    def _diverged(self, what: str, step: int | None = None) -> NoReturn:
        """Raise `Diverged`, naming the first layer whose output on the training images is not finite."""
        step = self.step if step is None else step
        names: list[str] = []
        handles = [
            module.register_forward_hook(
                lambda _m, _i, output, name=name: None if bool(torch.isfinite(output).all()) else names.append(name)
            )
            for name, module in self.plain.named_modules()
            if not any(module.children())
        ]
        with torch.no_grad():
            self.plain(self.normalize(self.batches.dataset.images[:64], self.dtype))
        for handle in handles:
            handle.remove()
        layer = (
            f"the first layer with an output that is not finite is {names[0]!r}"
            if names
            else "all layers' outputs are finite"
        )
        good = next((path.name for path in checkpoint.paths(self.out / "checkpoints")), None)
        state = f"the last good state is checkpoints/{good}" if good else "no checkpoint had been written before"
        raise Diverged(
            f"{self.config.run} diverged at step {step} of {self.steps}: {what}; {layer}; {state}; "
            f"a smaller lr than {self.config.recipe.lr:g} may help"
        )

    def _watch(self) -> None:
        if self.monitor is not None:
            self._write(*self.monitor.step(self.step))

    def _end_epoch(self, epoch: int, seconds: float, steps: int) -> None:
        self._read_losses()
        loss, accuracy = evaluate(self.plain, self.held_out, self.normalize, self.dtype)
        if not math.isfinite(loss):
            self._diverged(f"the loss on the {self.config.split} part is {loss}")
        self.last = (loss, accuracy)
        self._write(
            records.EpochRecord(
                run=self.config.run,
                epoch=epoch,
                step=self.step,
                train_loss=self.loss_sum / self.loss_count,
                loss=loss,
                accuracy=accuracy,
                seconds=self.seconds + time.perf_counter() - self._started,
                images_per_second=steps * self.config.recipe.batch_size / seconds,
            )
        )
        self.loss_sum, self.loss_count = 0.0, 0

    def _due(self, checkpoint_every: int | None, ends_epoch: bool) -> bool:
        if checkpoint_every is not None:
            return self.step % checkpoint_every == 0
        return ends_epoch and time.perf_counter() - self._saved > _SAVE_AFTER

    def _agreed(self, halt: bool) -> bool:
        """Whether any process wants to halt, so that all do after the same step."""
        if self.accelerator.num_processes == 1:
            return halt
        flag = torch.tensor([float(halt)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _halt(self, caught: signal.Signals | None) -> NoReturn:
        text = f"stopped after step {self.step} of {self.steps}; go on with: icsbound train --resume {self.out}"
        if caught == signal.SIGTERM:  # a process that is told to end says so; Ctrl-C is answered by the message below
            self._note(text)
        _leave(caught, f"{self.config.run} {text}")

    def _finish(self) -> records.ResultRecord:
        loss, accuracy = self.last or evaluate(self.plain, self.held_out, self.normalize, self.dtype)
        result = records.ResultRecord(
            run=self.config.run,
            step=self.step,
            split=self.config.split,
            accuracy=accuracy,
            loss=loss,
            seconds=self.seconds + time.perf_counter() - self._started,
            peak_memory=peak_memory(),
        )
        if self._writer is not None:
            import safetensors.torch

            tensors = {name: value.cpu().contiguous() for name, value in self.plain.state_dict().items()}
            checkpoint.write(self.out / "model.safetensors", safetensors.torch.save(tensors, {"format": "pt"}))
            self._write(result)
            self._writer.sync()
            checkpoint.clear(self.out / "checkpoints")
        self.accelerator.wait_for_everyone()
        return result


def _to(dataset: data.Dataset, device: torch.device) -> data.Dataset:
    return dataclasses.replace(dataset, images=dataset.images.to(device), labels=dataset.labels.to(device))
