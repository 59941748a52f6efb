"""Whether alpha trains, and whether that matters: its course, and the accuracy of controls that take its part.

The loss holds no term for the shift, so that nothing but the data moves alpha. Controls of the default form: alpha
frozen at 0 (which is batch norm), at 1, and in each channel at the value where its own ended; and, for its learning
rate ten times as large, frozen at random values, drawn for each channel among those where that one ended. Where a
frozen control does as well, training alpha is not what helps.

In the published form alpha sets the size of the outputs too, from 1 to √(L/C) of batch norm's. Its control has that
gain and unitizes nothing: scope "batch", whose alpha is one. Where it does as well, it is the gain that helps. The
longer form adds another, batch norm with γ multiplied by √(L/C), which is scope "batch" with alpha frozen at 1 and
makes γ learn faster by L/C; and what the published form loses by a κ that keeps the root mean square instead of the
published L, which sets no size: that much it had by the gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from icsbound import records
from icsbound.norm.modules import UnitizedBatchNorm
from icsbound.records import LayerRecord, PointRecord, ResultRecord
from icsbound.study.networks import Trained, trained
from icsbound.study.setting import Panel, Setting
from icsbound.training import arms

NAME = "alpha"
# Curve -> the arm that is trained.
CURVES = {
    "trained": "unitized",
    "trained, rate × 10": "unitized*10",
    "frozen at 0 (batch norm)": "bn",
    "frozen at 1": "unitized-1",
    "as published": "published",
    "as published, batch scope": "published-batch",
}
LONGER = {
    "batch scope": "unitized:scope=batch",
    "frozen at 0.5": "unitized:alpha_init=0.5,frozen=true",
    "batch norm, γ × √(L/C)": "published-batch:alpha_init=1,frozen=true",
    "as published, κ keeps the rms": "published:target=rms",
}
FINAL, RANDOM, MEAN = "frozen at its final values", "frozen at random", "frozen at its final mean"
DRAWN = 15  # values of alpha, evenly among the channels' own in the order of their size


def points(seed: int, setting: Setting) -> Iterator[PointRecord]:
    """Course of α, |γ| and 1/R over steps, and the accuracy at the end."""
    curves = {**CURVES, **(LONGER if setting.full or setting.runs else {})}
    names = {arm: curve for curve, arm in curves.items()}
    for run in trained(setting, list(names), seed):
        arm, factor = run.config.arm, run.config.recipe.alpha_lr_factor
        # A run of the user's may have any rate, and has one where alpha is frozen too.
        curve = names.get(f"{arm}*{factor:g}", names[arm])
        yield from _course(run, curve, seed)
    if setting.runs is None:
        frozen = trained(setting, partial(_frozen, setting), seed)
        for curve, run in zip((FINAL, RANDOM, *([MEAN] if setting.full else [])), frozen, strict=True):
            yield from _course(run, curve, seed)


def _frozen(setting: Setting, seed: int) -> list[str]:
    """The arms of `FINAL`, `RANDOM` and, in the longer form, `MEAN`, which rest on what was trained at the seed."""
    own, faster = trained(setting, [CURVES["trained"], CURVES["trained, rate × 10"]], seed)
    places = (torch.arange(DRAWN, dtype=torch.float64) + 0.5) / DRAWN
    drawn = ", ".join(f"{value:.3f}" for value in torch.quantile(_alphas(faster), places).tolist())
    mean = f"unitized:alpha_init={float(_alphas(own).mean()):.4f},frozen=true"
    final = f"unitized:frozen=true<{CURVES['trained']}"
    return [final, f"unitized:alpha_drawn=({drawn}),frozen=true", *([mean] if setting.full else [])]


def _alphas(run: Trained) -> torch.Tensor:
    """α of every channel of every layer in the end, within its range."""
    found = [layer.clamped_alpha() for layer in run.network().modules() if isinstance(layer, UnitizedBatchNorm)]
    return torch.cat(found).double()


def _learns(arm: str) -> bool:
    """Whether the arm has an alpha that is trained."""
    alpha = getattr(arms.parse(arm).make(1), "alpha", None)
    return alpha is not None and alpha.requires_grad


def _means(rows: Sequence[LayerRecord], of: Callable[[LayerRecord], float | None]) -> list[tuple[int, float]]:
    """Step and mean over layers of a number, where every layer has it."""
    found = []
    for step in dict.fromkeys(row.step for row in rows):
        values = [value for row in rows if row.step == step and (value := of(row)) is not None]
        if len(values) == sum(row.step == step for row in rows):
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
    learns = _learns(run.config.arm)
    courses = {
        "alpha": _means(rows, lambda row: row.alpha_mean) if learns else [],
        "reach": _reach(rows) if learns else [],
        "gamma": _means(rows, lambda row: row.weight_mean),
        "tightness": _means(rows, lambda row: None if row.bound is None else 1 / row.bound),
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
