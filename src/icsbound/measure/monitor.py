"""Internal covariate shift of the layers of a model, measured on a schedule while it trains."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from icsbound import _check
from icsbound._check import InputError
from icsbound.measure.capture import Probe, Settings, prepare, snapshot
from icsbound.measure.cheap import cheap_bracket
from icsbound.measure.collector import Snapshot
from icsbound.measure.emd import emd
from icsbound.measure.layers import Layers
from icsbound.records import DistanceRecord, LayerRecord, Record

Schedule: TypeAlias = int | Callable[[int], bool] | None
Sink: TypeAlias = Callable[[Record], object]

_STEPS = "steps"


class ICSMonitor:
    """Measures, step by step, how far the laws of chosen layers moved on a fixed probe.

    At a scheduled step the layers are captured, and every layer and view gives one `DistanceRecord` against a capture
    before it, and every normalization layer one `LayerRecord` (its weight, alpha and bound). The first scheduled step
    has nothing before it: it gives layer records alone. Training goes on bit for bit as without the monitor.

    model, probe, layers: as for `icsbound.measure.capture.capture`.
    run: the name that every record bears.
    every: when the exact Earth Mover distance is taken: an integer k (every step divisible by k) or ``step -> bool``.
    cheap_every: the same for the bracket alone, which costs O(n d): its records have no `value`.
    views: any of "pooled", "sample", "position", "projection", all from one pass over the probe.
    against: "previous" (the capture before this one, of either schedule), "first", or k: the k-th capture back.
    law: which statistics normalize the probe, "eval", "train" or "frozen".
    sink: called with each record as soon as it is known, so that an interruption loses none; such as
        `icsbound.records.Writer(path).write`, or a sequence of such callables.
    alert: called with every distance record that has an exact value, once all records of the step are with the sinks
        and the monitor is ready for the next: it may raise, to stop a training that can be saved and resumed.
    settings: the other keyword arguments of `capture` (side, batch_size, dtype, memory ...). Between two steps the
        monitor holds the clouds of one capture (of k for ``against=k``), and during a step those of one more; `memory`
        bounds each capture.

    `seconds` is the time spent measuring so far. In a record, `seconds` is its share: its own distance, and an equal
    part of the pass over the probe. With the defaults and 256 images a ResNet-20 (19 layers, batches of 128, one CPU
    thread) spends the time of 8 training steps on an exact measurement and of 2 on a cheap one, so 3 % on the default
    schedule.

    Example::

        with records.Writer("records.jsonl") as writer:
            monitor = ICSMonitor(model, probe, every=250, cheap_every=25, sink=writer.write)
            monitor.step(0)
            for step, (x, y) in enumerate(batches, 1):
                ...  # forward, backward, optimizer.step()
                monitor.step(step)
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Probe,
        *,
        run: str = "run",
        layers: Layers = None,
        every: Schedule = 250,
        cheap_every: Schedule = None,
        views: Sequence[str] = ("pooled", "sample"),
        against: str | int = "previous",
        law: str = "eval",
        sink: Sink | Sequence[Sink] | None = None,
        alert: Callable[[DistanceRecord], object] | None = None,
        **settings: Any,
    ) -> None:
        self._model, self._probe, self._run, self._layers = model, probe, run, layers
        self._dear, self._cheap = _schedule("every", every), _schedule("cheap_every", cheap_every)
        self._views = (views,) if isinstance(views, str) else tuple(views)
        self._settings = Settings(law=law, **settings)
        prepare(model, probe, layers, self._views, self._settings)  # bad input is named now, not in mid-training
        if not isinstance(against, str):
            _check.positive_int("against", against)
        elif against not in ("previous", "first"):
            _check.fail("against", "be 'previous', 'first' or a number of captures to look back", against)
        self._against = against
        self._sinks: Sequence[Sink] = () if sink is None else (sink,) if callable(sink) else tuple(sink)
        self._alert = alert
        lag = against if isinstance(against, int) else 1
        self._past: deque[tuple[int, dict[tuple[str, str], torch.Tensor]]] = deque(maxlen=lag)
        self._last_step: int | None = None
        self.seconds = 0.0

    def step(self, step: int) -> list[Record]:
        """Measure if the schedule says so; call it once with 0 before training, then after every optimizer step.

        Raises InputError where `step` does not grow, and where a layer's values are not finite (named, with the row).
        """
        _check.positive_int("step", step, least=0)
        exact = self._dear(step)
        if not exact and not self._cheap(step):
            return []
        if self._last_step is not None and step <= self._last_step:
            raise InputError(f"step must lie above the last measured step, {self._last_step}, got {step}")
        start = time.perf_counter()
        taken = snapshot(self._model, self._probe, self._layers, self._views, self._settings)
        share = (time.perf_counter() - start) / len(taken.clouds)
        records = []
        for record in self._measured(step, exact, taken, share):
            records.append(record)
            for sink in self._sinks:
                sink(record)
        if self._against != "first" or not self._past:
            self._past.append((step, taken.clouds))
        self._last_step = step
        self.seconds += time.perf_counter() - start
        if self._alert is not None:
            for record in records:
                if isinstance(record, DistanceRecord) and record.value is not None:
                    self._alert(record)
        return records

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a resumed training needs to go on with the same references: plain tensors by name."""
        steps = [step for step, _ in self._past]
        state = {_STEPS: torch.tensor([*steps, -1 if self._last_step is None else self._last_step])}
        for index, (_, clouds) in enumerate(self._past):
            state.update({f"{index}.{view}.{layer}": cloud for (layer, view), cloud in clouds.items()})
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `state`, as `state_dict` gave it for a monitor with the same layers, views and probe size."""
        try:
            *steps, last = state[_STEPS].tolist()
            past: list[dict[tuple[str, str], torch.Tensor]] = [{} for _ in steps]
            for key in state.keys() - {_STEPS}:
                index, view, layer = key.split(".", 2)
                past[int(index)][layer, view] = state[key]
        except (KeyError, ValueError, IndexError):
            _check.fail("state", f"hold {_STEPS!r} and clouds, as state_dict gives it", sorted(state))
        if any({view for _, view in clouds} != set(self._views) for clouds in past):
            found = sorted({view for clouds in past for _, view in clouds})
            raise InputError(f"state must hold the views {sorted(self._views)} of this monitor, got {found}")
        self._past.clear()
        self._past.extend(zip(steps, past, strict=True))
        self._last_step = None if last < 0 else last

    def _measured(self, step: int, exact: bool, taken: Snapshot, share: float) -> Iterator[Record]:
        before_step, before = self._past[0] if len(self._past) == self._past.maxlen else (step, None)
        if before is not None and before.keys() != taken.clouds.keys():
            missing = sorted({layer for layer, _ in before.keys() ^ taken.clouds.keys()})
            raise InputError(
                f"layers must be the same at every capture, got {', '.join(map(repr, missing))} in only one of the "
                f"steps {before_step} and {step}"
            )
        for (layer, view), after in taken.clouds.items():
            if before is not None:
                yield self._distance(layer, view, before_step, step, before[layer, view], after, exact, share)
        for layer, module in taken.modules.items():
            found = layer_record(self._run, layer, step, module, taken.positions[layer])
            if found is not None:
                yield found

    def _distance(
        self,
        layer: str,
        view: str,
        step_a: int,
        step_b: int,
        a: torch.Tensor,
        b: torch.Tensor,
        exact: bool,
        share: float,
    ) -> DistanceRecord:
        start = time.perf_counter()
        if a.shape != b.shape:
            raise InputError(
                f"the cloud of layer {layer!r} must have the shape it had at step {step_a}, {tuple(a.shape)}, got "
                f"{tuple(b.shape)} at step {step_b}"
            )
        a = a.to(b.device)  # a state that was loaded lies on the CPU
        bracket = cheap_bracket(a, b)
        result = emd(a, b) if exact else None
        value = None if result is None else result.value
        return DistanceRecord(
            run=self._run,
            layer=layer,
            side=self._settings.side,
            view=view,
            law=self._settings.law,
            step_a=step_a,
            step_b=step_b,
            n=b.shape[0],
            d=b.shape[1],
            value=value,
            lower=None if result is None else result.lower,
            paired=bracket.paired if result is None or result.paired is None else result.paired,
            independent=bracket.independent,
            mean_shift=bracket.mean_shift,
            norms=bracket.norms,
            scale=bracket.scale,
            scale_free=None if value is None else _ratio(value, bracket.scale),
            estimator="bracket" if result is None else result.estimator,
            seconds=share + time.perf_counter() - start,
        )


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 0 else math.inf if value > 0 else 0.0


