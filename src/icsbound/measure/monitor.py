"""Internal covariate shift of the layers of a model, measured on a schedule while it trains."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from torch import Tensor, nn

from icsbound import _check
from icsbound._check import InputError
from icsbound.measure.capture import Probe, Settings, prepare, snapshot, trial
from icsbound.measure.cheap import CheapBracket, cheap_bracket
from icsbound.measure.collector import Snapshot
from icsbound.measure.cost import LARGEST, refuse_large_probe
from icsbound.measure.emd import EMDResult, emd
from icsbound.measure.entries import Place, distance_record, layer_record, shift_record, verdict_record
from icsbound.measure.floor import LEAST_ROWS, LEVEL, Shift, control, shift_report
from icsbound.measure.layers import Layers
from icsbound.measure.picture import Picture
from icsbound.measure.picture import check as check_picture
from icsbound.measure.ranks import agreed, gathered, require_group
from icsbound.measure.saved import Clouds, Saved, restored
from icsbound.measure.schedules import Budget, Pace, Schedule, schedule
from icsbound.records import CostRecord, Record, VerdictRecord

Sink: TypeAlias = Callable[[Record], object]
T = TypeVar("T")


class ICSMonitor:
    """Measures, step by step, how far the laws of chosen layers moved on a fixed probe.

    At a scheduled step the layers are captured, and every layer and view gives one `DistanceRecord` against a capture
    before it. Then follow what the measurement took, a `CostRecord`, and the weight, alpha and bound of every
    normalization layer, `LayerRecord`s. The first scheduled step has nothing before it: its first record is the cost,
    with every cloud compared with itself in place of what is to come. Training goes on bit for bit as
    without the monitor.

    model, probe, layers: as for `icsbound.measure.capture.capture`.
    run: the name that every record bears.
    every: when the exact Earth Mover distance is taken: an integer k (every step divisible by k), ``step -> bool``,
        None (never), or "budget": as often as 5 % of the time of the training pay for
        (`icsbound.measure.schedules.Budget`).
    cheap_every: the same, without a budget, for the bracket alone, which costs O(n d): its records have no `value`.
    views: any of "pooled", "sample", "position", "projection", all from one pass over the probe.
    against: "previous" (the capture before this one, of either schedule), "first", or k: the k-th capture back.
    law: which statistics normalize the probe, "eval", "train" or "frozen".
    sink: called with each record as soon as it is known, so that an interruption loses none; such as
        `icsbound.records.Writer(path).write`, or a sequence of such callables.
    verdicts: also judge every exact distance: a `ShiftRecord` follows each, and `VerdictRecord`s come when all of the
        step are known, with the false discovery rate over the layers and views of that step kept at `rate`: a network
        that stands still raises false alarms at no more than this share of the steps, and so at some of many.
        `icsbound.measure.entries.judged` judges all steps together when the training is over. It takes some five
        times as long as the distances alone.
    smallest: what the verdicts take for a shift, in units of each layer's spread before it.
    picture: also draw a layer in the first view, at every exact measurement: a `TransportRecord` of at most 160 outputs
        on the plane of the first capture, some 5 kB. The name of a layer that is measured, or True for the last one.
    alert: called with the record of every "moved" verdict (`verdicts` are then on), once all records of the step are
        with the sinks and the monitor is ready for the next: it may raise, to stop a training that can be saved and
        resumed.
    gather: every rank of a data-parallel training makes a monitor, with its own part of the probe, and calls `step`:
        the first gathers the clouds and measures, the others wait for it and get no records. What fails on one, a sink
        or an alert too, is raised on all. Without it a rank that has a monitor measures alone.
    settings: the other keyword arguments of `capture` (side, batch_size, dtype, memory ...). Between two steps the
        monitor holds the clouds of one capture (of k for ``against=k``), and during a step those of one more; `memory`
        bounds each capture, of a rank's own part where ranks gather.

    In a distance's record, `seconds` is its own share: its distance, and an equal part of the pass over the probe.
    With the defaults and 256 images a ResNet-20 (19 layers, batches of 128, one CPU thread) spends the time of 8
    training steps on an exact measurement and of 2 on a cheap one.

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
        every: Schedule = "budget",
        cheap_every: Schedule = None,
        views: Sequence[str] = ("pooled", "sample"),
        against: str | int = "previous",
        law: str = "eval",
        sink: Sink | Sequence[Sink] | None = None,
        verdicts: bool = False,
        smallest: float = 0.0,
        rate: float = LEVEL,
        picture: bool | str = False,
        alert: Callable[[VerdictRecord], object] | None = None,
        gather: bool = False,
        **settings: Any,
    ) -> None:
        if not isinstance(run, str) or not _check.is_text(run):
            _check.fail("run", "be a text", run)
        known = [*inspect.signature(ICSMonitor).parameters, *(field.name for field in dataclasses.fields(Settings))]
        for name in settings.keys() - set(known):
            raise InputError(
                f"{name} must be an argument of ICSMonitor or of capture, and is none{_check.nearest(name, known)}"
            )
        self._model, self._probe, self._run, self._layers = model, probe, run, layers
        self.pace = Pace()
        self._dear, self._cheap = schedule("every", every), schedule("cheap_every", cheap_every, budget=False)
        self._budget = self._dear if isinstance(self._dear, Budget) else None
        if self._budget is not None:
            self._budget.pace = self.pace
        self._views = (views,) if isinstance(views, str) else tuple(views)
        self._settings = Settings(law=law, **settings)
        self._gather = gather
        if gather:
            require_group()
            if self._budget is not None:
                _check.fail("every", "be an interval or a function of the step where ranks measure together", every)

        def inputs() -> int:
            n, chosen = prepare(model, probe, layers, self._views, self._settings)
            if not isinstance(picture, bool):
                check_picture(picture, chosen)
            return n

        # Bad input is named now, not in mid-training; what is too much together, with no rank waiting for another.
        self._n = sum(agreed("the monitor", inputs, int)[1]) if gather else inputs()
        if every is not None and self._n > LARGEST:
            few = trial(model, probe, layers, self._views, self._settings)
            refuse_large_probe(self._n, () if few is None else (cloud.shape[1] for cloud in few.clouds.values()))
        if not isinstance(against, str):
            _check.positive_int("against", against)
        elif against not in ("previous", "first"):
            _check.fail("against", "be 'previous', 'first' or a number of captures to look back", against)
        self._against = against
        self._sinks: Sequence[Sink] = sink if isinstance(sink, Sequence) else () if sink is None else (sink,)
        for name, one in (*(("sink", one) for one in self._sinks), *([] if alert is None else [("alert", alert)])):
            if not callable(one):
                _check.fail(name, "be callable with a record", one)
        self._picture = Picture(self._views[0], None if picture is True else picture) if picture else None
        self._verdicts, self._alert = verdicts or alert is not None, alert
        self._smallest, self._rate = _check.real("smallest", smallest, 0.0), _check.real("rate", rate, 0.0, 1.0)
        if self._verdicts:
            if self._n < LEAST_ROWS:
                raise InputError(f"probe must hold at least {LEAST_ROWS} inputs for verdicts, got {self._n}")
            control([])  # says so where what it needs is not installed
        lag = against if isinstance(against, int) else 1
        self._past: deque[tuple[int, Clouds]] = deque(maxlen=lag)
        self._last_step: int | None = None

    @property
    def seconds(self) -> float:
        """The time spent measuring so far."""
        return self.pace.measuring

    @property
    def last_step(self) -> int | None:
        """The last step that was measured, None before the first."""
        return self._last_step

    def step(self, step: int) -> list[Record]:
        """Measure if the schedule says so; call it once with 0 before training, then after every optimizer step.

        Raises InputError where `step` does not grow, and where a layer's values are not finite (named, with the row).
        """
        _check.positive_int("step", step, least=0)
        self.pace.enter(step)
        try:
            exact = bool(self._dear(step))
            if not exact and not self._cheap(step):
                return []
            self.pace.settle()
            return self._measure(step, exact)
        finally:
            self.pace.leave(step)

    def _measure(self, step: int, exact: bool) -> list[Record]:
        if self._last_step is not None and step <= self._last_step:
            raise InputError(f"step must lie above the last measured step, {self._last_step}, got {step}")
        start = time.perf_counter()

        def capture() -> Snapshot:
            return snapshot(self._model, self._probe, self._layers, self._views, self._settings)

        taken = gathered(capture) if self._gather else capture()

        def written() -> list[Record]:
            records = []
            for record in self._measured(step, exact, taken, start):
                records.append(record)
                for sink in self._sinks:
                    sink(record)
            return records

        records = self._together("the measurement", written)
        if self._against != "first" or not self._past:
            self._past.append((step, taken.clouds))
        self._last_step = step

        def told() -> None:
            for record in records:
                if self._alert is not None and isinstance(record, VerdictRecord) and record.verdict == "moved":
                    self._alert(record)

        self._together("the alert", told)
        return records

    def _together(self, what: str, work: Callable[[], T]) -> T:
        """What `work` gives; where ranks gather, one that the first fails at is raised on all of them."""
        return agreed(what, work, lambda _: None)[0] if self._gather else work()

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed training needs to go on with the same references: plain tensors by name."""
        interval = 0 if self._budget is None else self._budget.interval
        state = Saved(list(self._past), self._last_step, interval, self.pace.state()).tensors()
        return state if self._picture is None else state | self._picture.state()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, as `state_dict` gave it for a monitor with the same layers, views and probe size."""
        saved = restored(state, self._views, None if self._gather else self._n)
        if self._picture is not None:
            self._picture.load(state)
        self._past.clear()
        self._past.extend(saved.past)
        self._last_step = saved.last_step
        self.pace.load(saved.pace)
        if self._budget is not None:
            self._budget.interval = max(1, saved.interval)

    def _measured(self, step: int, exact: bool, taken: Snapshot, start: float) -> Iterator[Record]:
        captured = time.perf_counter() - start
        if self._gather and not taken.clouds:  # the first rank has them all, and writes
            self.pace.measured(captured, exact)
            return
        began = time.perf_counter()
        if self._picture is not None:
            self._picture.see(taken.clouds)
        before_step, before = self._past[0] if len(self._past) == self._past.maxlen else (step, None)
        if before is not None:
            yield from self._distances(before_step, before, step, taken.clouds, exact, captured / len(taken.clouds))
        elif not self._past:
            for cloud in taken.clouds.values():
                self._compared(cloud, cloud, exact)
        distances = time.perf_counter() - began
        share = self.pace.measured(captured + distances, exact)
        yield CostRecord(
            run=self._run,
            step=step,
            exact=exact,
            capture=captured,
            distances=distances,
            training=self.pace.step,
            share=share,
        )
        for layer, module in taken.modules.items():
            found = layer_record(self._run, layer, step, module, taken.positions[layer])
            if found is not None:
                yield found

    def _compared(self, a: Tensor, b: Tensor, exact: bool) -> tuple[CheapBracket, EMDResult | None, Shift | None]:
        """All that is computed of two clouds."""
        shift = shift_report(a, b) if exact and self._verdicts else None
        return cheap_bracket(a, b), shift.em if shift is not None else emd(a, b) if exact else None, shift

    def _distances(
        self, step_a: int, before: Clouds, step_b: int, after: Clouds, exact: bool, share: float
    ) -> Iterator[Record]:
        """The records of all distances between two captures; `share` is each one's part of the time of the pass."""
        if before.keys() != after.keys():
            missing = sorted({layer for layer, _ in before.keys() ^ after.keys()})
            raise InputError(
                f"layers must be the same at every capture, got {', '.join(map(repr, missing))} in only one of the "
                f"steps {step_a} and {step_b}"
            )
        judged: dict[Place, Shift] = {}
        for (layer, view), b in after.items():
            start = time.perf_counter()
            a = before[layer, view]
            if a.shape != b.shape:
                raise InputError(
                    f"the cloud of layer {layer!r} must have the shape it had at step {step_a}, {tuple(a.shape)}, got "
                    f"{tuple(b.shape)} at step {step_b}"
                )
            a = a.to(b.device)  # a state that was loaded lies on the CPU
            place = Place(
                run=self._run,
                layer=layer,
                side=self._settings.side,
                view=view,
                law=self._settings.law,
                step_a=step_a,
                step_b=step_b,
            )
            bracket, em, shift = self._compared(a, b, exact)
            seconds = share + time.perf_counter() - start
            yield distance_record(place, b.shape[0], b.shape[1], bracket, em, seconds)
            if shift is not None:
                yield shift_record(place, shift, seconds)
                judged[place] = shift
            if exact and self._picture is not None and (layer, view) == self._picture.key(after):
                yield from self._picture.of(place, a, b)
        if judged:
            for place, verdict in zip(judged, control(list(judged.values()), self._rate, self._smallest), strict=True):
                yield verdict_record(place, verdict, len(judged))
