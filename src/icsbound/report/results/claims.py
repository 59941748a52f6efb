"""Claims that were fixed before the runs which judge them: a short list in a file, and what a table says to each.

    [{"name": "clean", "says": "Unitization beats batch normalization on clean images.",
      "setting": "cifar10", "arm": "unitized", "control": "bn", "shows": "higher", "seeds": [100, 101, 102]},
     {"name": "no-data", "says": "Without data it is no worse than statistics estimated anew.",
      "setting": "cifar10", "arm": "unitized", "control": "bn", "control_case": "recalibrate:5120",
      "shows": "no worse", "margin": 0.5, "seeds": [100, 101, 102]}]

Only lines of phase `confirm` on the test split count, and of these the seeds that the claim names, no more and no
fewer: a verdict that could be had by stopping at the right moment would prove nothing. A file is a round: Holm's
adjustment counts its claims together, and those of a later round, on fresh seeds, among themselves.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from icsbound._check import InputError, fail, is_text, nearest, one_of, real
from icsbound.report.intervals import LEVEL, Interval, holm, p_value, student
from icsbound.report.results.contrasts import averaged, measured
from icsbound.report.results.groups import REST, Where, case_name
from icsbound.report.wording import listed
from icsbound.results import Line

SHOWS = ("higher", "no worse")
ByCase: TypeAlias = dict[tuple[Where, str], dict[str, dict[int, float]]]  # group and case -> arm -> seed -> accuracy


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Accuracy of `arm` under `case` is higher than that of `control` under `control_case`, or no worse than it by more
    than `margin` percentage points. A case is named as the table of results names it: "as trained", "recalibrate:5120",
    "contrast 3"; the control's is the arm's unless it is given. `unlike` names what else the two may differ in, as the
    config of a line names it: "recipe.lr" where each was trained at a rate of its own. Where the setting has both arms
    in several such ways, the control stands in a setting of its own, `control_setting`.
    """

    name: str
    says: str
    setting: str
    arm: str
    control: str
    shows: str
    seeds: tuple[int, ...]
    case: str = REST
    control_case: str = ""
    control_setting: str = ""
    margin: float = 0.0
    unlike: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("shows", self.shows, SHOWS)
        real("margin", self.margin, 0.0, 100.0)
        if (self.shows == "no worse") != (self.margin > 0):
            fail("margin", "be above 0 points where a claim shows 'no worse', and not given elsewhere", self.margin)
        if len(set(self.seeds)) < max(2, len(self.seeds)):
            fail("seeds", "be at least two, all different", list(self.seeds))
        object.__setattr__(self, "control_case", self.control_case or self.case)
        object.__setattr__(self, "control_setting", self.control_setting or self.setting)

    @property
    def free(self) -> tuple[str, ...]:
        """What the two may differ in: their settings are named, each by itself."""
        return ("setting", *self.unlike)

    @property
    def sides(self) -> tuple[str, str]:
        """Under what the arm and its control are measured, in words."""
        there = f" of {self.control_setting}" if self.control_setting != self.setting else ""
        return self.case, self.control_case + there


@dataclass(frozen=True)
class Judged:
    """What the lines say to `claim`. `interval` is Student's for the differences on those of its seeds that were run;
    `p` tests, on both sides, a difference of 0, or of minus the margin; `adjusted` is Holm's over all claims of the
    file, of which those that wait count as 1.
    """

    claim: Claim
    accuracies: tuple[float, ...]
    controls: tuple[float, ...]
    interval: Interval
    p: float
    adjusted: float
    lacks: str = ""  # what it waits for, where more than seeds is missing

    @property
    def verdict(self) -> str:
        """`confirmed`, `refuted` or `not resolved` once every seed was run, and until then `waiting`."""
        if self.interval.count < len(self.claim.seeds):
            return "waiting"
        if self.adjusted >= 1 - LEVEL:
            return "not resolved"
        return "confirmed" if self.interval.mean > -self.claim.margin / 100 else "refuted"


@dataclass(frozen=True)
class Round:
    """The claims of one file, that were fixed together; `name` tells it from other rounds, and is empty without any."""

    name: str
    judged: list[Judged]


def rounds(paths: Sequence[Path], lines: Sequence[Line]) -> list[Round]:
    """What `lines` say to each file of claims. Raises InputError where a file is given twice, or as `read` and `judge`
    do.
    """
    if twice := next((str(path) for path in paths if paths.count(path) > 1), None):
        raise InputError(f"claims must be different files, got {twice!r} twice")
    several = len(paths) > 1
    return [Round(f"round {k}" if several else "", judge(read(path), lines)) for k, path in enumerate(paths, 1)]


