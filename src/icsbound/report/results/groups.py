"""Which lines of a table belong together: runs that differ in arm and seed alone, and what was done to them.

A *group* is every choice of a run but its arm and seed; only runs of one group are ever compared. A *case* is what an
accuracy was taken under: the shift of the input, the change of the weights, the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from icsbound.results import Line

Where: TypeAlias = tuple[tuple[str, Any], ...]

OWN = ("setting", "phase", "dataset", "model", "batch_size", "epochs", "split")
REST = "as trained"  # the case of clean images, the weights as they were trained, and stored statistics
CASE = ("shift", "severity", "perturbation", "remedy", "eval_batch")
# Of a line's config: its arm and seed, what the line names itself, and what decides how fast it ran.
_LEFT_OUT = {"arm", "seed", "data", "model", "split", "recipe.batch_size", "recipe.epochs", "threads"}


@dataclass(frozen=True)
class Group:
    """Runs that differ in arm and seed alone. `label` is what tells this group from the others of its table."""

    where: Where
    label: str

    def __getitem__(self, name: str) -> Any:
        return dict(self.where)[name]

    @property
    def title(self) -> str:
        """The group in words, for a heading."""
        return ": ".join([self["setting"], *([self.label] if self.label else [])])


def group_of(line: Line) -> Where:
    """Every choice behind `line` but its arm and seed, and what belongs to either: values of the recipe that are the
    arm's own, and the weights that this seed began at where each has its own.
    """
    per_arm = {f"recipe.{name}" for name in line.config.get("per_arm") or ()}
    begun = {"pretrained.sha256"} if (line.config.get("pretrained") or {}).get("by_seed") else set()
    settings = {k: v for k, v in _leaves(line.config).items() if k not in _LEFT_OUT | per_arm | begun}
    return tuple((name, getattr(line, name)) for name in OWN) + tuple(sorted(settings.items()))


def case_of(line: Line) -> Where:
    """What the accuracy of `line` was taken under."""
    return tuple((name, getattr(line, name)) for name in CASE)


def groups(lines: Sequence[Line]) -> list[Group]:
    """The groups of `lines`: confirmed ones first, otherwise in the order in which they began."""
    found = list(dict.fromkeys(group_of(line) for line in lines))
    found.sort(key=lambda where: dict(where)["phase"] != "confirm")
    labels: dict[Where, str] = {}
    for setting in {dict(where)["setting"] for where in found}:
        labels |= _labels([where for where in found if dict(where)["setting"] == setting])
    return [Group(where, labels[where]) for where in found]


def _labels(found: list[Where]) -> dict[Where, str]:
    """For each group of one setting the choices that tell it from the others, and no more of them than that takes."""
    tables = [dict(where) for where in found]
    told: list[tuple[str, ...]] = [() for _ in found]
    chosen: list[str] = []
    for name in dict.fromkeys([*OWN[1:], "dropout", *(name for table in tables for name in table)]):
        finer = [(*key, repr(table.get(name))) for key, table in zip(told, tables, strict=True)]
        if len(set(finer)) > len(set(told)):
            told, chosen = finer, [*chosen, name]
    return {where: ", ".join(said(n, dict(where).get(n)) for n in chosen) for where in found}


def said(name: str, value: Any) -> str:
    """One choice in words."""
    name = name.rpartition(".")[2].replace("_", " ")
    return str(value) if name in ("phase", "dataset", "model", "split") else f"{name} {value}"


def case_text(where: Where) -> str:
    """A case in words; empty for that of `REST`."""
    case = dict(where)
    shift = f"{case['shift']} {case['severity']}" if case["severity"] else case["shift"]
    parts = [] if shift == "none" else [shift]
    parts += [case[name] for name in ("perturbation", "remedy") if case[name] != "none"]
    parts += [f"statistics of batches of {case['eval_batch']}"] if case["eval_batch"] else []
    return ", ".join(parts)


def case_name(where: Where) -> str:
    """A case in words, that of `REST` too."""
    return case_text(where) or REST


def slug(text: str, taken: Iterable[str] = ()) -> str:
    """`text` as a part of a file's name, unlike those `taken`: small letters, digits, dots and hyphens."""
    plain = re.sub(r"[^a-z0-9.]+", "-", text.lower())[:60].strip("-.") or "group"
    taken = set(taken)
    return next(name for k in range(1, len(taken) + 2) if (name := plain if k == 1 else f"{plain}-{k}") not in taken)


def slugs(groups: Sequence[Group]) -> list[str]:
    """A name for each group, all different."""
    found: list[str] = []
    for group in groups:
        found.append(slug(group.title, found))
    return found


def _leaves(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{above}{key}.")
        else:
            found[above + key] = tuple(value) if isinstance(value, list) else value
    return found
