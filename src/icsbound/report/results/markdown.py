"""The table of results as Markdown, for a repository: the same lines give the same text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from icsbound.report.figure import Figure
from icsbound.report.intervals import Interval
from icsbound.report.markdown import image, plain, titled
from icsbound.report.markdown import table as table_of
from icsbound.report.results import reproduce, tables
from icsbound.report.results.claims import Round
from icsbound.report.results.contrasts import Contrast
from icsbound.report.results.findings import alerts, basis, of_claims, of_layers, p_text
from icsbound.report.results.groups import Group, case_name, slugs
from icsbound.report.results.table import Table
from icsbound.report.wording import count, percent, signed

_RECALIBRATED = (
    "`recalibrate:N` marks networks whose statistics were estimated anew on N training images after training; with "
    "`+augment` on images changed at random as in training."
)
_HEAD = ("case", "arm", "seeds", "accuracy", "control", "difference (95 % interval)", "resampled", "Holm p", "verdict")


def text(table: Table, figures: Sequence[Figure]) -> str:
    """The findings experiment by experiment as tables, with `figures` by their names in ``figures/``."""
    parts = [
        "# Results",
        "Accuracy of each arm, and its difference to its control in percentage points, paired by seed. Written by "
        "`icsbound report results.jsonl --markdown`: do not edit.",
        *(plain(f"> {finding.text} {finding.basis}") for finding in alerts(table)),
    ]
    if any("recalibrate:" in line.remedy for line in table.lines):
        parts.append(_RECALIBRATED)
    for fixed in table.claims:
        parts += _claims(fixed)
    for name, group in zip(slugs(table.groups), table.groups, strict=True):
        parts += [plain(f"## {group.title}"), plain(basis(table, group)), table_of(_rows(table, group))]
        for found in of_layers(table, group):
            listed = "\n".join(plain(f"- {one.text} **{one.verdict}**") for one in found.findings)
            parts += [plain(f"### {found.title}"), plain(found.basis), listed]
        parts += [image(figure) for figure in figures if figure.section == name]
    shared = [figure for figure in figures if figure.section == "batch-sizes"]
    parts += ["## Batch sizes", *map(image, shared)] if shared else []
    shifts = tables.shifts(table)
    parts += titled(shifts, "##") if shifts.rows else []
    pairs = [plain(f"- {name}: {value}") for name, value in reproduce.setting(table)]
    parts += ["## How to reproduce", textwrap.indent(reproduce.commands(table), "    "), "\n".join(pairs)]
    return "\n\n".join(parts) + "\n"


def _claims(fixed: Round) -> list[str]:
    """The claims of one file as a section of their own."""
    found = of_claims(fixed)
    judged_by = ("difference (95 % interval)", "to show", "Holm p")
    rows: list[tuple[str, ...]] = [
        ("claim", "verdict", *judged_by, "arm", "accuracy", "control", "accuracy", "seeds"),
    ]
    for judged in fixed.judged:
        claim, shown = judged.claim, _difference(judged.interval) if judged.interval.known else ""
        waiting = judged.verdict == "waiting"
        own, other = claim.sides
        rows.append(
            (
                claim.says,
                f"**{judged.verdict}**",
                shown,
                f"> {signed(-claim.margin)}" if claim.margin else "> 0",
                "" if waiting else p_text(judged.adjusted),
                f"`{claim.arm}`, {own}",
                _mean(judged.accuracies),
                f"`{claim.control}`, {other}",
                _mean(judged.controls),
                f"{judged.interval.count} of {len(claim.seeds)}" + (f": {judged.lacks}" if judged.lacks else ""),
            )
        )
    return [plain(f"## {found.title}"), found.basis, table_of(rows)]


def _mean(accuracies: Sequence[float]) -> str:
    return percent(sum(accuracies) / len(accuracies), 2) if accuracies else ""


def _rows(table: Table, group: Group) -> list[tuple[str, ...]]:
    means = table.of(table.means, group)
    against = {(case_name(c.case), c.arm): c for c in table.against(group)}
    rows: list[tuple[str, ...]] = [_HEAD]
    for case, part in means.groupby("case", sort=False):
        for arm in table.arms_in(part):
            values = part.loc[part["arm"] == arm, "accuracy"] / 100
            start = (str(case), f"`{arm}`", str(len(values)), percent(values.mean(), 2))
            contrast = against.get((str(case), arm))
            rows.append(start + (_against(contrast) if contrast else ("",) * 5))
    return rows


def _against(c: Contrast) -> tuple[str, ...]:
    if not c.interval.known:
        why = f"{count(len(c.seeds), 'seed')}: no interval" if len(c.seeds) == 1 else "the same at every seed"
        return f"`{c.control}`", f"{signed(100 * c.interval.mean)} ({why})", "", "", c.verdict
    boot = (signed(100 * end) for end in c.boot)
    adjusted = p_text(c.adjusted)
    return f"`{c.control}`", _difference(c.interval), " to ".join(boot), adjusted, f"**{c.verdict}**"


def _difference(interval: Interval) -> str:
    """A mean with its interval, in percentage points."""
    mean, low, high = (signed(100 * value) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"