def read(path: Path) -> list[Claim]:
    """The claims in the JSON file at `path`. Raises InputError naming the file, the claim and what in it is wrong."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"claims must be a JSON file that can be read, got {str(path)!r}: {error}") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f"{path} must hold a list of claims, each an object of names and values")
    found: list[Claim] = []
    for number, value in enumerate(values, 1):
        try:
            found.append(_claim(value))
        except InputError as error:
            raise InputError(f"{path}, claim {number}: {error}") from None
    names = [claim.name for claim in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path} must name each claim differently, got {twice!r} twice")
    return found


_TYPES: dict[str, Any] = {"str": str, "float": (int, float)}
_LISTS: dict[str, Any] = {"tuple[int, ...]": (int, "whole numbers"), "tuple[str, ...]": (str, "names")}


def _claim(value: dict[str, Any]) -> Claim:
    fields = {field.name: field for field in dataclasses.fields(Claim)}
    for name, content in value.items():
        if name not in fields:
            fail("a claim's value", "be one of " + ", ".join(fields), name, nearest(name, fields))
        kind = str(fields[name].type)
        if kind in _LISTS:
            element, words = _LISTS[kind]
            if not isinstance(content, list) or not all(type(one) is element for one in content):
                fail(name, f"be a list of {words}", content)
        elif isinstance(content, bool) or not isinstance(content, _TYPES[kind]):
            fail(name, f"be {kind}", content)
    if not is_text(value):
        fail("a claim", "be of printable text", value)
    if missing := [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in value]:
        fail("a claim", f"say {missing[0]}", value)
    return Claim(**{**value, "seeds": tuple(value["seeds"]), "unlike": tuple(value.get("unlike", ()))})


def judge(claims: Sequence[Claim], lines: Sequence[Line]) -> list[Judged]:
    """Every claim with what `lines` say to it. Raises InputError where they hold several experiments that a claim could
    mean: runs of one setting which differ in more than arm and seed.
    """
    counted = [line for line in lines if line.phase == "confirm" and line.split == "test"]
    singly, means = measured(counted), measured(averaged(counted))
    by_case = {(group, case_name(case)): by_arm for (group, case), by_arm in {**means, **singly}.items()}
    found = []
    for claim in claims:
        own, other = _accuracies(claim, by_case)
        differences = [a - b for a, b in zip(own, other, strict=True)]
        whole = len(own) == len(claim.seeds)
        p = p_value([d + claim.margin / 100 for d in differences]) if whole else 1.0
        found.append(Judged(claim, own, other, student(differences), p, p, "" if whole else _lacking(claim, by_case)))
    adjusted = holm([judged.p for judged in found])
    return [dataclasses.replace(judged, adjusted=value) for judged, value in zip(found, adjusted, strict=True)]


def _accuracies(claim: Claim, by_case: ByCase) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Accuracies of the arm and of its control on the seeds of `claim` that both were run on."""

    def rest(group: Where) -> Where:
        return tuple((name, value) for name, value in group if name not in claim.free)

    def of(setting: str) -> dict[Where, None]:
        return dict.fromkeys(group for group, _ in by_case if dict(group)["setting"] == setting)

    pairs = []
    for own, other in itertools.product(of(claim.setting), of(claim.control_setting)):
        if rest(own) != rest(other):
            continue
        a = by_case.get((own, claim.case), {}).get(claim.arm, {})
        b = by_case.get((other, claim.control_case), {}).get(claim.control, {})
        if seeds := [seed for seed in claim.seeds if seed in a and seed in b]:
            pairs.append((tuple(a[s] for s in seeds), tuple(b[s] for s in seeds)))
    if len(pairs) > 1:
        raise InputError(
            f"claim {claim.name!r} must mean one experiment, got {len(pairs)} of setting {claim.setting!r} that differ "
            "in more than arm and seed"
        )
    return pairs[0] if pairs else ((), ())


def _lacking(claim: Claim, by_case: ByCase) -> str:
    """What a claim waits for besides seeds: a name that no line bears, as a misspelt one, or arms trained alike."""
    settings = {str(dict(group)["setting"]) for group, _ in by_case}
    sides = []
    for setting, arm, case in (
        (claim.setting, claim.arm, claim.case),
        (claim.control_setting, claim.control, claim.control_case),
    ):
        if setting not in settings:
            return f"no line of setting {setting!r}{nearest(setting, settings)}"
        by_name: dict[str, list[dict[str, Any]]] = {}
        for (group, name), by_arm in by_case.items():
            if dict(group)["setting"] == setting and arm in by_arm:
                by_name.setdefault(name, []).append(dict(group))
        if case not in by_name:
            return f"no line of {arm!r} " + (f"under {case!r}{nearest(case, by_name)}" if by_name else "there")
        sides.append(by_name[case])
    unlike = [
        sorted(name for name in own.keys() | other if own.get(name) != other.get(name) and name not in claim.free)
        for own, other in itertools.product(*sides)
    ]
    differing = min(unlike, key=len)
    return f"the two arms differ in {listed(differing)}" if differing else ""
