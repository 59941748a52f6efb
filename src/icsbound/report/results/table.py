"""From a file or folder to what its page rests on: the lines, what compares, and the records of the runs below."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from icsbound import results
from icsbound._check import InputError
from icsbound.report import runs
from icsbound.report.channels import with_channels
from icsbound.report.results.claims import Round, rounds
from icsbound.report.results.contrasts import Contrast, averaged, contrasts
from icsbound.report.results.groups import CASE, Group, Where, case_name, case_of, group_of, groups
from icsbound.report.runs import Study
from icsbound.results import Line


@dataclass(frozen=True)
class Table:
    """A table of results. `headline` are the contrasts that the page speaks of, where a kind of cases counts as its
    mean; `cells` those of every single case; `claims` what was claimed before the runs, by file. `accuracy` has a row
    for each group, case, arm and seed, in percent, `means` the same for the cases of the headline. `studies` are the
    runs below the folder that belong to a group, with what was recorded of their layers while they trained.
    """

    lines: list[Line]
    groups: list[Group]
    arms: list[str]  # controls first, then as the lines have them
    headline: list[Contrast]
    cells: list[Contrast]
    claims: list[Round]
    notes: list[str]
    planned: int | None  # runs of the sweep in this folder, where it is one
    accuracy: pd.DataFrame = field(repr=False)
    means: pd.DataFrame = field(repr=False)
    studies: dict[Where, Study] = field(repr=False)

    def of(self, frame: pd.DataFrame, group: Group) -> pd.DataFrame:
        """The rows of `frame` that belong to `group`."""
        return frame[frame["group"] == self.groups.index(group)]

    def against(self, group: Group) -> list[Contrast]:
        """The contrasts of the headline in `group`."""
        return [c for c in self.headline if c.group == group.where]

    def split(self, group: Group) -> str:
        """What accuracies in `group` were taken on, and on how many images where all its lines, or for those that do
        not tell the records of its runs, have one number.
        """
        images = {self.lines[row].images for row in self.of(self.accuracy, group).index}
        if None in images and (study := self.studies.get(group.where)):
            images = images - {None} | {run.info.evaluation_size if run.info else None for run in study.runs}
        one = images.pop() if len(images) == 1 else None
        return f"{group['split']} split" + (f" of {one:,} images" if one else "")

    def arms_in(self, frame: pd.DataFrame) -> list[str]:
        """The arms that `frame` has rows of, in the order of the page."""
        present = set(frame["arm"])
        return [arm for arm in self.arms if arm in present]


def load(path: Path, claims: Sequence[Path] = ()) -> Table:
    """The table at `path`, a file or a folder with ``results.jsonl``, and what it says to the files of `claims`. Raises
    InputError where it holds no line.
    """
    folder = path if path.is_dir() else None
    file = path / "results.jsonl" if folder else path
    if not file.is_file():
        raise InputError(f"results must be a file of results or a folder with results.jsonl, got {str(path)!r}")
    notes: list[str] = []
    with runs.noted(notes, file, file.name):
        lines = list({line.key: line for line in results.read(file)}.values())
    if not lines:
        raise InputError(f"{file} must hold at least one line of results, got none")
    found = groups(lines)
    arms = sorted(dict.fromkeys(line.arm for line in lines), key=lambda arm: arm != "bn")
    averages, studies = averaged(lines), _studies(folder, lines)
    return Table(
        lines=lines,
        groups=found,
        arms=arms,
        headline=_in_order(contrasts(averages), arms),
        cells=_in_order(contrasts(lines), arms),
        claims=rounds(claims, lines),
        notes=notes + [note for study in studies.values() for note in study.notes],
        planned=_planned(folder),
        accuracy=_frame(lines, found),
        means=_frame(averages, found),
        studies=studies,
    )


def _in_order(found: list[Contrast], arms: list[str]) -> list[Contrast]:
    """`found` with the arms of each group and case in the order of `arms`."""
    place = {key: k for k, key in enumerate(dict.fromkeys((c.group, c.case) for c in found))}
    return sorted(found, key=lambda c: (place[c.group, c.case], arms.index(c.arm)))


def _frame(lines: Sequence[Line], found: list[Group]) -> pd.DataFrame:
    number = {group.where: k for k, group in enumerate(found)}
    rows = [
        (
            number[group_of(line)],
            line.arm,
            line.seed,
            100 * line.accuracy,
            *(getattr(line, name) for name in CASE),
            case_name(case_of(line)),
        )
        for line in lines
    ]
    return pd.DataFrame(rows, columns=["group", "arm", "seed", "accuracy", *CASE, "case"])


def _planned(folder: Path | None) -> int | None:
    """How many runs the sweep in `folder` has, if it is a sweep's."""
    config = runs.json_object(folder / "config.json") if folder else {}
    parts = [config.get(name) for name in ("arms", "seeds", "batch_sizes")]
    if not all(isinstance(part, list) for part in parts):
        return None
    total = 1
    for part in parts:
        total *= len(part or [])
    return total


def _studies(folder: Path | None, lines: list[Line]) -> dict[Where, Study]:
    """The runs one level below `folder` whose lines are in the table, by group."""
    group_by_config = {_as_text(line.config): group_of(line) for line in lines}
    by_group: dict[Where, dict[tuple[str, int], runs.Run]] = {}
    for path in sorted(folder.glob("*/records.jsonl")) if folder else []:
        config = results.choices(runs.json_object(path.parent / "config.json"))
        if group := group_by_config.get(_as_text(config)):
            for run in runs.read(path, folder or Path(), []):
                by_group.setdefault(group, {}).setdefault((run.arm, run.seed), run)
    # What is wrong with records is told by the page of their own run; what is with a network, here too.
    found = {group: runs.assembled([*own.values()], folder or Path(), {}, []) for group, own in by_group.items()}
    return {group: with_channels(study) for group, study in found.items()}


def _as_text(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
