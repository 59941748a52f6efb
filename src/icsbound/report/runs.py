"""From a folder to tables: every run below it, its records as data frames, and what is missing."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from icsbound import records
from icsbound._check import InputError
from icsbound.records import (
    DistanceRecord,
    EpochRecord,
    LayerRecord,
    Record,
    ResultRecord,
    RunRecord,
    ShiftRecord,
    VerdictRecord,
)
from icsbound.report.controls import control


@dataclass(frozen=True)
class Run:
    """One training or measurement: what it was, how far it came, and its records."""

    name: str
    path: str  # of records.jsonl, relative to the folder that is reported
    info: RunRecord | None  # None where only distances were measured
    result: ResultRecord | None
    records: list[Record]

    @property
    def arm(self) -> str:
        return self.info.arm if self.info else self.name

    @property
    def seed(self) -> int:
        return self.info.seed if self.info else 0

    @property
    def finished(self) -> bool:
        """Whether its last record was written; a mere measurement has none to wait for."""
        return self.info is None or self.result is not None

    @property
    def reached(self) -> int:
        """The last step that any record but the first speaks of."""
        steps = [int(getattr(r, name)) for r in self.records for name in ("step", "step_b") if hasattr(r, name)]
        return max(steps, default=0)


@dataclass(frozen=True)
class Study:
    """All runs below a folder. The frames hold one row a record, with the arm and the seed in front."""

    folder: Path
    config: dict[str, Any]
    runs: list[Run]
    arms: list[str]  # controls first, then as config.json or the files order them
    missing: list[str]  # runs that config.json announces and that left no record
    notes: list[str]  # what could not be read, as sentences
    epochs: pd.DataFrame = field(repr=False)
    distances: pd.DataFrame = field(repr=False)
    layers: pd.DataFrame = field(repr=False)
    results: pd.DataFrame = field(repr=False)
    shifts: pd.DataFrame = field(repr=False)
    verdicts: pd.DataFrame = field(repr=False)
    channels: pd.DataFrame = field(repr=False, default_factory=pd.DataFrame)  # which `channels.with_channels` reads

    def control(self, arm: str) -> str | None:
        """The arm that `arm` is compared with; None for a control itself and where its control was not run."""
        named = self.config.get("controls")
        if isinstance(named, dict) and arm in named:
            return named[arm] if named[arm] in self.arms and named[arm] != arm else None
        return control(arm, self.arms)

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if not run.finished]

    @property
    def layer_names(self) -> list[str]:
        """Layers in the order of the network, which is the order in which they were first recorded."""
        return list(dict.fromkeys([*self.distances["layer"].unique(), *self.layers["layer"].unique()]))

    def layers_in(self, frame: pd.DataFrame) -> list[str]:
        """The layers that `frame` has rows of, in the order of the network."""
        present = set(frame["layer"].unique())
        return [name for name in self.layer_names if name in present]

    def arms_in(self, frame: pd.DataFrame) -> list[str]:
        """The arms that `frame` has rows of, in the order of the page."""
        present = set(frame["arm"].unique())
        return [arm for arm in self.arms if arm in present]

    def finished(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of `frame` that belong to finished runs: comparisons use no others."""
        done = {(run.arm, run.seed) for run in self.runs if run.finished}
        return frame.loc[[pair in done for pair in zip(frame["arm"], frame["seed"], strict=True)]]


def load(folder: Path) -> Study:
    """Read every `records.jsonl` in `folder` or below. Raises InputError where there is none that can be read."""
    if not folder.is_dir():
        raise InputError(f"folder must be an existing folder with records, got {str(folder)!r}")
    files = sorted(folder.rglob("records.jsonl"))
    if not files:
        raise InputError(f"folder must hold a records.jsonl, in itself or below, got {str(folder)!r}")
    notes: list[str] = []
    runs: dict[tuple[str, int], Run] = {}
    for path in files:
        for run in read(path, folder, notes):
            key = (run.arm, run.seed)
            if key in runs:
                notes.append(f"{run.path} repeats {run.arm}, seed {run.seed}, of {runs[key].path} and is left out.")
            else:
                runs[key] = run
    if not runs:
        raise InputError(f"no record below {str(folder)!r} could be read: " + " ".join(notes))
    return assembled(list(runs.values()), folder, _config(folder, notes), notes)


def assembled(found: list[Run], folder: Path, config: dict[str, Any], notes: list[str]) -> Study:
    """The study of the runs in `found`, no two of them with one arm and seed; `config` is that of their folder."""
    announced = [a for a in _list(config.get("arms")) if isinstance(a, str)]
    present = {(run.arm, run.seed) for run in found}
    arms = list(dict.fromkeys([*(a for a in announced if any(r.arm == a for r in found)), *(r.arm for r in found)]))
    arms.sort(key=lambda arm: arm != "bn")  # a stable sort: the common control leads, the rest stays as it was
    found = sorted(found, key=lambda run: (arms.index(run.arm), run.seed))
    expected = [(a, s) for a in announced for s in _list(config.get("seeds"))]
    return Study(
        folder=folder,
        config=config,
        runs=found,
        arms=arms,
        missing=[f"{a}-seed{s}" for a, s in expected if (a, s) not in present],
        notes=notes,
        epochs=_frame(found, EpochRecord),
        distances=_frame(found, DistanceRecord),
        layers=_frame(found, LayerRecord),
        results=_frame(found, ResultRecord),
        shifts=_frame(found, ShiftRecord),
        verdicts=_frame(found, VerdictRecord),
    )


def read(path: Path, folder: Path, notes: list[str]) -> list[Run]:
    """The runs of one file; what is wrong with it goes into `notes`."""
    where = path.relative_to(folder).as_posix()
    try:
        with noted(notes, path, where):
            lines = records.read(path)
    except InputError as error:
        notes.append(str(error).replace(str(path), where) + "; the file is left out.")
        return []
    by_run: dict[str, list[Record]] = {}
    for record in lines:
        by_run.setdefault(record.run, []).append(record)
    if not by_run:
        notes.append(f"{where} holds no record yet.")
    return [
        Run(
            name=name,
            path=where,
            info=next((r for r in own if isinstance(r, RunRecord)), None),
            result=next((r for r in reversed(own) if isinstance(r, ResultRecord)), None),
            records=own,
        )
        for name, own in by_run.items()
    ]


@contextmanager
def noted(notes: list[str], path: Path, where: str) -> Iterator[None]:
    """Put what is warned of inside, while `path` is read, into `notes`, with the file named as `where`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += [str(w.message).replace(str(path), where) + "." for w in caught]


def json_object(path: Path) -> dict[str, Any]:
    """The object in the file at `path`, empty where there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _frame(runs: list[Run], kind: type[Record]) -> pd.DataFrame:
    """The records of one kind, one row each."""
    names = [f.name for f in dataclasses.fields(kind)]
    rows = [(run.arm, run.seed, *vars(r).values()) for run in runs for r in run.records if isinstance(r, kind)]
    frame = pd.DataFrame(rows, columns=["arm", "seed", *names])
    numbers = {f.name: "float64" for f in dataclasses.fields(kind) if f.type in ("float", "float | None")}
    return frame.astype(numbers)


def _config(folder: Path, notes: list[str]) -> dict[str, Any]:
    """The folder's `config.json`; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        notes.append(f"config.json could not be read ({error}).")
        return {}
    return config if isinstance(config, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
