"""What the page of a table says first: each arm against its control, experiment by experiment."""

from __future__ import annotations

import pandas as pd

from icsbound.report import statistics as st
from icsbound.report.finding import Finding
from icsbound.report.finding import Group as Findings
from icsbound.report.movement import shift
from icsbound.report.results.claims import Judged, Round
from icsbound.report.results.contrasts import Contrast, incomplete
from icsbound.report.results.groups import REST, Group, case_name
from icsbound.report.results.table import Table
from icsbound.report.wording import count, listed, number, percent, points, signed


def all_findings(table: Table) -> list[Findings]:
    """Every finding of the page in reading order; what went wrong comes first."""
    found = [Findings("Look at this first", "", alerts(table))]
    found += [of_claims(one) for one in table.claims]
    for group in table.groups:
        found += [Findings(group.title, basis(table, group), of_group(table, group)), *of_layers(table, group)]
    return [group for group in found if group.findings]


def alerts(table: Table) -> list[Finding]:
    """Lines that could not be read, runs without a line, arms without a partner."""
    found = [Finding(note, "alert") for note in table.notes]
    done = len({(line.arm, line.seed, line.batch_size) for line in table.lines})
    if table.planned is not None and done < table.planned:
        text = f"{done} of {count(table.planned, 'run')} of this sweep are finished."
        found.append(Finding(text, "alert", "The others are missing from every number below."))
    if lacking_cases := incomplete(table.lines):
        text = f"{count(lacking_cases, 'run')} lack some of the cases that others like them were measured under."
        found.append(Finding(text, "alert", "Means over cases leave them out."))
    for group in table.groups:
        own = table.of(table.accuracy, group)
        seeds = {arm: set(own.loc[own["arm"] == arm, "seed"]) for arm in table.arms_in(own)}
        lacking = {arm: sorted(set().union(*seeds.values()) - had) for arm, had in seeds.items()}
        lacking = {arm: missing for arm, missing in lacking.items() if missing}
        if lacking:
            parts = [f"{arm} lacks {count(len(missing), 'seed')}" for arm, missing in lacking.items()]
            found.append(Finding(f"{group.title}: {listed(parts)}.", "alert", "Differences use shared seeds alone."))
    return found


def of_claims(fixed: Round) -> Findings:
    """The claims that were fixed together before the runs, each with its verdict."""
    basis = (
        "Each claim, its seeds and its margin were fixed before the runs that judge it. Only confirming runs on the "
        f"test split count; verdicts are by Holm's adjustment over {count(len(fixed.judged), 'claim')}. Elsewhere the "
        "same difference is judged among the contrasts of its setting, and another verdict there settles no claim."
    )
    found = []
    for judged in fixed.judged:
        claim = judged.claim
        own, other = claim.sides
        text = f"{claim.says} {claim.arm}, {own}, against {claim.control}, {other}"
        text += f": {points(judged.interval)}." if judged.interval.count else "."
        found.append(Finding(text, judged.verdict, claim_evidence(judged)))
    name = f", {fixed.name}" if fixed.name else ""
    return Findings(f"Claims fixed before the runs{name}", basis, found)


def claim_evidence(judged: Judged) -> str:
    """How far one claim was run, and what it is tested for."""
    claim, done = judged.claim, judged.interval.count
    seeds = f"{done} of {count(len(claim.seeds), 'seed')}" if judged.verdict == "waiting" else count(done, "seed")
    seeds += f" ({judged.lacks})" if judged.lacks else ""
    margin = f" by more than {claim.margin:g} points" if claim.margin else ""
    test = "" if judged.verdict == "waiting" else f"; p {p_text(judged.p)}, Holm {p_text(judged.adjusted)}"
    return f"{claim.setting}; to show: {claim.shows}{margin}; {seeds}{test}."


