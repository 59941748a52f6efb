"""False alarms and coverage of what `icsbound.measure.floor` claims, by simulation on laws that are known.

    python benchmarks/inference.py [--trials 400] [--n 20 60 200] [--d 1 3 10] [--level 0.05]

For each probe size n and dimension d: the share of false alarms where nothing moved (Gaussian clouds of one law
whose rows are correlated 0.995 or 0.7), the share of held-out bounds minus their quantile of errors that exceed W1
where it is known (a common shift of 1/2), and the coverage of the interval for E[EM_n] (clouds a and 1.5 a + a^2).
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from torch import Tensor

from icsbound.measure.emd import emd
from icsbound.measure.floor import held_out, standard_error


def normal(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unmoved(seed: int, n: int, d: int, correlation: float) -> tuple[Tensor, Tensor]:
    a = normal(2 * seed, n, d)
    return a, correlation * a + math.sqrt(1 - correlation**2) * normal(2 * seed + 1, n, d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--n", type=int, nargs="+", default=[20, 60, 200])
    parser.add_argument("--d", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--level", type=float, default=0.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    one_sided = statistics.NormalDist().inv_cdf(1 - options.level)
    two_sided = statistics.NormalDist().inv_cdf(1 - options.level / 2)
    print(f"{'n':>5} {'d':>4}  false alarms (.995, .7)  bound above W1 (potential, shift, norm)  coverage of E[EM_n]")
    for n in options.n:
        for d in options.d:
            seeds = range(options.trials)
            alarms = [
                statistics.fmean(held_out(*unmoved(s, n, d, c)).p <= options.level for s in seeds) for c in (0.995, 0.7)
            ]
            above = dict.fromkeys(("potential", "shift", "norm"), 0.0)
            for seed in seeds:
                a, b = unmoved(seed, n, d, 0.7)
                found = held_out(a, b + 0.5 / math.sqrt(d))
                for name in above:
                    bound = getattr(found, name)
                    above[name] += (bound.value - one_sided * bound.error > 0.5) / options.trials
            values, errors = [], []
            for seed in seeds:
                a = normal(seed, n, d)
                result = emd(a, 1.5 * a + a.square())
                values.append(result.value)
                errors.append(standard_error(result))
            centre = statistics.fmean(values)
            covered = statistics.fmean(abs(v - centre) <= two_sided * e for v, e in zip(values, errors, strict=True))
            print(
                f"{n:5} {d:4}  {alarms[0]:12.3f} {alarms[1]:10.3f}  "
                + " ".join(f"{share:13.3f}" for share in above.values())
                + f"  {covered:19.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
