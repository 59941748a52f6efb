"""The record schema: what `measure`, `training` and `study` write, one JSON object a line, and `report` reads.

A record is a frozen dataclass. Its line holds ``kind`` (which dataclass), ``schema`` (this file's version) and the
fields. Distances, losses and norms are in the units of the layer's output; accuracies are fractions in 0...1; steps
count optimizer steps from 0 (before training). Fields marked `CLOCK` depend on the machine's speed; two records are
the same measurement when all other fields agree (`without_clock`). Infinity is written as the string "Infinity", since
JSON has none.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from icsbound._check import InputError, is_text, shown

SCHEMA = 1
CLOCK = {"clock": True}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What every record says: the run it belongs to, as ``ARM-seedSEED`` or the name of a measurement."""

    kind: ClassVar[str] = ""
    run: str


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """The first line of a run: what is trained or measured, and with what."""

    kind: ClassVar[str] = "run"
    arm: str
    seed: int
    dataset: str
    model: str
    parameters: int
    train_size: int
    evaluation_size: int
    split: str  # what accuracy is taken on: "validation" or "test"
    epochs: int
    steps: int
    batch_size: int
    device: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class EpochRecord(Record):
    """The state after one epoch, evaluated with stored statistics on the whole split."""

    kind: ClassVar[str] = "epoch"
    epoch: int
    step: int
    train_loss: float
    loss: float
    accuracy: float
    seconds: float = field(metadata=CLOCK)
    images_per_second: float = field(metadata=CLOCK)


@dataclass(frozen=True, kw_only=True)
class Place(Record):
    """Which two clouds of which run: what all records of one distance share."""

    layer: str
    side: str  # "outputs" or "inputs"
    view: str  # "sample" (flattened), "pooled" (mean over positions), "position", "projection"
    law: str  # "eval", "train" or "frozen": which statistics normalized the probe
    step_a: int
    step_b: int


@dataclass(frozen=True, kw_only=True)
class DistanceRecord(Place):
    """The shift of one layer between two steps on a fixed probe of n inputs, with its bracket.

    `lower` (dual) <= `value` <= `paired`; `value` and `lower` are None where only the cheap bracket was taken.
    """

    kind: ClassVar[str] = "distance"
    n: int
    d: int
    value: float | None  # exact Earth Mover distance W1 of the two empirical laws
    lower: float | None  # certified lower bound (dual value)
    paired: float  # U_pair: mean displacement per input, an upper bound
    independent: float  # U_indep: sqrt(tr S + tr S' + |mean shift|^2), an upper bound
    mean_shift: float  # a lower bound
    norms: float  # W1 of the norms about the common mean, a lower bound
    scale: float  # root mean square spread of the two clouds about their means
    scale_free: float | None  # value / scale
    estimator: str
    seconds: float = field(metadata=CLOCK)


@dataclass(frozen=True, kw_only=True)
class ShiftRecord(Place):
    """What a distance of the same layer, view and steps says about the laws behind its clouds (`measure.floor`).

    Estimates have their standard errors beside them. The three lower bounds are held out: each has an expectation of
    at most W1 of the laws, and of 0 where the laws agree.
    """

    kind: ClassVar[str] = "shift"
    error: float  # of the distance as an estimate of its expectation at this n
    floor: float  # EM between two disjoint halves of the first cloud: what sampling alone gives
    disjoint: float  # EM between one half of the inputs at the first step and the other half at the second
    spread: float  # root mean square distance of the first cloud from its mean
    potential: float  # by the optimal potential
    potential_error: float
    shift: float  # by the direction of the mean shift
    shift_error: float
    norm: float  # by the distance from the mean
    norm_error: float
    p: float  # one-sided, of "the laws agree", for this distance alone
    seconds: float = field(metadata=CLOCK)


@dataclass(frozen=True, kw_only=True)
class VerdictRecord(Place):
    """The judgement on one distance among all that are judged together, written when all of them are known.

    Those are all of a finished measurement, and all of one step where a monitor judges while a network trains: `rate`
    then holds at every step, and over many steps more false ones may come together.
    """

    kind: ClassVar[str] = "verdict"
    verdict: str  # "moved", "below the floor" or "not resolved"
    p: float  # adjusted for the distances judged together
    among: int  # how many these are
    rate: float  # the false discovery rate that "moved" keeps
    smallest: float  # what counts as a shift, in units of the spread of the first cloud; 0: any


