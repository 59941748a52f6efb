"""Runs studies, seed by seed, into one folder: every point is in ``records.jsonl`` as soon as it is known."""

from __future__ import annotations

import dataclasses
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from icsbound import records
from icsbound._check import InputError, fail, one_of, positive_int
from icsbound.records import SeedRecord, StudyRecord
from icsbound.study.networks import arms_in
from icsbound.study.registry import STUDIES
from icsbound.study.setting import Setting, Study
from icsbound.training import devices, interrupts
from icsbound.training.config import check_fields, claim, read_json, refuse_another
from icsbound.training.progress import Event, Progress, quiet


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Which studies, at which seeds (None: each study's own, or those of `runs`), in the longer form or not.

    `runs` is a folder of finished runs, as `sweep` and `compare` leave them, that the studies of trained networks read
    instead of training their own.
    """

    studies: tuple[str, ...]
    seeds: tuple[int, ...] | None = None
    full: bool = False
    runs: str | None = None

    def __post_init__(self) -> None:
        for name in self.studies:
            one_of("study", name, STUDIES)
        if not self.studies or len(set(self.studies)) < len(self.studies):
            fail("studies", "name at least one, each once", self.studies)
        for seed in self.seeds or ():
            positive_int("seed", seed, 0)
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            fail("seeds", "name at least one, each once", self.seeds)
        if self.runs is not None and not any(STUDIES[name].trains for name in self.studies):
            trains = ", ".join(name for name, study in STUDIES.items() if study.trains)
            fail("runs", f"come with a study of trained networks ({trains})", self.runs)

    def plan(self) -> dict[str, tuple[int, ...]]:
        """Study -> its seeds. Raises InputError where `runs` lacks the networks that a study needs at them."""
        found = None if self.runs is None else _found(Path(self.runs))
        plan = {}
        for name in self.studies:
            study = STUDIES[name]
            if found is None or not study.trains:
                plan[name] = self.seeds or tuple(range(study.seeds))
                continue
            measured = study.seeds_of(found)
            lacking = set(self.seeds or ()).difference(measured)
            if lacking or not measured:
                where = f" at {_seeds(lacking)}" if lacking else "" if study.any_arm else " at one seed"
                there = ", ".join(f"{a} at {_seeds(found[a])}" if a in found else f"no {a}" for a in study.arms)
                arms = (" or " if study.any_arm else " and ").join(study.arms)
                fail("runs", f"hold finished runs of {arms}{where} for the study {name!r}", self.runs, f" with {there}")
            plan[name] = self.seeds or measured
        return plan

    def to_dict(self) -> dict[str, Any]:
        """These studies as plain values of JSON."""
        seeds = None if self.seeds is None else list(self.seeds)
        return {"studies": list(self.studies), "seeds": seeds, "full": self.full, "runs": self.runs}

    @classmethod
    def load(cls, folder: str | Path) -> StudyConfig:
        """The studies that the ``config.json`` in `folder` describes."""
        values = read_json(Path(folder) / "config.json")
        check_fields(cls, values, "config")
        try:
            given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
            return cls(**given)
        except TypeError as error:
            raise InputError(f"{folder} must hold the config of studies: {error}") from None


def _found(folder: Path) -> dict[str, set[int]]:
    found = arms_in(folder) if folder.is_dir() else {}
    if not found:
        fail("runs", "be a folder with finished runs, in itself or one level below", str(folder))
    return found


def _seeds(seeds: set[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"


def run(config: StudyConfig, out: str | Path, *, jobs: int | None = None, progress: Progress = quiet) -> None:
    """Run the studies of `config` into the folder `out`, or go on where an earlier call was stopped.

    `out` receives ``config.json`` first, then a line of ``records.jsonl`` a point; networks are trained in
    ``out/networks``, `jobs` at a time. A seed that was cut short is begun anew, and finished ones stay. Ctrl-C and
    SIGTERM end it after the point or step under way, by KeyboardInterrupt (SIGTERM: SystemExit 143).

    Raises InputError for what cannot be run, before anything is written, and for a folder that holds other studies.
    """
    out = Path(out)
    plan = config.plan()
    if jobs is not None:
        positive_int("jobs", jobs)
    refuse_another(out, config.to_dict())
    claim(out, config.to_dict())
    path = out / "records.jsonl"
    runs = None if config.runs is None else Path(config.runs)
    setting = Setting(full=config.full, networks=out / "networks", runs=runs, jobs=jobs, progress=progress)
    # One thread: a number must not depend on how many cores there are.
    with devices.threads(1), interrupts.Interrupts() as signals, interrupts.only_here(out):
        offset = _whole(path)
        with records.Writer(path, offset=offset) as writer:
            known = records.read(path) if offset else []
            try:
                for name, seeds in plan.items():
                    _one(STUDIES[name], seeds, setting, known, writer, signals)
            except KeyboardInterrupt:  # of the trainings of a study as well
                raise KeyboardInterrupt(
                    f"stopped; what was measured is kept; go on with: icsbound study --resume {out}"
                ) from None
            writer.sync()


def _one(
    study: Study,
    seeds: tuple[int, ...],
    setting: Setting,
    known: list[records.Record],
    writer: records.Writer,
    signals: interrupts.Interrupts,
) -> None:
    begun = any(isinstance(r, StudyRecord) and r.study == study.name for r in known)
    done = {r.seed for r in known if isinstance(r, SeedRecord) and r.study == study.name}
    setting = dataclasses.replace(setting, seeds=tuple(seed for seed in seeds if seed not in done))
    if not begun:
        writer.write(
            StudyRecord(
                run=study.name, study=study.name, seeds=list(seeds), full=setting.full, versions=devices.versions()
            )
        )
    for number, seed in enumerate(seeds, 1):
        if seed not in done:
            started = time.perf_counter()
            with torch.device("cpu"):  # where all is drawn, whatever torch's default
                for point in study.points(seed, setting):
                    writer.write(point)
                    if signals.caught == signal.SIGTERM:
                        raise SystemExit(128 + signal.SIGTERM)
                    if signals.caught is not None:
                        raise KeyboardInterrupt
            seconds = time.perf_counter() - started
            writer.write(SeedRecord(run=f"{study.name}-seed{seed}", study=study.name, seed=seed, seconds=seconds))
        setting.progress(Event(study.name, number, len(seeds), unit="seeds"))


def _whole(path: Path) -> int:
    """How far the records reach up to the last seed that was finished, or study that was begun."""
    content = path.read_bytes() if path.exists() else b""
    content = content[: content.rfind(b"\n") + 1]  # a killed process may have left half a line
    last = max(content.rfind(b'{"kind": "seed"'), content.rfind(b'{"kind": "study"'))
    return content.index(b"\n", last) + 1 if last >= 0 else 0
