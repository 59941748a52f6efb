"""Sets the page of studies: the verdict of each first, then its figures, tables and how to run it again."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import Any

from icsbound.report.finding import Finding, Group
from icsbound.report.page import Page
from icsbound.report.studies import figures, points, verdicts
from icsbound.report.studies.panels import CLAIMS
from icsbound.report.studies.points import Studies
from icsbound.report.tables import Table, fitting
from icsbound.report.wording import count, listed

LEAD = (
    "What the theory of internal covariate shift predicts, put to the test: measured points beside predicted curves. "
    "Each verdict is computed from the points, and would be another if they were."
)
SOURCE = "This page was computed from the file records.jsonl alone; icsbound report DIR builds it again."
TERMS = (
    (
        "holds, fails, not resolved",
        "Of a claim. Fails: some point contradicts the prediction, or what the claim calls for is excluded by the "
        "intervals. Not resolved: these seeds cannot tell.",
    ),
    (
        "agrees, contradicts",
        "Of a point, by its seeds: contradicts, if it misses the prediction by more than the prediction itself "
        "neglects, by Student's test with Holm's adjustment over all predicted points of the study, at 5 %.",
    ),
    ("W1", "The Earth Mover distance between two clouds of outputs, exact, with a certificate for every value."),
    (
        "frozen, eval and train law",
        "By which statistics batch norm works: one noisy draw held fixed, running averages, or those of each batch "
        "itself.",
    ),
    (
        "spread, scale-free",
        "The spread is the root mean square distance of the two clouds from their means. Scale-free: in units of it.",
    ),
)


def made(folder: Path) -> Page:
    """What the studies in `folder` say."""
    studies = points.load(folder)
    return Page(
        heading=heading(studies),
        lead=LEAD,
        facts=facts(studies),
        groups=groups(studies),
        terms=TERMS,
        sections={name: name.capitalize() for name in studies.begun},
        figures=figures.all_figures(studies),
        tables=tables(studies),
        command=command(studies.config),
        setting=setting(studies),
        source=SOURCE,
        config=studies.config,
    )


def heading(studies: Studies) -> str:
    """One study by its claim, several by their names."""
    names = list(studies.begun)
    return CLAIMS.get(names[0], names[0]) if len(names) == 1 else f"Studies of the theory: {listed(names, 8)}"


def facts(studies: Studies) -> list[tuple[str, str]]:
    """The few numbers at the top of the page."""
    asked = sum(len(record.seeds) for record in studies.begun.values())
    done = asked - sum(len(studies.missing(name)) for name in studies.begun)
    judged = studies.means[studies.means["relation"] != ""]
    agree = int((judged["verdict"] == points.AGREES).sum())
    found = [(f"{done} of {asked}", "seeds finished"), (f"{len(studies.frame):,}", "measurements")]
    return [*found, (f"{agree:,} of {len(judged):,}", "points agree with their prediction")] if len(judged) else found


def groups(studies: Studies) -> list[Group]:
    """What was cut short, then a paragraph a study."""
    found = [Group("Look at this first", "", alerts(studies))]
    for name in studies.begun:
        found.append(Group(CLAIMS.get(name, name), "", [verdicts.verdict(studies, name)]))
    return [group for group in found if group.findings]


def alerts(studies: Studies) -> list[Finding]:
    """Studies that are not whole, and lines that could not be read."""
    found = [Finding(note, "alert") for note in studies.notes]
    for name in studies.begun:
        missing = studies.missing(name)
        if missing:
            kept = count(int((studies.frame["study"] == name).sum()), "measurement")
            text = f"{name} was interrupted: of {count(len(studies.begun[name].seeds), 'seed')}, {len(missing)} not "
            text += f"finished ({listed([str(seed) for seed in missing], 8)})."
            found.append(Finding(text, "alert", f"Its verdict rests on the {kept} that were kept."))
    asked = studies.config.get("studies")
    if isinstance(asked, list) and (absent := [name for name in asked if name not in studies.begun]):
        found.append(Finding(f"Not begun: {listed([str(name) for name in absent], 8)}.", "alert"))
    return found


def tables(studies: Studies) -> list[Table]:
    """One table a study, with every averaged point that there is room for; those that contradict come first."""
    columns = ["figure", "curve", "x", "measured", "from", "to", "seeds", "predicted", "relation", "verdict", "n", "d"]
    note = (
        "Measured: mean over seeds; from and to end the 95 % Student interval. Relation: how measured and predicted "
        "should stand. Verdict: see “How to read the findings”."
    )
    found = []
    for name in studies.begun:
        means = studies.means[studies.means["study"] == name]
        wrong = means["verdict"] == points.CONTRADICTS
        rows = [_row(row) for part in (means[wrong], means[~wrong]) for row in part.to_dict("records")]
        found.append(
            Table(
                name=f"points-{name}",
                title=f"Points of {name}",
                note=note,
                columns=[*columns, "estimator"],
                rows=rows,
                folded=True,
                kept=int(wrong.sum()),
            )
        )
    return fitting(found, "records.jsonl")


def _row(row: dict[str, Any]) -> list[Any]:
    cells = [row["panel"], row["curve"], row["x"], row["mean"], row["low"], row["high"], row["seeds"], row["predicted"]]
    cells += [row["relation"] or None, row["verdict"] or None, row["n"], row["d"] or None, row["estimator"]]
    return [None if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells]


def command(config: dict[str, Any]) -> str:
    """The command that `config` stands for; empty where it is of none."""
    if not isinstance(config.get("studies"), list):
        return ""
    words = ["icsbound", "study", *map(str, config["studies"])]
    if config.get("seeds"):
        words += ["--seeds", *map(str, config["seeds"])]
    words += ["--full"] if config.get("full") else []
    words += ["--runs", str(config["runs"])] if config.get("runs") else []
    return shlex.join(words)


def setting(studies: Studies) -> list[tuple[str, str]]:
    """Seeds and versions."""
    pairs = [(name, f"seeds {listed([str(s) for s in record.seeds], 20)}") for name, record in studies.begun.items()]
    found = dict.fromkeys(f"{k} {v}" for record in studies.begun.values() for k, v in record.versions.items())
    return [*pairs, ("versions", ", ".join(found))]


def lines(folder: str | os.PathLike[str]) -> list[str]:
    """The verdicts of the studies in `folder`, a paragraph each."""
    studies = points.load(Path(folder))
    found = [f"! {finding.text}" for finding in alerts(studies)]
    for name in studies.begun:
        said = verdicts.verdict(studies, name)
        found.append(f"{name}: {said.verdict}. {said.text}")
    return found


def rows(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Every averaged point of the studies in `folder` as plain values, for JSON."""
    studies = points.load(Path(folder))
    found = []
    for row in studies.means.drop(columns=["place", "p"]).to_dict("records"):
        found.append({str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()})
    return found
