"""What a table of results says about an arm against its control: paired differences over seeds, with their
uncertainty.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from icsbound._check import InputError
from icsbound.report.controls import control
from icsbound.report.intervals import LEVEL, Interval, bootstrap, holm, p_value, student
from icsbound.report.results.groups import Where, case_of, case_text, group_of, groups
from icsbound.results import Line


@dataclass(frozen=True)
class Contrast:
    """Accuracy of `arm` minus that of `control` on the same `seeds`, in fractions, among runs alike in all else.

    `interval` is Student's for the mean of `differences`, `boot` resamples seeds as a check. `p` is that of the t
    test, `adjusted` that of Holm over the `family` contrasts of the same setting and phase.
    """

    group: Where
    case: Where
    arm: str
    control: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    controls: tuple[float, ...]
    interval: Interval
    boot: tuple[float, float]
    p: float
    adjusted: float
    family: int

    @property
    def differences(self) -> list[float]:
        return [a - b for a, b in zip(self.accuracies, self.controls, strict=True)]

    @property
    def verdict(self) -> str:
        """`higher` or `lower` where the adjusted test tells the arms apart, else `not resolved`."""
        if self.adjusted >= 1 - LEVEL:
            return "not resolved"
        return "higher" if self.interval.mean > 0 else "lower"


def contrasts(lines: Sequence[Line]) -> list[Contrast]:
    """Every arm of `lines` against its control, in each group and case where they share a seed.

    With n paired differences d_i: mean ± t_{n-1} · s / √n. One difference, or equal ones at every seed, have no spread
    to judge by: then there is no interval and p is 1. Raises InputError where a measurement occurs twice with
    different accuracies.
    """
    found = []
    for (group, case), by_arm in measured(lines).items():
        for arm, accuracy in by_arm.items():
            against = control(arm, by_arm)
            if against is None or not (seeds := tuple(sorted(accuracy.keys() & by_arm[against].keys()))):
                continue
            own, other = (tuple(by_arm[name][seed] for seed in seeds) for name in (arm, against))
            differences = [a - b for a, b in zip(own, other, strict=True)]
            p = p_value(differences)
            found.append(
                Contrast(
                    group, case, arm, against, seeds, own, other, student(differences), bootstrap(differences), p, p, 1
                )
            )
    families: dict[Where, list[int]] = defaultdict(list)
    for index, contrast in enumerate(found):
        families[contrast.group[:2]].append(index)  # setting and phase
    for members in families.values():
        for index, adjusted in zip(members, holm([found[i].p for i in members]), strict=True):
            found[index] = dataclasses.replace(found[index], adjusted=adjusted, family=len(members))
    return found


def measured(lines: Sequence[Line]) -> dict[tuple[Where, Where], dict[str, dict[int, float]]]:
    """Group and case -> arm -> seed -> accuracy. Raises InputError where a measurement contradicts itself."""
    found: dict[tuple[Where, Where], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        case = case_of(line)
        known = found[group_of(line), case][line.arm].setdefault(line.seed, line.accuracy)
        if known != line.accuracy:
            what = ", ".join(filter(None, (line.setting, line.arm, f"seed {line.seed}", case_text(case))))
            raise InputError(
                f"results must hold each measurement once, got {what} with accuracy {known} and {line.accuracy}"
            )
    return found


def averaged(lines: Sequence[Line]) -> list[Line]:
    """`lines` with the cases of one kind as their mean: all shifts into one, all prunings, all roundings.

    Runs that were measured under the same cases have their mean over these, and where others were measured under
    others, another mean. A run that lacks some of the cases of another is left out (see `incomplete`). A kind of one
    case stays as it is, and so do cases of which two means would be called the same.
    """
    found: list[Line] = []
    for kind, by_run in _kinds(lines).values():
        wholes = _wholes(by_run)
        names = [_mean_of(kind, cases) for cases in wholes]
        for cases, name in zip(wholes, names, strict=True):
            for own in (own for own in by_run.values() if own.keys() == set(cases)):
                if names.count(name) > 1:
                    found += own.values()
                    continue
                accuracy = float(np.mean([own[case].accuracy for case in cases]))
                found.append(dataclasses.replace(own[cases[0]], accuracy=accuracy, **name))
    return found


def incomplete(lines: Sequence[Line]) -> int:
    """How many runs lack some of the cases of a kind that another run has, and none that it has not."""
    lacking: set[tuple[Where, str, int]] = set()
    for (group, _), (_, by_run) in _kinds(lines).items():
        wholes = [set(cases) for cases in _wholes(by_run)]
        lacking |= {(group, *run) for run, own in by_run.items() if own.keys() not in wholes}
    return len(lacking)


_Runs: TypeAlias = dict[tuple[str, int], dict[Where, Line]]  # arm and seed -> case -> its line


def _kinds(lines: Sequence[Line]) -> dict[tuple[Where, Where], tuple[str, _Runs]]:
    """Group and kind of cases -> what kind of change of the weights it has, and its runs."""
    found: dict[tuple[Where, Where], tuple[str, _Runs]] = {}
    for line in lines:
        change = line.perturbation.partition(":")[0]
        change = change if change in ("prune", "quantize") else line.perturbation
        kind = (
            ("shift", line.shift != "none"),
            ("change", change),
            ("remedy", line.remedy),
            ("batch", line.eval_batch),
        )
        _, runs = found.setdefault((group_of(line), kind), (change, defaultdict(dict)))
        runs[line.arm, line.seed][case_of(line)] = line
    return found


def _wholes(by_run: _Runs) -> list[tuple[Where, ...]]:
    """The sets of cases that runs have and that are no part of another run's."""
    sets = dict.fromkeys(frozenset(own) for own in by_run.values())
    every = dict.fromkeys(case for own in by_run.values() for case in own)
    return [tuple(c for c in every if c in cases) for cases in sets if not any(cases < other for other in sets)]


