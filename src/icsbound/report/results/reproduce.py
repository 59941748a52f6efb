"""How to run a table again: for each experiment its sweeps, and the evaluations of what they trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from icsbound.report import reproduce
from icsbound.report.results.groups import Group, Where, case_of, group_of, slugs
from icsbound.report.results.table import Table
from icsbound.report.wording import listed
from icsbound.results import Line

_REMEDIES = {name: f"--{name}" for name in ("recalibrate", "augment", "mix", "standardize", "by-label", "shift-seed")}


def commands(table: Table) -> str:
    """A line for each command. Data that lie in a folder of the user's own also need ``--data-dir``."""
    found = []
    for name, group in zip(slugs(table.groups), table.groups, strict=True):
        for number, lines in enumerate(_parts([line for line in table.lines if group_of(line) == group.where]), 1):
            folder = name if number == 1 else f"{name}-part-{number}"
            found += [f"{_sweep(group, lines)} --out runs/{folder}", *_evaluations(folder, group, lines)]
    return "\n".join(found)


def _parts(lines: Sequence[Line]) -> list[list[Line]]:
    """`lines` of one group by sweep: all arms of a sweep have all of its seeds, and are measured in the same cases."""
    cases: dict[tuple[str, int], dict[Where, None]] = {}
    for line in lines:
        cases.setdefault((line.arm, line.seed), {})[case_of(line)] = None
    seeds: dict[tuple[str, frozenset[Where]], set[int]] = {}
    for (arm, seed), measured in cases.items():
        seeds.setdefault((arm, frozenset(measured)), set()).add(seed)
    parts: dict[tuple[frozenset[Where], frozenset[int]], list[Line]] = {}
    for line in lines:
        key = frozenset(cases[line.arm, line.seed])
        parts.setdefault((key, frozenset(seeds[line.arm, key])), []).append(line)
    return list(parts.values())


def _sweep(group: Group, lines: Sequence[Line]) -> str:
    """The command of one part, after what the files it reads have to hold: where arms have values of their own, and
    where runs did not begin at random weights, which a line knows by their hash alone.
    """
    base = {k: v for k, v in lines[0].config.items() if k not in ("arm", "seed")}
    start, said = base.get("pretrained"), []
    if start:
        file, each = ("WEIGHTS-{seed}", "{} of seed {}") if start.get("by_seed") else ("WEIGHTS", "{}")
        base["pretrained"] = {"file": file, **start}
        hashes = [each.format(f"{line.config['pretrained']['sha256'][:12]}…", line.seed) for line in lines]
        said = [f"# {file}: what these runs began at, by SHA-256 {listed(list(dict.fromkeys(hashes)), 40)}"]
    own = {
        line.arm: {k: v for k, v in line.config["recipe"].items() if k in (base.get("per_arm") or ()) and v is not None}
        for line in lines
    }
    sections = [
        f"# [{json.dumps(arm)}] " + "; ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        for arm, values in own.items()
        if values
    ]
    command = reproduce.command(
        {
            "by_arm": own,
            "arms": list(dict.fromkeys(line.arm for line in lines)),
            "seeds": sorted({line.seed for line in lines}),
            "batch_sizes": [group["batch_size"]],
            "setting": group["setting"],
            "phase": group["phase"],
            "scale_lr": False,  # the rate that is shown is the one that was used
            "base": base,
        }
    )
    return "\n".join([*(["# arms.toml, a line a value:", *sections] if sections else []), *said, command])


def _evaluations(name: str, group: Group, lines: Sequence[Line]) -> list[str]:
    """One command for each change of the weights and remedy, with all its shifts."""
    shifts: dict[tuple[str, str, int, str], dict[str, None]] = {}
    for case in dict.fromkeys(map(case_of, lines)):
        c = dict(case)
        folder, _, shift = c["shift"].rpartition("/")  # published images bear the name of their folder
        shift = f"{shift}:{c['severity']}" if c["severity"] else shift
        shifts.setdefault((c["perturbation"], c["remedy"], c["eval_batch"], folder), {})[shift] = None
    found = []
    for (perturbation, remedy, eval_batch, folder), names in shifts.items():
        if (perturbation, remedy, eval_batch, list(names)) == ("none", "none", 0, ["none"]):
            continue  # what the sweep itself measures
        words = ["icsbound", "evaluate", f"runs/{name}", "--setting", group["setting"], "--phase", group["phase"]]
        words += ["--shift", *_shortest(list(names)), *(["--shift-dir", folder] if folder else [])]
        words += ["--perturb", perturbation] if perturbation != "none" else []
        for part in remedy.split("+") if remedy != "none" else []:
            kind, _, value = part.partition(":")
            words += [_REMEDIES[kind], *([value] if value else [])] if kind in _REMEDIES else []
        words += ["--eval-batch", str(eval_batch)] if eval_batch else []
        found.append(shlex.join([*words, "--out", f"runs/{name}-evaluated"]))
    return found


def _shortest(names: list[str]) -> list[str]:
    """`names` with a corruption at all five severities as its name alone."""
    whole = {name for name in (n.partition(":")[0] for n in names) if {f"{name}:{k}" for k in range(1, 6)} <= {*names}}
    return list(dict.fromkeys(name.partition(":")[0] if name.partition(":")[0] in whole else name for name in names))


def setting(table: Table) -> list[tuple[str, str]]:
    """What was run, as pairs of a name and a value."""
    versions = dict.fromkeys(f"{name} {value}" for line in table.lines for name, value in line.versions.items())
    devices = dict.fromkeys(line.device for line in table.lines)
    return [
        ("experiments", listed([group.title for group in table.groups], 20)),
        ("arms", listed(table.arms, 20)),
        ("seeds", listed([str(seed) for seed in sorted({line.seed for line in table.lines})], 40)),
        ("device", listed(list(devices))),
        ("versions", ", ".join(versions)),
    ]
