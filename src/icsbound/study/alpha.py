"""Whether alpha trains, and whether that matters: its course, and the accuracy of controls that take its part.

The loss holds no term for the shift, so that nothing but the data moves alpha. Controls: alpha frozen at 0 (which is
batch norm), where it started, at the mean where it ended, and at 1; its learning rate ten times as large; and scope
"batch", which keeps alpha as a gain and unitizes nothing. Where a frozen control does as well, training alpha is not
what helps; where batch scope does, it is the gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from icsbound import records
from icsbound.records import LayerRecord, PointRecord, ResultRecord
from icsbound.study.networks import Trained, trained
from icsbound.study.setting import Panel, Setting

NAME = "alpha"
# Curve -> the arm that is trained.
CURVES = {
    "trained": "unitized",
    "trained, rate × 10": "unitized*10",
    "batch scope": "unitized:scope=batch",
    "frozen at 0 (batch norm)": "bn",
    "frozen at 0.5": "unitized:alpha_init=0.5,frozen=true",
    "frozen at 1": "unitized-1",
}
LONGER = {"as published": "published", "as published, batch scope": "published-batch"}
FINAL = "frozen at its final mean"


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """Course of α, |γ| and R over steps, and the accuracy at the end."""
    curves = {**CURVES, **(LONGER if setting.full or setting.runs else {})}
    names = {arm: curve for curve, arm in curves.items()}
    for run in trained(setting, list(names), seed):
        arm, factor = run.config.arm, run.config.recipe.alpha_lr_factor
        # A run of the user's may have any rate, and has one where alpha is frozen too.
        curve = names.get(f"{arm}*{factor:g}", names[arm])
        course = list(_course(run, curve, seed))
        yield from course
        if curve == "trained" and setting.runs is None:
            last = [point.value for point in course if point.panel == "alpha"][-1]
            (final,) = trained(setting, [f"unitized:alpha_init={last:.4f},frozen=true"], seed)
            yield from _course(final, FINAL, seed)


def _means(rows: Sequence[LayerRecord], name: str) -> list[tuple[int, float]]:
    """Step and mean over layers of a field, where every layer has it."""
    found = []
    for step in dict.fromkeys(row.step for row in rows):
        values = [getattr(row, name) for row in rows if row.step == step]
        if None not in values:
            found.append((step, sum(values) / len(values)))
    return found


def _reach(rows: Sequence[LayerRecord]) -> list[tuple[int, float]]:
    """Step and mean over layers of how far the channel that moved most is from where alpha started."""
    found: dict[int, list[float]] = {}
    start: dict[str, float] = {}
    for row in rows:
        if row.alpha_mean is not None and row.alpha_min is not None and row.alpha_max is not None:
            first = start.setdefault(row.layer, row.alpha_mean)  # all channels start alike
            found.setdefault(row.step, []).append(max(row.alpha_max - first, first - row.alpha_min))
    return [(step, sum(values) / len(values)) for step, values in found.items()]


def _course(run: Trained, curve: str, seed: int) -> Iterator[PointRecord]:
    *lines, result = records.read(run.folder / "records.jsonl")
    rows = [r for r in lines if isinstance(r, LayerRecord)]
    frozen = curve.startswith("frozen")
    courses = {
        "alpha": [] if frozen else _means(rows, "alpha_mean"),
        "reach": [] if frozen else _reach(rows),
        "gamma": _means(rows, "weight_mean"),
        "radius": [(step, value) for step, value in _means(rows, "bound") if math.isfinite(value)],
    }
    layers = len({row.layer for row in rows})
    for name, course in courses.items():
        panel = Panel(NAME, name, seed, layers, estimator="mean over layers")
        for step, value in course:
            yield panel.point(curve, step, value)
    assert isinstance(result, ResultRecord)
    images = len(run.splits().part(run.config.split))
    panel = Panel(NAME, "accuracy", seed, images, estimator=f"{run.config.split} split, {result.step} steps")
    yield panel.point(curve, 0, result.accuracy)
