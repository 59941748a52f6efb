"""Finished networks measured: how far the laws of their layers lie apart, with a verdict on every distance.

Snapshots are captured one after another; the distances of a pair of them, one for each layer and view, are computed
side by side in threads, since the work is done by torch and the native library, which run without Python's lock.
Each distance is in ``records.jsonl`` as soon as it is known. The verdicts come last, because each is judged among
all: of everything called "moved", the share of false alarms is kept at `rate`; `smallest` says what counts as a shift.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from icsbound import records
from icsbound._check import InputError, positive_int
from icsbound.measure.cheap import cheap_bracket
from icsbound.measure.collector import Snapshot
from icsbound.measure.entries import (
    Place,
    distance_record,
    layer_record,
    place_of,
    shift_record,
    shifts_in,
    verdict_record,
)
from icsbound.measure.floor import Shift, Verdict, control, shift_report
from icsbound.records import DistanceRecord, Record, ShiftRecord, VerdictRecord
from icsbound.training import devices, interrupts, pool
from icsbound.training.config import check_consent, claim, read_json, refuse_another
from icsbound.training.picture import Picture
from icsbound.training.progress import Event, Progress, quiet
from icsbound.training.states import MeasureConfig, Pair, State, States

Key = tuple[str, str, str, int, int]  # run, layer, view, step_a, step_b


@dataclass(frozen=True)
class Measured:
    """One distance with what it says and the verdict among all of its measurement."""

    distance: DistanceRecord
    shift: Shift
    verdict: Verdict


def measure(
    config: MeasureConfig,
    out: str | Path,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    spill: str | os.PathLike[str] | None = None,
    progress: Progress = quiet,
) -> list[Measured]:
    """Measure as `config` says into the folder `out`, or go on where an earlier call was stopped.

    `out` receives ``config.json`` first, then a line of ``records.jsonl`` for each distance and what it says, and the
    verdicts at the end. Numbers do not depend on `jobs`, the distances at a time on the CPU (default: one a core; a GPU
    takes one at a time), nor on where the clouds lie: `memory` is the most bytes that those of one state may take, of
    two that are held, and `spill` a folder for those beyond it, as for `icsbound.capture`; a distance takes copies in
    float64 of its own two. A finished folder is left untouched. Ctrl-C and SIGTERM end the measurement after the
    distances under way, by KeyboardInterrupt (SIGTERM: SystemExit 143).

    Raises InputError for what cannot be measured, before anything is written, and for a folder that holds another
    measurement.
    """
    out = Path(out)
    jobs = devices.cores() if jobs is None else positive_int("jobs", jobs)
    states = States(config, memory, spill)
    values = {**states.config.to_dict(), "files": states.files()}
    refuse_another(out, values, free=("data_dir", "checkpoints"))
    path = out / "records.jsonl"
    done = _finished(path)
    if done is not None:
        return done
    jobs = 1 if states.config.device != "cpu" else jobs
    claim(out, values)
    with devices.threads(1), interrupts.Interrupts() as signals, interrupts.only_here(out):
        known, offset = _kept(path)
        with records.Writer(path, offset=offset) as writer, ThreadPoolExecutor(jobs) as workers:
            try:
                for lines in _distances(states, known, workers, progress):
                    for line in lines:
                        writer.write(line)
                    known += lines
                    if signals.caught is not None:
                        raise pool.stopped(signals.caught, f"icsbound measure --resume {out}")
            finally:
                workers.shutdown(cancel_futures=True)
            found = _judged(known, states.config.rate, states.config.smallest)
            for one in found:
                writer.write(verdict_record(place_of(one.distance), one.verdict, len(found)))
            writer.sync()
    return found


def load(out: str | Path, named: Sequence[str | None] = ()) -> MeasureConfig:
    """The measurement that the ``config.json`` in `out` describes.

    Functions in it that give the model or data must be among `named`: those that the caller named.
    """
    values = read_json(Path(out) / "config.json")
    values.pop("files", None)
    config = MeasureConfig.from_dict(values)
    check_consent(out, config.model, named)
    for text, flag in ((config.data, "--data"), *((other, "--data-b") for other in config.data_b)):
        check_consent(out, text, named, flag)
    return config


def _distances(
    states: States, known: list[Record], workers: ThreadPoolExecutor, progress: Progress
) -> Iterator[list[Record]]:
    """The records that are not `known` yet, in an order of their own, each as soon as it is there."""
    have = {_key(line) for line in known if isinstance(line, ShiftRecord)}
    taken: dict[State, Snapshot] = {}
    picture = Picture(states.config)
    pairs, done = (Counter(pair.run for pair in states.pairs), Counter[str]())
    for pair in states.pairs:
        taken = {state: one for state, one in taken.items() if state in (pair.a, pair.b)}
        for state in (pair.a, pair.b):
            if state not in taken:
                taken[state] = states.capture(state)
            yield [line for line in _layers(pair.run, state, taken[state]) if line not in known]
        a, b = taken[pair.a].clouds, taken[pair.b].clouds
        yield [line for line in picture.of(pair, a, b) if line not in known]
        missing = [name for name in a if (pair.run, *name, pair.a.step, pair.b.step) not in have]
        total = len(a) * pairs[pair.run]  # each run has a bar of its own
        done[pair.run] += len(a) - len(missing)
        futures = [workers.submit(_one, states.config, pair, *name, a[name], b[name]) for name in missing]
        del a, b  # else three states would be held while the next is captured
        for future in futures:
            yield future.result()
            done[pair.run] += 1
            progress(Event(pair.run, done[pair.run], total, unit="distances"))


def _layers(run: str, state: State, taken: Snapshot) -> list[Record]:
    """The parameters of the normalization layers in `state`."""
    found = [layer_record(run, name, state.step, m, taken.positions[name]) for name, m in taken.modules.items()]
    return [record for record in found if record is not None]


def _one(config: MeasureConfig, pair: Pair, layer: str, view: str, a: Tensor, b: Tensor) -> list[Record]:
    """The distance between two clouds, and what it says, as records."""
    start = time.perf_counter()
    bracket, shift = cheap_bracket(a, b), shift_report(a, b)
    place = Place(
        run=pair.run,
        layer=layer,
        side=config.side,
        view=view,
        law=config.law,
        step_a=pair.a.step,
        step_b=pair.b.step,
    )
    seconds = time.perf_counter() - start
    return [
        distance_record(place, len(a), a.shape[1], bracket, shift.em, seconds),
        shift_record(place, shift, seconds),
    ]


def _judged(lines: list[Record], rate: float, smallest: float) -> list[Measured]:
    """Every distance in `lines` with its verdict among all of them."""
    found = shifts_in(lines)
    verdicts = control([shift for _, shift in found], rate, smallest)
    return [Measured(*both, verdict) for both, verdict in zip(found, verdicts, strict=True)]


def _key(record: DistanceRecord | ShiftRecord) -> Key:
    return (record.run, record.layer, record.view, record.step_a, record.step_b)


def _kept(path: Path) -> tuple[list[Record], int]:
    """The records up to the last distance that is whole with what it says, and where in the file they end."""
    content = path.read_bytes() if path.exists() else b""
    content = content[: content.rfind(b"\n") + 1]  # a killed process may have left half a line
    last = content.rfind(b'"kind": "shift"')
    end = content.index(b"\n", last) + 1 if last >= 0 else 0
    try:
        return [records.from_dict(json.loads(line)) for line in content[:end].split(b"\n")[:-1]], end
    except ValueError as error:
        raise InputError(f"{path} cannot be gone on with: {error}") from None


def _finished(path: Path) -> list[Measured] | None:
    """What the measurement at `path` found, or None where it has not come to its verdicts."""
    if not path.exists() or not path.read_bytes().endswith(b"\n"):
        return None
    lines = records.read(path)
    verdicts = [line for line in lines if isinstance(line, VerdictRecord)]
    if not verdicts or len(verdicts) < sum(isinstance(line, ShiftRecord) for line in lines):
        return None
    return _judged(lines, verdicts[0].rate, verdicts[0].smallest)
