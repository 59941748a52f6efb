"""Estimates of the Earth Mover distance by other means, named as such: nothing here is exact, certified or a default.

Both are computed by POT (``pip install 'icsbound[emd]'``), in float64 on the CPU, from jointly centred and scaled
clouds. They are here for comparison with work that reports them; `icsbound.emd` is exact, and it is faster than
Sinkhorn's iterations on clouds of a few thousand rows.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from torch import Tensor

from icsbound import _check
from icsbound.measure import cost as costs
from icsbound.measure.plain import plain
from icsbound.measure.pot import pot


@dataclass(frozen=True)
class Estimated:
    """An estimate in the units of the clouds, of n and m rows of d entries. It has no certificate."""

    value: float
    estimator: str  # which estimate this is, with its parameters
    n: int
    m: int
    d: int


@plain
def sliced(a: Tensor, b: Tensor, *, projections: int = 100, seed: int = 0) -> Estimated:
    """The sliced W1: the mean, over random directions on the unit sphere, of the W1 of the projected clouds.

    It never exceeds W1. How far it stays below depends on the shape of the clouds and their dimension (a translation
    keeps a share of about 0.8/sqrt(d)), so it may rank pairs of one layer but not layers.

    Args:
        a: cloud (n, d) of any floating dtype.
        b: cloud (m, d).
        projections: the number of directions; the error of the mean falls with its square root.
        seed: of the directions.

    Raises:
        InputError: a cloud is no finite (n, d) tensor, they do not fit each other, or POT is not installed.

    Source: Rabin, Peyre, Delon and Bernot, Wasserstein barycenter and its application to texture mixing, SSVM 2011.
    """
    _check.clouds(a, b)
    _check.positive_int("projections", projections)
    _check.positive_int("seed", seed, least=0)
    ot = pot("the sliced distance")
    pair = costs.pair(a, b)
    x, y = (z.cpu().numpy() for z in (pair.x, pair.y))
    value = float(ot.sliced_wasserstein_distance(x, y, n_projections=projections, p=1, seed=seed))
    return _estimated(pair, value, f"sliced W1 over {projections} directions (POT)")


@plain
def sinkhorn(
    a: Tensor,
    b: Tensor,
    *,
    regularization: float = 0.05,
    iterations: int = 1000,
    max_bytes: int = costs.MAX_BYTES,
) -> Estimated:
    """The mean cost of the entropic transport plan between two clouds, by Sinkhorn's iterations on logarithms.

    The plan minimizes sum_ij P_ij |a_i - b_j| + eps sum_ij P_ij log P_ij over couplings P of uniform weights; its cost
    exceeds W1, by more the larger eps is, and eps = `regularization` times the mean of all |a_i - b_j|.

    Args:
        a: cloud (n, d) of any floating dtype.
        b: cloud (m, d).
        regularization: eps as a share of the mean cost.
        iterations: at most so many. `estimator` says where they ended before the marginals fitted to 1e-9: such a plan
            is no coupling, and its cost may lie on either side of W1.
        max_bytes: refuse a cost matrix (8 n m bytes) larger than this. The iterations take about three times as much.

    Raises:
        InputError: a cloud is no finite (n, d) tensor, they do not fit each other, a number is out of range, the cost
            matrix would be too large, or POT is not installed.

    Source: Cuturi, Sinkhorn distances, NeurIPS 2013.
    """
    _check.clouds(a, b)
    _check.real("regularization", regularization, 1e-6, 1e3)
    _check.positive_int("iterations", iterations)
    costs.refuse_too_large(len(a), len(b), max_bytes)
    ot = pot("the Sinkhorn estimate")
    pair = costs.pair(a, b)
    cost = costs.matrix(pair).cpu()
    text = f"Sinkhorn, regularization {regularization:g} of the mean cost (POT)"
    epsilon = regularization * float(cost.mean())
    if epsilon == 0.0:  # all points are one
        return _estimated(pair, 0.0, text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what POT warns about is in the text
        value, log = ot.sinkhorn2(
            [], [], cost.numpy(), epsilon, method="sinkhorn_log", numItermax=iterations, stopThr=1e-9, log=True
        )
    left = float(log["err"][-1]) if log["err"] else math.inf
    if not left <= 1e-9:
        text = f"{text}, stopped after {iterations} iterations with marginals off by {left:.1g}"
    return _estimated(pair, float(value), text)


def _estimated(pair: costs.Pair, value: float, estimator: str) -> Estimated:
    return Estimated(math.ldexp(value, pair.exponent), estimator, len(pair.a), len(pair.b), pair.a.shape[1])
