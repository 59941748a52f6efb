"""Lines of a table of results with known contents."""

from __future__ import annotations

from typing import Any

import numpy as np

from icsbound.results import Line

ACCURACY = {"bn": 0.60, "unitized": 0.63, "gn": 0.55, "published": 0.58, "published-batch": 0.59}


def line(**changes: Any) -> Line:
    """A line of a small run; names that are no field of it go into its config."""
    fields = set(Line.__dataclass_fields__)
    own = {k: v for k, v in changes.items() if k in fields and k != "config"}
    values: dict[str, Any] = {
        "setting": "demo",
        "phase": "explore",
        "dataset": "digits",
        "model": "resnet8",
        "arm": "bn",
        "seed": 0,
        "batch_size": 32,
        "epochs": 5,
        "split": "test",
        "accuracy": 0.5,
        "seconds": 1.0,
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        **own,
    }
    config: dict[str, Any] = {
        "data": values["dataset"],
        "model": values["model"],
        "arm": values["arm"],
        "seed": values["seed"],
        "recipe": {"batch_size": values["batch_size"], "epochs": values["epochs"], "lr": changes.pop("lr", 0.1)},
        "dropout": 0.0,
        "split": values["split"],
        "device": "cpu",
        "threads": 1,
        **{k: v for k, v in changes.items() if k not in fields},
    }
    return Line(**{**values, "config": config})


def table(
    arms: tuple[str, ...] = ("bn", "unitized", "gn"), seeds: int = 4, noise: float = 0.004, **changes: Any
) -> list[Line]:
    """A line for each arm and seed; arms of one seed share most of their noise, which pairing removes."""
    g = np.random.default_rng(len(arms))
    shared = g.normal(0, 0.02, seeds)
    drop = changes.pop("drop", 0.0)
    return [
        line(
            arm=arm,
            seed=seed,
            accuracy=float(ACCURACY.get(arm, 0.6) + shared[seed] + g.normal(0, noise) - drop),
            **changes,
        )
        for arm in arms
        for seed in range(seeds)
    ]


def shifted(severities: tuple[int, ...] = (1, 3, 5), **k: Any) -> list[Line]:
    """A sweep's table, with its runs under two corruptions."""
    found = table(**k)
    for shift in ("fog", "contrast"):
        for severity in severities:
            found += table(**k, shift=shift, severity=severity, drop=0.05 * severity)
    return found


def changed(**k: Any) -> list[Line]:
    """The same runs pruned and rounded, with and without a remedy."""
    found = table(**k)
    for remedy, loss in (("none", 0.3), ("recalibrate:1000", 0.1)):
        for fraction in (0.3, 0.6, 0.9):
            found += table(**k, perturbation=f"prune:{fraction}", remedy=remedy, drop=loss * fraction)
        for bits in (2, 4, 8):
            found += table(**k, perturbation=f"quantize:{bits}", remedy=remedy, drop=loss / bits)
    return found