@dataclass(frozen=True, kw_only=True)
class CostRecord(Record):
    """What measuring during a training took at a step. Seconds are of the wall."""

    kind: ClassVar[str] = "cost"
    step: int
    exact: bool  # whether exact distances were taken, or brackets alone
    capture: float = field(metadata=CLOCK)  # one pass over the probe
    distances: float = field(metadata=CLOCK)  # all of this step; at the first capture, of every cloud from itself
    training: float | None = field(metadata=CLOCK)  # of one optimizer step, the mean so far; None before the first
    # Measuring over training time, both since the exact distances before these: the share at the present schedule.
    share: float | None = field(metadata=CLOCK)


@dataclass(frozen=True, kw_only=True)
class LayerRecord(Record):
    """Parameters of one normalization layer at a step. `bound` is R: every output lies within R of the bias."""

    kind: ClassVar[str] = "layer"
    layer: str
    step: int
    alpha_mean: float | None
    alpha_min: float | None
    alpha_max: float | None
    weight_mean: float | None  # mean of |gamma|
    weight_max: float | None
    bound: float | None  # for the whole sample's output; infinite where no noise-free bound exists


@dataclass(frozen=True, kw_only=True)
class ResultRecord(Record):
    """The last line of a finished run."""

    kind: ClassVar[str] = "result"
    step: int
    split: str
    accuracy: float
    loss: float
    seconds: float = field(metadata=CLOCK)
    peak_memory: int = field(metadata=CLOCK)  # bytes


@dataclass(frozen=True, kw_only=True)
class StudyRecord(Record):
    """The first line of a study, a simulation that sets a prediction of the theory beside what is measured."""

    kind: ClassVar[str] = "study"
    study: str
    seeds: list[int]  # that were asked for
    full: bool  # the longer form
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PointRecord(Record):
    """One point of a study, measured at one seed: `value` at `x` of a curve. Its interval is taken over the seeds.

    `predicted` is what the theory says there, and `relation` how: the value is "equal" to it, up to the share
    `tolerance` that the prediction neglects, or "at most" or "at least" that; "" where it is only set beside it, or
    where there is no prediction.
    """

    kind: ClassVar[str] = "point"
    study: str
    panel: str  # the figure that it belongs to
    curve: str
    seed: int
    x: float
    value: float
    predicted: float | None
    relation: str
    tolerance: float
    n: int  # rows of the clouds, images of the probe, or draws
    d: int
    estimator: str


@dataclass(frozen=True, kw_only=True)
class SeedRecord(Record):
    """The last line of one seed of a study: all its points lie before it."""

    kind: ClassVar[str] = "seed"
    study: str
    seed: int
    seconds: float = field(metadata=CLOCK)


@dataclass(frozen=True, kw_only=True)
class TransportRecord(Place):
    """How the exact transport on a plane moves one layer's outputs between two steps; for a picture.

    Row i of the first step, at (x_a, y_a), is moved to (x_b, y_b) of the second. The plane is fixed by the first
    capture of the run: through its mean, along its two directions of largest variance.
    """

    kind: ClassVar[str] = "transport"
    n: int
    d: int  # of the layer's outputs
    share: float  # of the first capture's variance that lies in the plane
    value: float  # W1 on the plane, no more than that of the outputs
    x_a: list[float]
    y_a: list[float]
    x_b: list[float]
    y_b: list[float]


KINDS: dict[str, type[Record]] = {
    r.kind: r
    for r in (
        RunRecord,
        EpochRecord,
        DistanceRecord,
        LayerRecord,
        ResultRecord,
        ShiftRecord,
        VerdictRecord,
        CostRecord,
        StudyRecord,
        PointRecord,
        SeedRecord,
        TransportRecord,
    )
}


def _is_whole(value: object) -> bool:
    # Within 64 bits: what tables and other languages hold.
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    # Infinity is written as text; as a number it would be one that no double holds.
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


