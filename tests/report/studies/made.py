"""Studies with known contents: what a verdict must say of them is known before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from icsbound import records
from icsbound.records import PointRecord, Record, SeedRecord, StudyRecord
from icsbound.report.studies import points, verdicts

SEEDS = range(5)


def curve(
    study: str,
    panel: str,
    name: str,
    xs: Iterable[float],
    value: Callable[[float], float],
    predicted: Callable[[float], float] | None = None,
    relation: str = "",
    *,
    tolerance: float = 0.0,
    noise: float = 0.01,
    seeds: Iterable[int] = SEEDS,
) -> list[Record]:
    """The points of a curve: `value(x)` at every seed, off by a share of at most `noise` that is 0 on average."""
    offsets = (0.3, -1.0, 1.0, -0.7, 0.4)
    return [
        PointRecord(
            run=f"{study}-seed{seed}",
            study=study,
            panel=panel,
            curve=name,
            seed=seed,
            x=x,
            value=value(x) * (1 + noise * offsets[(seed + k) % len(offsets)]),
            predicted=None if predicted is None else predicted(x),
            relation=relation,
            tolerance=tolerance,
            n=100,
            d=8,
            estimator="exact",
        )
        for seed in seeds
        for k, x in enumerate(xs)
    ]


def whole(study: str, *curves: list[Record], seeds: Sequence[int] = SEEDS, finished: int | None = None) -> list[Record]:
    """The records of a study: its begin, its points, and the end of the first `finished` seeds (all by default)."""
    begin = StudyRecord(run=study, study=study, seeds=list(seeds), full=False, versions={"torch": "2.13.0"})
    done = list(seeds) if finished is None else list(seeds)[:finished]
    ends = [SeedRecord(run=f"{study}-seed{seed}", study=study, seed=seed, seconds=1.5) for seed in done]
    return [begin, *(record for one in curves for record in one), *ends]


def studies(*lines: list[Record]) -> points.Studies:
    """These records as a page reads them."""
    return points.of_records([record for one in lines for record in one], {}, [])


def verdict(study: str, *curves: list[Record]) -> tuple[str, str]:
    """The word and the paragraph on a study of these curves."""
    found = verdicts.verdict(studies(whole(study, *curves)), study)
    return found.verdict, found.text


def save(folder: Path, *lines: list[Record], config: str | None = None) -> Path:
    """A folder as `icsbound study` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    with records.Writer(folder / "records.jsonl") as writer:
        for one in lines:
            for record in one:
                writer.write(record)
    if config is not None:
        (folder / "config.json").write_text(config)
    return folder