def layer_record(run: str, layer: str, step: int, module: nn.Module, positions: int | None) -> LayerRecord | None:
    """The state of a normalization layer, or None for a module with none of: `alpha`, a `weight` per channel, `bound`.

    `bound(positions)` is asked for the whole sample's output, of `positions` positions.
    """
    alpha, weight = getattr(module, "alpha", None), getattr(module, "weight", None)
    if callable(clamped := getattr(module, "clamped_alpha", None)):
        alpha = clamped()  # what the layer uses, where an optimizer's step left its range
    alpha = alpha.detach() if isinstance(alpha, torch.Tensor) else None
    weight = weight.detach().abs() if isinstance(weight, torch.Tensor) and weight.ndim == 1 else None
    bound = getattr(module, "bound", None)
    limit = float(bound(positions)) if callable(bound) and positions is not None else None
    if alpha is None and weight is None and limit is None:
        return None
    return LayerRecord(
        run=run,
        layer=layer,
        step=step,
        alpha_mean=None if alpha is None else float(alpha.mean()),
        alpha_min=None if alpha is None else float(alpha.min()),
        alpha_max=None if alpha is None else float(alpha.max()),
        weight_mean=None if weight is None else float(weight.mean()),
        weight_max=None if weight is None else float(weight.max()),
        bound=limit,
    )


def _schedule(argument: str, every: Schedule) -> Callable[[int], bool]:
    if every is None:
        return lambda step: False
    if callable(every):
        return every
    interval = _check.positive_int(argument, every)
    return lambda step: step % interval == 0
