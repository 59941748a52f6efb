"""From the records of studies to a table: points averaged over seeds, and whether each agrees with its prediction."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from icsbound import records
from icsbound._check import InputError
from icsbound.records import PointRecord, SeedRecord, StudyRecord
from icsbound.report.intervals import LEVEL, holm, student
from icsbound.report.runs import json_object, noted

AGREES, CONTRADICTS, UNRESOLVED = "agrees", "contradicts", "not resolved"


@dataclass(frozen=True)
class Studies:
    """All studies of a folder. `frame` has a row a record, `means` a row a point, averaged over seeds and judged."""

    config: dict[str, Any]
    begun: dict[str, StudyRecord]
    finished: dict[str, list[int]]  # seeds of each study
    notes: list[str]  # what could not be read, as sentences
    frame: pd.DataFrame = field(repr=False)
    means: pd.DataFrame = field(repr=False)

    def panel(self, study: str, panel: str) -> pd.DataFrame:
        """The averaged points of one figure."""
        return self.means[(self.means["study"] == study) & (self.means["panel"] == panel)]

    def by_seed(self, study: str, panel: str) -> pd.DataFrame:
        """The points of one figure, seed by seed."""
        return self.frame[(self.frame["study"] == study) & (self.frame["panel"] == panel)]

    def missing(self, study: str) -> list[int]:
        """Seeds that were asked for and are not finished."""
        return [seed for seed in self.begun[study].seeds if seed not in self.finished[study]]


def holds_studies(folder: Path) -> bool:
    """Whether the records of `folder` are those of studies."""
    try:
        with open(folder / "records.jsonl", "rb") as file:
            return file.read(16) == b'{"kind": "study"'
    except OSError:
        return False


def load(folder: Path) -> Studies:
    """Read the studies in `folder`. Raises InputError where they cannot be read."""
    path, notes = folder / "records.jsonl", list[str]()
    with noted(notes, path, path.name):
        lines = records.read(path)
    if not any(isinstance(r, StudyRecord) for r in lines):
        raise InputError(f"{path} must hold at least one study, got none")
    return of_records(lines, json_object(folder / "config.json"), notes)


def of_records(lines: list[records.Record], config: dict[str, Any], notes: list[str]) -> Studies:
    """The studies that `lines` hold."""
    begun = {r.study: r for r in lines if isinstance(r, StudyRecord)}
    names = [f.name for f in dataclasses.fields(PointRecord)]
    kept = [r for r in lines if isinstance(r, PointRecord) and r.study in begun]
    frame = pd.DataFrame([vars(r).values() for r in kept], columns=names)
    frame = frame.astype({"x": "float64", "value": "float64", "predicted": "float64", "tolerance": "float64"})
    finished = {name: [r.seed for r in lines if isinstance(r, SeedRecord) and r.study == name] for name in begun}
    return Studies(config, begun, finished, notes, frame, averaged(frame))


def averaged(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a point: mean, 95 % interval, whether it agrees; the k-th point of a curve is the same at every seed."""
    keys = ["study", "panel", "curve", "place"]
    places = frame.groupby(["study", "panel", "curve", "seed"]).cumcount()
    largest = frame.groupby(["study", "panel"])["predicted"].apply(lambda p: np.abs(p).max())
    # A network has thousands of points: gathered by hand they take a fifth of the time of pandas' groups.
    by_point: dict[tuple[str, str, str, int], list[int]] = {}
    for row, key in enumerate(zip(frame["study"], frame["panel"], frame["curve"], places, strict=True)):
        by_point.setdefault(key, []).append(row)
    x, value, predicted = (frame[name].to_numpy() for name in ("x", "value", "predicted"))
    shared = ["relation", "tolerance", "n", "d", "estimator"]
    first = frame.iloc[[own[0] for own in by_point.values()]][shared].to_dict("records")
    rows = []
    for (key, own), same in zip(by_point.items(), first, strict=True):
        found, scale = student(value[own]), 1e-3 * largest[key[0], key[1]]
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "x": x[own].mean(),
                "mean": found.mean,
                "low": found.low,
                "high": found.high,
                "seeds": found.count,
                "predicted": predicted[own].mean(),
                **same,
                "p": math.nan,
            }
        )
        if same["relation"]:
            rows[-1]["p"] = against(same["relation"], same["tolerance"], value[own], predicted[own], scale)
    columns = [*keys, "x", "mean", "low", "high", "seeds", "predicted", "relation", "tolerance", "n", "d", "estimator"]
    means = pd.DataFrame(rows, columns=[*columns, "p"])
    verdict = pd.Series("", index=means.index, dtype=object)
    for _, related in means[means["relation"] != ""].groupby("study"):
        known = related[related["p"].notna()]
        verdict[related.index] = UNRESOLVED
        for index, p in zip(known.index, holm(list(known["p"])), strict=True):
            verdict[index] = CONTRADICTS if p < 1 - LEVEL else AGREES
    return means.assign(verdict=verdict)


def against(relation: str, tolerance: float, value: np.ndarray, predicted: np.ndarray, scale: float) -> float:
    """The p-value of "value and prediction stand as the relation says", from the seeds of one point.

    What exceeds the tolerance is tested by Student's t; where the seeds agree to rounding, it decides by itself. NaN
    for a single seed whose value lies outside the tolerance: it cannot tell chance from contradiction.
    """
    level = float(abs(predicted.mean()))
    allowed = tolerance * max(level, scale)
    excess = value - predicted
    sides = {"equal": (excess, -excess), "at most": (excess,), "at least": (-excess,)}[relation]
    beyond = [side - allowed for side in sides]
    worst = max(beyond, key=lambda side: float(side.mean()))
    if worst.mean() <= 0:
        return 1.0
    if len(worst) == 1:
        return math.nan
    error = float(worst.std(ddof=1)) / math.sqrt(len(worst))
    if error <= 1e-12 * max(1.0, level):
        return 0.0
    return float(len(sides) * stats.t.sf(worst.mean() / error, len(worst) - 1))