def basis(table: Table, group: Group) -> str:
    """What the findings of one experiment rest on."""
    own = table.of(table.accuracy, group)
    dropout = dict(group.where).get("dropout")
    where = (
        f"{group['model']} on {group['dataset']}, {count(group['epochs'], 'epoch')}, batch size {group['batch_size']}"
        f"{f', dropout {dropout}' if dropout else ''}; {table.split(group)}, "
        f"{count(own['seed'].nunique(), 'seed')}. "
    )
    family = next((c.family for c in table.against(group)), 0)
    how = (
        f"Differences are paired by seed, with Student t intervals; verdicts are by Holm's adjustment over the "
        f"{count(family, 'contrast')} of this setting. "
        if family
        else ""
    )
    return where + how + _phase(table, group)


def _phase(table: Table, group: Group) -> str:
    """What may be concluded: a round that claims again what an earlier one showed tests it on its own seeds alone."""
    if group["phase"] != "confirm":
        return "Exploration: something may have been chosen by these accuracies, and no verdict here confirms anything."
    rounds = [fixed for fixed in table.claims if any(j.claim.setting == group["setting"] for j in fixed.judged)]
    if len(rounds) > 1:
        return (
            "Confirming runs of several rounds together: what a later round claims, an earlier one may have shown, so "
            "a verdict over the seeds of both is no fresh test. The claims above are judged on their own seeds."
        )
    return "Confirmation: nothing was chosen by these accuracies."


def of_group(table: Table, group: Group) -> list[Finding]:
    """A sentence for each arm and case of one experiment."""
    means = table.of(table.means, group)
    found = []
    against = {(case_name(c.case), c.arm): c for c in table.against(group)}
    compared = {case for case, _ in against}
    for case, rows in means.groupby("case", sort=False):
        for arm in table.arms_in(rows):
            values = rows.loc[rows["arm"] == arm, "accuracy"] / 100
            under = "" if case == REST else f"{_capital(str(case))}: "
            spread = f" ({percent(values.min())} to {percent(values.max())} by seed)" if len(values) > 1 else ""
            text = f"{under}{arm} reaches {percent(values.mean(), 2)}{spread}"
            contrast = against.get((str(case), arm))
            if contrast is None and case != REST and case in compared:
                continue  # a control, whose accuracy stands in each contrast
            if contrast is None:
                found.append(Finding(f"{text}.", "", count(len(values), "seed") + "."))
                continue
            control = f"against {contrast.control} ({percent(sum(contrast.controls) / len(contrast.controls), 2)})"
            text = f"{text}: {points(contrast.interval)} {control}."
            found.append(Finding(text, contrast.verdict, evidence(contrast)))
    return found


def of_layers(table: Table, group: Group) -> list[Findings]:
    """How far the layers moved in the runs of one experiment that were monitored, beside how accurate they became."""
    study = table.studies.get(group.where)
    main = st.main_part(study.distances) if study else pd.DataFrame()
    found = [shift(study, main[main["view"] == view], view) for view in st.views(main)] if study else []
    return [Findings(f"{group.title}: {_small(one.title)}", one.basis, one.findings) for one in found if one]


def evidence(contrast: Contrast) -> str:
    """What one contrast rests on: seeds, p before and after the adjustment, and the check by resampling."""
    seeds = count(len(contrast.seeds), "seed")
    if not contrast.interval.known:
        return f"{seeds}; not enough to judge by."
    low, high = (signed(100 * end) for end in contrast.boot)
    same = (contrast.boot[0] > 0 or contrast.boot[1] < 0) == (contrast.interval.verdict() != "not resolved")
    check = f"resampling seeds gives {low} to {high}" + ("" if same else ", which judges otherwise")
    return f"{seeds}; p {p_text(contrast.p)}, Holm {p_text(contrast.adjusted)}; {check}."


def p_text(value: float) -> str:
    """A p-value; of a very small one only that it is."""
    return number(value, 2) if value >= 1e-4 else "< 0.0001"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]
