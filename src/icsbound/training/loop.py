"""The one training loop: resumable at any step, with the same weights and records as if it had never stopped.

Nothing in a run depends on hidden state. The order and augmentation of a batch are fixed by seed and epoch, a step's
dropout by seed and step, the learning rate by the step alone; a checkpoint therefore needs only the step, the model,
the optimizer, the monitor's last capture, the running sum of the epoch's loss and how far the records had been
written.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from icsbound import records
from icsbound._check import InputError, fail, positive_int, real
from icsbound.training import checkpoint, devices, interrupts, seeds, tracking
from icsbound.training.config import PLACES, TrainConfig, claim, refuse_another
from icsbound.training.journal import Journal
from icsbound.training.profile import Profile
from icsbound.training.progress import Event, Progress, quiet
from icsbound.training.session import Session
from icsbound.training.snapshots import Snapshots

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
    snapshots: int | str | None = None,
    tracker: str = "none",
    profile: bool = False,
    stop: Callable[[], bool] = lambda: False,
    patience: float = 5.0,
) -> records.ResultRecord:
    """Train as `config` says in folder `out`, or go on where an earlier call was stopped; returns the result.

    `out` receives ``config.json`` first, then ``records.jsonl``, ``checkpoints/`` and last ``model.safetensors``.
    Checkpoints are written every `checkpoint_every` steps, or where that is None at the end of an epoch that comes
    15 seconds after the last one; the newest `keep` stay until the run is finished. Every `snapshots` epochs, or
    with "50steps" every 50 steps, the network is kept as ``snapshots/step-STEP.safetensors``, and where a
    validation part is held out, that of the epoch with the highest accuracy on it, as ``best.safetensors`` (never
    by the test part). `tracker` receives scalars (see `tracking`); `profile` says in ``profile/`` where the time of
    a step goes (see `profile`). A finished folder is left untouched and its result returned.

    Ctrl-C, SIGTERM or a true `stop()` end the run after the step under way with a checkpoint, by KeyboardInterrupt
    (SIGTERM: SystemExit 143). Where another process has the folder, it is waited for `patience` seconds. Raises
    InputError for a folder that holds another run, and `Diverged` where the loss is not finite.
    """
    out = Path(out)
    config = config.resolved()
    kept, tracked = usable(snapshots, tracker, checkpoint_every)
    positive_int("keep", keep)
    refuse_another(out, config.to_dict(), free=PLACES)
    done = finished(out)
    if done is not None:
        progress(Event(config.run, done.step, done.step, done.loss, done.accuracy))
        return done
    with devices.threads(config.threads), interrupts.Interrupts() as signals:
        session = Session(config)
        if not checkpoint.paths(out / "checkpoints"):  # else the weights that it began at are not needed any more
            session.begin()
        if session.main:
            claim(out, config.to_dict())
        session.accelerator.wait_for_everyone()
        with interrupts.only_here(out, patience) if session.main else contextlib.nullcontext():
            profiled = Profile(out / "profile", session.accelerator.device) if profile and session.main else None
            loop = _Loop(session, out, Journal(session, out, progress, tracked), keep, kept, profiled)
            with loop:
                result = loop.go(checkpoint_every, lambda: signals.caught, stop)
    # A signal that came in the last step: the run is whole, and the caller still has to stop.
    if signals.caught is not None:
        _leave(signals.caught, f"{config.run} is finished")
    return result


def usable(
    snapshots: int | str | None, tracker: str, checkpoint_every: int | None = None
) -> tuple[Snapshots, str | None]:
    """What these options of `train` stand for. Raises InputError where one cannot be used."""
    if checkpoint_every is not None:
        positive_int("checkpoint_every", checkpoint_every)
    return Snapshots(snapshots), tracking.chosen(tracker)


def resume(
    out: str | Path,
    *,
    data_dir: str | None = None,
    weights: str | None = None,
    model: str | None = None,
    **options: Any,
) -> records.ResultRecord:
    """Go on with the run in folder `out`; `data_dir` and `weights` say where its data, and the weights that it began
    at, lie now, if they moved; `model` is to be named again where it is code (see `TrainConfig.load`); `options` as for
    `train`.
    """
    return train(TrainConfig.load(out, (model,)).moved(data_dir, weights), out, **options)


def finished(out: str | Path) -> records.ResultRecord | None:
    """The result of the run in folder `out`, or None where it is not finished."""
    path = Path(out) / "records.jsonl"
    if not path.exists() or not (Path(out) / "model.safetensors").exists():
        return None
    *_, last, tail = b"\n", *path.read_bytes().split(b"\n")
    if tail or b'"kind": "result"' not in last:  # a tail without a newline was cut off
        return None
    result = records.read(path)[-1]
    return result if isinstance(result, records.ResultRecord) else None


def evaluated(out: str | Path) -> int:
    """How many images the accuracy of the run in folder `out` is over, as the first of its records says."""
    with open(Path(out) / "records.jsonl", encoding="utf-8") as file:
        first = records.from_dict(json.loads(file.readline()))
    assert isinstance(first, records.RunRecord)
    return first.evaluation_size


def _leave(why: int, text: str) -> NoReturn:
    if why == signal.SIGTERM:
        raise SystemExit(128 + signal.SIGTERM)
    raise KeyboardInterrupt(text)


class _Loop:
    """A session under way in its folder. Entering it goes back to the newest checkpoint, or begins."""

    def __init__(
        self,
        session: Session,
        out: Path,
        journal: Journal,
        keep: int,
        snapshots: Snapshots,
        profile: Profile | None,
    ) -> None:
        self.session, self.config, self.out, self.journal = session, session.config, out, journal
        self.keep, self.snapshots, self.profile = keep, snapshots, profile
        self.step = 0
        self.seconds = 0.0  # before this process began
        self.loss_sum, self.loss_count = 0.0, 0  # of the epoch under way
        self.last: tuple[float, float] | None = None  # loss and accuracy after the last epoch
        self.best = -1.0  # the highest accuracy after an epoch
        self._began = self._saved = time.perf_counter()
        self._unread: list[tuple[int, Tensor]] = []  # step, and sum and count of its losses, not yet read

    def __enter__(self) -> _Loop:
        offset = self._restore()
        self.journal.open(self.step, offset)
        if not offset:
            self.journal.write(self.session.first_record())
            self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        if self.profile is not None:
            self.profile.close()
        self.journal.close()

    # Taking steps.

    def go(
        self, checkpoint_every: int | None, signaled: Callable[[], signal.Signals | None], stop: Callable[[], bool]
    ) -> records.ResultRecord:
        """Take the steps that are left, then write the model and the result."""
        session = self.session
        session.model.train()
        while self.step < session.steps:
            epoch, start = divmod(self.step, session.steps_per_epoch)
            began, first = time.perf_counter(), self.step
            batches = session.batches.epoch(epoch, start)
            for images, labels, whole in batches if self.profile is None else self.profile.inputs(batches):
                loss = self._take(images, labels, whole)
                self.step += 1
                with self._part("monitor"):
                    self._watch()
                if self.profile is not None and self.profile.step():
                    self.journal.note(self.step, self.profile.summary)
                ends_epoch = self.step % session.steps_per_epoch == 0
                if ends_epoch:
                    self._end_epoch(epoch, time.perf_counter() - began, self.step - first)
                self.journal.track(self.step, loss)  # what came after a checkpoint would be lost if the run ended there
                self._keep_network()
                halt = self._agreed(signaled(), stop()) if self.step < session.steps else 0
                if halt or self._due(checkpoint_every, ends_epoch):
                    self._save()
                if halt:
                    self._halt(halt)
                self.journal.step(self.step, loss, self.last[1] if self.last else None)
        return self._finish()

    def _take(self, images: Tensor, labels: Tensor, whole: int) -> float | None:
        """One optimizer step; returns the mean loss over its whole batch where it was read."""
        session, recipe, accelerator = self.session, self.config.recipe, self.session.accelerator
        torch.manual_seed(seeds.number(self.config.seed, "dropout", self.step, accelerator.process_index))
        for group in session.optimizer.param_groups:
            group["lr"] = recipe.lr_at(self.step, session.steps_per_epoch) * group["lr_factor"]
        mean: float | None = None
        # As many parts in every process, and in none of them a single image.
        count = min(recipe.accumulate, max(1, whole // (2 * accelerator.num_processes)))
        parts = list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))
        for number, (few, theirs) in enumerate(parts, 1):
            with self._part("input"):
                inputs = session.normalize(few, session.dtype)
                if self.config.channels_last:
                    inputs = inputs.contiguous(memory_format=torch.channels_last)
            last = number == len(parts)
            # Processes exchange gradients once a step, with its last part.
            with contextlib.nullcontext() if last else accelerator.no_sync(session.model):
                with self._part("forward"):
                    logits = session.model(inputs)
                    total = F.cross_entropy(logits, theirs, reduction="sum", label_smoothing=recipe.label_smoothing)
                sums = torch.stack((total.detach(), torch.full_like(total, len(theirs)))).double()
                self._unread.append((self.step + 1, sums))
                if last and (accelerator.device.type == "cpu" or len(self._unread) >= _READ_LOSS_EVERY):
                    mean = self._read_losses()
                # Processes may hold unequal shares of a short batch, and gradients are averaged over processes: with
                # this weight the average is the gradient of the whole batch's mean.
                with self._part("backward"):
                    accelerator.backward(total * (accelerator.num_processes / whole))
        with self._part("optimizer"):
            if recipe.clip_norm is not None:
                accelerator.clip_grad_norm_(session.model.parameters(), recipe.clip_norm)
            session.optimizer.step()
            session.optimizer.zero_grad()
            if session.average is not None:
                session.average.update_parameters(session.plain)
        return mean

    def _part(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.profile is None else self.profile.part(name)

    def _read_losses(self) -> float | None:
        """Add the losses not yet read to the epoch's sum; returns the mean over the newest step's batch, if there is
        one.
        """
        if not self._unread:
            return None
        newest, sums = self._unread[-1][0], (0.0, 0.0)
        table = self.session.accelerator.reduce(torch.stack([part for _, part in self._unread]), "sum").tolist()
        for (step, _), (total, count) in zip(self._unread, table, strict=True):
            if not math.isfinite(total):
                self._diverged(f"the loss is {total}", step)
            self.loss_sum += total
            self.loss_count += int(count)
            if step == newest:  # of one or several parts
                sums = (sums[0] + total, sums[1] + count)
        self._unread.clear()
        return sums[0] / sums[1]

    def _watch(self) -> None:
        if self.session.monitor is not None:
            self.journal.write(*self.session.monitor.step(self.step))

    def _end_epoch(self, epoch: int, seconds: float, steps: int) -> None:
        self._read_losses()
        loss, accuracy = self.session.score()
        if not math.isfinite(loss):
            self._diverged(f"the loss on the {self.config.split} part is {loss}", self.step)
        self.last = (loss, accuracy)
        self.journal.write(
            records.EpochRecord(
                run=self.config.run,
                epoch=epoch,
                step=self.step,
                train_loss=self.loss_sum / self.loss_count,
                loss=loss,
                accuracy=accuracy,
                seconds=self._elapsed(),
                # of `steps` that this process ran, also where it began midway; the last batch may be a short one
                images_per_second=steps / self.session.steps_per_epoch * self.loss_count / seconds,
            )
        )
        self.loss_sum, self.loss_count = 0.0, 0
        better, self.best = accuracy > self.best, max(accuracy, self.best)
        if self.journal.writes and better and self.config.split == "validation":
            checkpoint.write_model(self.out / "best.safetensors", self.session.result.state_dict())

    def _keep_network(self) -> None:
        """Write a snapshot if one is due."""
        if self.journal.writes and self.snapshots.due(self.step, self.session.steps_per_epoch):
            path = self.out / "snapshots" / f"step-{self.step:09d}.safetensors"
            checkpoint.write_model(path, self.session.result.state_dict())

    # Stopping.

    def _agreed(self, caught: signal.Signals | None, stop: bool) -> int:
        """0, or why some process wants to halt, so that all do after the same step and end alike: the number of the
        signal it caught, 1 where none was.
        """
        accelerator, why = self.session.accelerator, int(caught or stop)
        if accelerator.num_processes == 1:
            return why
        return int(accelerator.gather(torch.tensor([why], device=accelerator.device)).max())

    def _halt(self, why: int) -> NoReturn:
        text = f"stopped after step {self.step} of {self.session.steps}; go on with: icsbound train --resume {self.out}"
        text += f" --snapshots {self.snapshots.text}" if self.snapshots.text else ""
        if why == signal.SIGTERM:  # a process told to end says so here; Ctrl-C carries the text in its exception
            self.journal.note(self.step, text)
        _leave(why, f"{self.config.run} {text}")

    def _diverged(self, what: str, step: int) -> NoReturn:
        layer = self.session.first_bad_layer()
        where = (
            f"the first layer whose output is not finite is {layer!r}" if layer else "every layer's output is finite"
        )
        good = next((path.name for path in checkpoint.paths(self.out / "checkpoints")), None)
        state = f"the last good state is checkpoints/{good}" if good else "there was no checkpoint yet"
        raise Diverged(
            f"{self.config.run} diverged at step {step} of {self.session.steps}: {what}; {where}; {state}; "
            f"a smaller lr than {self.config.recipe.lr:g} may help"
        )

    def _finish(self) -> records.ResultRecord:
        loss, accuracy = self.last or self.session.score()
        result = records.ResultRecord(
            run=self.config.run,
            step=self.step,
            split=self.config.split,
            accuracy=accuracy,
            loss=loss,
            seconds=self._elapsed(),
            peak_memory=devices.peak_memory(self.session.accelerator.device),
        )
        if self.journal.writes:
            checkpoint.write_model(self.out / "model.safetensors", self.session.result.state_dict())
            self.journal.write(result)
            self.journal.sync()
            checkpoint.clear(self.out / "checkpoints")
        self.session.accelerator.wait_for_everyone()
        return result

    # Files.

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self._began

    def _due(self, checkpoint_every: int | None, ends_epoch: bool) -> bool:
        if checkpoint_every is not None:
            return self.step % checkpoint_every == 0
        # Clocks of several processes differ, and all must decide alike: there, every epoch.
        alone = self.session.accelerator.num_processes == 1
        return ends_epoch and not (alone and time.perf_counter() - self._saved < _SAVE_AFTER)

    def _save(self) -> None:
        """Write a checkpoint of the step just taken."""
        self._read_losses()
        bad = self.session.not_finite()
        if bad is not None:
            self._diverged(f"{bad} is not finite", self.step)
        if self.journal.writes:
            state = {
                **self.session.state(),
                "step": self.step,
                "seconds": self._elapsed(),
                "loss_sum": self.loss_sum,
                "loss_count": self.loss_count,
                "last": self.last,
                "best": self.best,
                "offset": self.journal.sync(),
            }
            checkpoint.save(self.out / "checkpoints", self.step, state, self.keep)
        self._saved = time.perf_counter()

    def _take_up(self, state: dict[str, Any]) -> int:
        """Go back to `state`; returns how far the records had been written then."""
        self.session.load_state(state)
        self.step = positive_int("step", state["step"], 0)
        if self.step > self.session.steps:
            fail("step", f"be at most {self.session.steps}", self.step)
        self.seconds = real("seconds", state["seconds"], 0.0)
        self.last, self.best = state["last"], real("best", state.get("best", -1.0))
        self.loss_sum = real("loss_sum", state["loss_sum"])
        self.loss_count = positive_int("loss_count", state["loss_count"], 0)
        return positive_int("offset", state["offset"], 0)

    def _restore(self) -> int:
        """Go back to the newest sound checkpoint; returns how far the records had been written then, 0 without one."""
        passed = ""
        for path, state in checkpoint.newest(self.out / "checkpoints"):
            if isinstance(state, InputError):
                self.journal.note(self.step, passed := f"{state}; the one before it is taken instead")
                continue
            try:
                offset = self._take_up(state)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                # Whole, and yet not what this run wrote: what it has set by now cannot be told from what it should be.
                text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise InputError(
                    f"{path} is no checkpoint of this run ({text}); delete it to go on without it"
                ) from None
            self.journal.note(self.step, f"goes on from step {self.step} of {self.session.steps} ({path.name})")
            return offset
        if passed:
            self.session.begin()
            self.journal.note(0, "no checkpoint is sound: the run begins again")
        return 0
