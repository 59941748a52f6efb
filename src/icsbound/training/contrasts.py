"""What a table of results says about an arm against its control: paired differences over seeds, with their
uncertainty.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from icsbound._check import InputError, real
from icsbound.training import arms
from icsbound.training.results import Line

# Lines that agree in these are measurements of one thing, on several seeds and arms.
_SHARED = (
    "setting",
    "phase",
    "dataset",
    "model",
    "batch_size",
    "epochs",
    "split",
    "shift",
    "severity",
    "perturbation",
    "remedy",
    "eval_batch",
)
_RESAMPLES = 9999

Where: TypeAlias = tuple[tuple[str, str | int], ...]


def _where(line: Line) -> Where:
    return tuple((name, getattr(line, name)) for name in _SHARED)


@dataclass(frozen=True)
class Contrast:
    """Accuracy of `arm` minus that of `control` on the same seeds, in fractions.

    `low` and `high` bound the mean difference by Student's t over seeds, `boot_low` and `boot_high` by resampling
    seeds (a check: with few seeds it is too narrow). `p` is that of the t test, `adjusted` that of Holm (1979) over
    all contrasts of the call.
    """

    where: Where
    arm: str
    control: str
    seeds: tuple[int, ...]
    accuracy: float
    difference: float
    low: float
    high: float
    boot_low: float
    boot_high: float
    p: float
    adjusted: float

    @property
    def resolved(self) -> bool:
        """Whether the difference is told from 0 after the adjustment at the level of `low` and `high`, here 0.05."""
        return self.adjusted < 0.05


def contrasts(lines: Sequence[Line], *, level: float = 0.95) -> list[Contrast]:
    """Every arm of `lines` against its control (``bn`` where that was not run), where they share at least two seeds.

    With n paired differences d_i: mean ± t_{n-1} · s / √n. Where all differences are equal the interval is that
    point, and p is 0, or 1 if they are 0. Raises InputError where a measurement occurs twice with different
    accuracies.
    """
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise InputError("intervals must have scipy, which is not installed; pip install 'icsbound[train]'") from None
    real("level", level, 0.5, 0.9999)
    groups: dict[Where, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        where = _where(line)
        known = groups[where][line.arm].setdefault(line.seed, line.accuracy)
        if known != line.accuracy:
            raise InputError(
                f"results must hold each measurement once, got {line.arm} seed {line.seed} twice at {dict(where)}"
            )
    found = []
    for where, by_arm in groups.items():
        for arm, accuracy in by_arm.items():
            control = arms.parse(arm).control
            control = control if control in by_arm else "bn"
            seeds = tuple(sorted(accuracy.keys() & by_arm.get(control, {}).keys()))
            if arm == control or len(seeds) < 2:
                continue
            d = np.array([accuracy[s] - by_arm[control][s] for s in seeds])
            n, mean, spread = len(d), float(d.mean()), float(d.std(ddof=1))
            half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * spread / math.sqrt(n)
            p = float(stats.ttest_1samp(d, 0.0).pvalue) if spread > 1e-12 else float(abs(mean) < 1e-12)
            draws = np.random.default_rng(0).choice(d, (_RESAMPLES, n)).mean(1)
            boot = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
            found.append(
                Contrast(
                    where,
                    arm,
                    control,
                    seeds,
                    float(np.mean([accuracy[s] for s in seeds])),
                    mean,
                    mean - half,
                    mean + half,
                    float(boot[0]),
                    float(boot[1]),
                    p,
                    p,
                )
            )
    return [
        dataclasses.replace(contrast, adjusted=adjusted)
        for contrast, adjusted in zip(found, holm([c.p for c in found]), strict=True)
    ]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of `p`: the k-th smallest of m times m - k + 1, made monotone and at most 1."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def summary(lines: Sequence[Line]) -> list[str]:
    """`lines` in words, one for each arm and measurement: the mean accuracy and, over two seeds or more, the
    difference to the control.
    """
    against = {(c.where, c.arm): c for c in contrasts(lines)}
    means: dict[tuple[Where, str], list[float]] = defaultdict(list)
    for line in lines:
        means[_where(line), line.arm].append(line.accuracy)
    varying = [name for k, name in enumerate(_SHARED) if len({where[k][1] for where, _ in means}) > 1]
    text = []
    together = list(dict.fromkeys(where for where, _ in means))  # arms of one measurement in a row
    for (where, arm), accuracy in sorted(means.items(), key=lambda item: together.index(item[0][0])):
        parts = [f"{name} {value}" for name, value in where if name in varying]
        head = ", ".join([*parts, arm])
        body = f"{100 * float(np.mean(accuracy)):.2f} % over {len(accuracy)} seed{'s' if len(accuracy) > 1 else ''}"
        c = against.get((where, arm))
        if c is not None:
            verdict = "" if c.resolved else ", not resolved"
            body += (
                f"; {100 * c.difference:+.2f} to {c.control} "
                f"(95 %: {100 * c.low:+.2f} to {100 * c.high:+.2f}; p {c.p:.2g}, Holm {c.adjusted:.2g}{verdict})"
            )
        text.append(f"{head}: {body}")
    return text