# A field's declared type, checked when a file is read: records may come from elsewhere.
_IS: dict[str, Callable[[Any], bool]] = {
    "None": lambda v: v is None,
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "int": _is_whole,
    "float": _is_number,
    "list[int]": lambda v: isinstance(v, list) and all(map(_is_whole, v)),
    "list[float]": lambda v: isinstance(v, list) and all(map(_is_number, v)),
    "dict[str, str]": lambda v: isinstance(v, dict) and all(isinstance(t, str) for t in v.values()),
}


def to_line(record: Record) -> str:
    """`record` as one line of JSON, newline included."""
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    for name, value in fields.items():
        if not is_text(value):
            raise InputError(f"{name} of a record of kind {record.kind!r} must be printable text, got {shown(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            if math.isnan(value):
                raise InputError(
                    f"a record of kind {record.kind!r} must not hold NaN, got one in {name} (run {record.run!r})"
                )
            fields[name] = "Infinity" if value > 0 else "-Infinity"
    return json.dumps({"kind": record.kind, "schema": SCHEMA, **fields}, allow_nan=False, ensure_ascii=False) + "\n"


def from_dict(values: dict[str, Any]) -> Record:
    """The record that `values`, one decoded line, stands for. Raises InputError for a newer schema or another shape."""
    values = dict(values)
    schema, kind = values.pop("schema", None), values.pop("kind", None)
    if type(schema) is not int or schema != SCHEMA:
        raise InputError(f"schema must be {SCHEMA} to be read by this version of icsbound, got {shown(schema)}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {shown(kind)}")
    types = {f.name: str(f.type) for f in dataclasses.fields(KINDS[kind])}
    if set(types) != set(values):
        missing, unknown = sorted(set(types) - set(values)), sorted(set(values) - set(types))
        got = f"missing {shown(missing)} and unknown {shown(unknown)}"
        raise InputError(f"a record of kind {kind!r} must hold its own fields, got {got}")
    for name, value in values.items():
        if not is_text(value):
            raise InputError(f"{name} of a record of kind {kind!r} must be printable text, got {shown(value)}")
        if "float" in types[name] and value in ("Infinity", "-Infinity"):
            values[name] = float(value)
        elif not any(_IS[part](value) for part in types[name].split(" | ")):
            raise InputError(f"{name} of a record of kind {kind!r} must be {types[name]}, got {shown(value)}")
    return KINDS[kind](**values)


def without_clock(record: Record) -> Record:
    """`record` with every field that depends on the machine's speed set to 0: what a repeated run must reproduce."""
    clocks = {f.name: 0 for f in dataclasses.fields(record) if f.metadata.get("clock")}
    return dataclasses.replace(record, **clocks)  # type: ignore[arg-type]


def read(path: str | os.PathLike[str]) -> list[Record]:
    """All records of the file at `path`.

    A last line that was cut off (the writer was killed) is left out, with a warning. Any other line that is not a
    record raises InputError with its number.
    """
    lines = Path(path).read_bytes().split(b"\n")
    complete, tail = lines[:-1], lines[-1]
    if tail:
        warnings.warn(
            f"{path}: line {len(lines)} was cut off and is left out; {len(complete)} records were read", stacklevel=2
        )
    records = []
    for number, line in enumerate(complete, 1):
        try:
            records.append(from_dict(json.loads(line)))
        except RecursionError:
            raise InputError(f"{path}: line {number} is not a record: it is nested too deeply") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: line {number} is not a record: {error}") from None
    return records


class Writer:
    """Appends records to one file, each line flushed at once, so that an interrupted run keeps what it measured.

    `offset` (bytes) goes into a checkpoint; `Writer(path, offset=...)` drops what was written after that checkpoint, so
    that a resumed run repeats no line.
    """

    def __init__(self, path: str | os.PathLike[str], offset: int | None = None) -> None:
        self._file = open(path, "ab")  # noqa: SIM115  (closed by close(); a writer outlives one block)
        if offset is not None:
            if not 0 <= offset <= self._file.tell():
                size = self._file.tell()
                self._file.close()
                raise InputError(f"offset must lie within {path} ({size} bytes), got {offset}: records were lost")
            self._file.truncate(offset)
            self._file.seek(offset)

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, record: Record) -> None:
        """Append one record and flush it."""
        self._file.write(to_line(record).encode())
        self._file.flush()

    def sync(self) -> None:
        """Force what was written to the disk: call before a checkpoint that stores `offset`."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
