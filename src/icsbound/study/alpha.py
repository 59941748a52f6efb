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
    runs = trained(setting, list(curves.values()), seed)
    names = {arm.partition("*")[0] if "*" not in arm else arm: curve for curve, arm in curves.items()}
    for run in runs:
        factor = run.config.recipe.alpha_lr_factor
        curve = names[run.config.arm if factor == 1 else f"{run.config.arm}*{factor:g}"]
        yield from _course(run, curve, seed)
        if curve == "trained" and setting.runs is None:
            last = _alphas(run)[-1][1]
            (final,) = trained(setting, [f"unitized:alpha_init={last:.4f},frozen=true"], seed)
            yield from _course(final, FINAL, seed)


def _layers(run: Trained) -> list[LayerRecord]:
    return [r for r in records.read(run.folder / "records.jsonl") if isinstance(r, LayerRecord)]


def _means(rows: Sequence[LayerRecord], name: str) -> list[tuple[int, float]]:
    """Step and mean over layers of a field, where every layer has it."""
    found = []
    for step in dict.fromkeys(row.step for row in rows):
        values = [getattr(row, name) for row in rows if row.step == step]
        if None not in values:
            found.append((step, sum(values) / len(values)))
    return found


def _alphas(run: Trained) -> list[tuple[int, float]]:
    return _means(_layers(run), "alpha_mean")


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
    rows = _layers(run)
    size = {"n": len({row.layer for row in rows}), "estimator": "mean over layers"}
    frozen = curve.startswith("frozen")
    for step, value in [] if frozen else _means(rows, "alpha_mean"):
        yield Panel(NAME, "alpha", seed, **size).point(curve, step, value)  # type: ignore[arg-type]
    for step, value in [] if frozen else _reach(rows):
        yield Panel(NAME, "reach", seed, **size).point(curve, step, value)  # type: ignore[arg-type]
    for step, value in _means(rows, "weight_mean"):
        yield Panel(NAME, "gamma", seed, **size).point(curve, step, value)  # type: ignore[arg-type]
    for step, value in _means(rows, "bound"):
        if math.isfinite(value):
            yield Panel(NAME, "radius", seed, **size).point(curve, step, value)  # type: ignore[arg-type]
    result = records.read(run.folder / "records.jsonl")[-1]
    assert isinstance(result, ResultRecord)
    images = len(run.splits().part(run.config.split))
    panel = Panel(NAME, "accuracy", seed, images, estimator=f"{run.config.split} split, {result.step} steps")
    yield panel.point(curve, 0, result.accuracy)
