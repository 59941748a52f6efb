"""Calibration of what `icsbound.measure.floor` claims, by simulation where the truth is known.

    python benchmarks/inference.py [--trials 400] [--seed 0] [--n 20 60 200] [--d 1 3 10] [--json FILE]

Every line is a share of trials, its 99.9 % interval (Clopper and Pearson; there are some hundred lines), and what was
promised:

false alarm      nothing moved, yet p <= level. Laws: Gaussian clouds whose rows belong together (correlated 0.995,
                 0.7) or not at all (0), rectified mixtures as layers give them, and, with --digits, outputs of a
                 layer of a network for two random sets of real digits.
bound above W1   a held-out bound minus its quantile of errors exceeds W1, which is known: Gaussian clouds, and the
                 exponentials of Gaussian ones (heavy tails), shifted by 1/2; Gaussian ones scaled by 3/2
                 (W1 = E|a| / 2, by the map along rays and the function |x|).
shown above W1   the same of the one that is shown ("W1 at least"), chosen of the three after they are known, with its
                 quantile at a third of the level.
moved too far    p <= level for "W1 is more than it is", by the smallest of the three tails, as a verdict takes it.
discoveries      the mean share of false ones among all that `control` calls moved, 20 layers of which 10 moved,
                 all on the same inputs. Layers that did not move are as in "false alarm".
step alarm       any of the 10 that did not move is called moved where these alone are judged together, as a monitor
                 judges the layers of one step.
E[EM_n] missed   its two-sided interval around one distance does not hold it; E[EM_n] is the mean over the trials.

A line is broken, and the exit code 1, where the whole interval lies above what was promised. The last kind rests on
a normal approximation that small probes do not reach, and is shown without a promise, as is said under the table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import Tensor

from icsbound import control, shift_report
from icsbound.measure.emd import emd
from icsbound.measure.floor import held_out, standard_error

LAYERS = 20
CONFIDENCE = 0.999


@dataclass(frozen=True)
class Line:
    """A share of trials and what was promised for it."""

    claim: str
    law: str
    n: int
    d: int
    trials: int
    share: float
    low: float
    high: float
    promised: float | None

    @property
    def broken(self) -> bool:
        return self.promised is not None and self.low > self.promised


def line(claim: str, law: str, n: int, d: int, hits: list[bool], promised: float | None) -> Line:
    """The share of `hits` with its interval."""
    interval = binomtest(sum(hits), len(hits)).proportion_ci(CONFIDENCE)
    return Line(claim, law, n, d, len(hits), statistics.fmean(hits), interval.low, interval.high, promised)


class Draws:
    """Clouds that depend on the seed of a trial and on nothing else."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)

    def unmoved(self, n: int, d: int, correlation: float) -> tuple[Tensor, Tensor]:
        """Two Gaussian clouds of one law, whose rows are correlated."""
        a = self.normal(n, d)
        return a, correlation * a + math.sqrt(1 - correlation**2) * self.normal(n, d)

    def heavy(self, n: int, d: int) -> tuple[Tensor, Tensor]:
        """Two clouds of one lognormal law, whose rows are alike."""
        a, b = self.unmoved(n, d, 0.7)
        return a.exp(), b.exp()

    def rectified(self, n: int, d: int) -> tuple[Tensor, Tensor]:
        """Two clouds of one law with many exact zeros: rectified mixtures of a few latent variables that are alike."""
        a, b = self.unmoved(n, 3, 0.9)
        mix = self.normal(3, d)
        return (a @ mix).relu(), (b @ mix).relu()

    def rows(self, cloud: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Two disjoint sets of n rows."""
        order = torch.randperm(len(cloud), generator=self._generator)
        return cloud[order[:n]], cloud[order[n : 2 * n]]


Clouds = Callable[[Draws, int, int], tuple[Tensor, Tensor]]  # two of n rows and d columns


def unmoved_laws(digits: bool) -> dict[str, Clouds]:
    """By name: two clouds (n, d) of one law."""
    laws: dict[str, Clouds] = {
        f"Gaussian, rows correlated {c:g}": partial(Draws.unmoved, correlation=c) for c in (0.995, 0.7, 0.0)
    }
    laws["heavy-tailed, rows correlated 0.7"] = Draws.heavy
    laws["rectified"] = Draws.rectified
    if digits:
        outputs = layer_of_digits()
        laws["a layer on digits"] = lambda draws, n, d: draws.rows(outputs[:, :d], n)
    return laws


def layer_of_digits() -> Tensor:
    """Outputs (5000, 16) of the last norm of a small network for all digits, its statistics taken from the data."""
    from torch import nn

    from icsbound import capture
    from icsbound.training import data, models

    splits = data.load("digits")
    model = models.build("resnet8:width=4", classes=10, channels=1, norm=nn.BatchNorm2d)
    images = data.Normalize.of(splits.train)(torch.cat([splits.train.images[:], splits.test.images[:]]))
    return capture(model, images, "norm", view="pooled", law="train", batch_size=len(images))["norm"].double()


def false_alarms(seeds: range, n: int, d: int, level: float, digits: bool) -> Iterator[Line]:
    for law, clouds in unmoved_laws(digits).items():
        hits = [held_out(*clouds(Draws(seed), n, d)).p <= level for seed in seeds]
        yield line("false alarm", law, n, d, hits, level)


def bounds(seeds: range, n: int, d: int, level: float) -> Iterator[Line]:
    quantile = statistics.NormalDist().inv_cdf(1 - level)
    # The mean norm of a Gaussian vector of d coordinates.
    radius = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    gaussian = partial(Draws.unmoved, correlation=0.7)
    shifted: tuple[Callable[[Tensor], Tensor], float] = (lambda b: b + 0.5 / math.sqrt(d), 0.5)
    laws: dict[str, tuple[Clouds, Callable[[Tensor], Tensor], float]] = {
        "shifted": (gaussian, *shifted),
        "heavy-tailed, shifted": (Draws.heavy, *shifted),
        "scaled": (gaussian, lambda b: 1.5 * b, 0.5 * radius),
    }
    for law, (clouds, move, w1) in laws.items():
        found = []
        for seed in seeds:
            a, b = clouds(Draws(seed), n, d)
            found.append(held_out(a, move(b)))
        for name in ("potential", "shift", "norm"):
            estimates = [getattr(one, name) for one in found]
            hits = [one.value - quantile * one.error > w1 for one in estimates]
            yield line("bound above W1", f"{law}, by {name}", n, d, hits, level)
        chosen = statistics.NormalDist().inv_cdf(1 - level / 3)
        hits = [one.best.value - chosen * one.best.error > w1 for one in found]
        yield line("shown above W1", law, n, d, hits, level)
        yield line("moved too far", law, n, d, [one.p_above(w1) <= level for one in found], level)


def discoveries(seeds: range, n: int, d: int, rate: float) -> Iterator[Line]:
    """The mean share of false discoveries, its interval that of a mean, by the normal approximation; and the share of
    trials with any false alarm among the layers that did not move.
    """
    shares, alarms = [], []
    for seed in seeds:
        draws, shifts = Draws(seed), []
        common = draws.unmoved(n, d, 0.7)
        for layer in range(LAYERS):
            own = draws.unmoved(n, d, 0.7)
            a, b = (math.sqrt(0.5) * (x + y) for x, y in zip(common, own, strict=True))  # alike, as layers are
            shifts.append(shift_report(a, b + (0.6 / math.sqrt(d) if layer % 2 else 0.0)))
        moved = [layer for layer, verdict in enumerate(control(shifts, rate)) if verdict.text == "moved"]
        shares.append(sum(layer % 2 == 0 for layer in moved) / max(1, len(moved)))
        alarms.append(any(verdict.text == "moved" for verdict in control(shifts[::2], rate)))
    mean = statistics.fmean(shares)
    quantile = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    half = quantile * statistics.stdev(shares) / math.sqrt(len(shares))
    yield Line("discoveries", f"{LAYERS} layers", n, d, len(shares), mean, mean - half, mean + half, rate)
    yield line("step alarm", f"{LAYERS // 2} layers", n, d, alarms, rate)


def intervals(seeds: range, n: int, d: int, level: float) -> Line:
    quantile = statistics.NormalDist().inv_cdf(1 - level / 2)
    values, errors = [], []
    for seed in seeds:
        a = Draws(seed).normal(n, d)
        result = emd(a, 1.5 * a + a.square())
        values.append(result.value)
        errors.append(standard_error(result))
    centre = statistics.fmean(values)
    hits = [abs(value - centre) > quantile * error for value, error in zip(values, errors, strict=True)]
    return line("E[EM_n] missed", "a, 1.5 a + a^2", n, d, hits, None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the others follow")
    parser.add_argument("--n", type=int, nargs="+", default=[20, 60, 200])
    parser.add_argument("--d", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--level", type=float, default=0.05)
    parser.add_argument("--digits", action="store_true", help="also outputs of a network (needs icsbound[train])")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds = range(options.seed, options.seed + options.trials)
    print(f"level {options.level:g}; trials with the seeds {seeds.start} to {seeds.stop - 1}")
    print(f"{'claim':<16}{'law':<42}{'n':>5}{'d':>5}{'trials':>8}{'share':>8}{'99.9 % interval':>18}{'promised':>10}")
    lines = []
    for n in options.n:
        for d in options.d:
            for found in (
                *false_alarms(seeds, n, d, options.level, options.digits),
                *bounds(seeds, n, d, options.level),
                *discoveries(range(seeds.start, seeds.start + max(2, options.trials // 10)), n, d, options.level),
                intervals(seeds, n, d, options.level),
            ):
                lines.append(found)
                promised = "" if found.promised is None else f"{found.promised:.3f}"
                print(
                    f"{found.claim:<16}{found.law:<42}{n:>5}{d:>5}{found.trials:>8}{found.share:>8.3f}"
                    f"{f'{max(0.0, found.low):.3f} to {found.high:.3f}':>18}{promised:>10}"
                    + ("  BROKEN" if found.broken else ""),
                    flush=True,
                )
    if options.json:
        written = [{**asdict(found), "broken": found.broken} for found in lines]
        options.json.write_text(json.dumps({"level": options.level, "seed": options.seed, "lines": written}, indent=1))
    broken = sum(found.broken for found in lines)
    print(f"E[EM_n]: {options.level:g} is what its interval tends to as n grows; shown, and promised at no n")
    print(f"{len(lines)} lines, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