def _mean_of(kind: str, cases: Sequence[Where]) -> dict[str, Any]:
    """What a line says of itself that is the mean over `cases`: nothing where they are one."""
    shifts = dict.fromkeys((dict(c)["shift"], dict(c)["severity"]) for c in cases)
    changes = dict.fromkeys(dict(c)["perturbation"] for c in cases)
    found: dict[str, Any] = {}
    if len(shifts) > 1:
        found |= {"shift": f"mean of {_counted(list(shifts))}", "severity": 0}
    if len(changes) > 1:
        found |= {"perturbation": f"mean of {kind} {', '.join(text.partition(':')[2] for text in changes)}"}
    return found


def _counted(shifts: list[tuple[str, int]]) -> str:
    names, severities = dict.fromkeys(n for n, _ in shifts), sorted({s for _, s in shifts})
    if len(shifts) == len(names) * len(severities):
        what = f"{len(names)} corruptions" if len(names) > 1 else next(iter(names))
        if len(severities) == 1:
            return f"{what} at severity {severities[0]}"
        whole = severities == list(range(severities[0], severities[-1] + 1))
        levels = f"{severities[0]} to {severities[-1]}" if whole else ", ".join(map(str, severities))
        return f"{what} at severities {levels}"
    return f"{len(shifts)} corruptions with severities"


def summary(lines: Sequence[Line]) -> list[str]:
    """`lines` in words, one for each arm and measurement: the mean accuracy and, over two seeds or more, the
    difference to the control.
    """
    against = {(c.group, c.case, c.arm): c for c in contrasts(lines)}
    known = groups(lines)
    labels = {g.where: g.label for g in known}
    several = len({g["setting"] for g in known}) > 1
    text = []
    for (group, case), by_arm in measured(lines).items():
        setting = dict(group)["setting"] if several else ""
        where = ", ".join(filter(None, (setting, labels[group], case_text(case))))
        for arm, accuracies in by_arm.items():
            n = len(accuracies)
            body = f"{100 * float(np.mean(list(accuracies.values()))):.2f} % over {n} seed{'s' if n > 1 else ''}"
            c = against.get((group, case, arm))
            if c is not None:
                body += f"; {100 * c.interval.mean:+.2f} to {c.control}"
                if c.interval.known:
                    verdict = ", not resolved" if c.verdict == "not resolved" else ""
                    low, high = 100 * c.interval.low, 100 * c.interval.high
                    body += f" (95 %: {low:+.2f} to {high:+.2f}; p {c.p:.2g}, Holm {c.adjusted:.2g}{verdict})"
                else:
                    body += " (no interval)"
            text.append(f"{', '.join(filter(None, (where, arm)))}: {body}")
    return text
