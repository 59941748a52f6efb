"""What a measured distance says about the laws behind two clouds: its error, its floor, a lower bound, a verdict.

Row i of both clouds comes from the same input of a probe of n inputs; EM_n is their Earth Mover distance, W1 that of
the laws. E[EM_n] >= W1, since transport between samples costs more than between laws, and the excess shrinks with n
and slowly so in high dimension: even for one law at both steps, EM_n between clouds from different inputs is the
*floor* and not 0. Clouds of one probe share their sampling, so that EM_n may well lie below the floor; it then
mostly repeats the mean displacement of the inputs.

What decides is a bound that has no such excess. Fit a 1-Lipschitz function f on one half of the inputs and take
E f(a) - E f(b) on the other: its expectation is at most W1 whatever f is, and 0 if the laws agree. Three functions
are tried: the optimal potential f(x) = min_j (|x - b_j| - v_j), the linear one along the mean shift, and the distance
from the common mean. The first sees most but needs the most inputs; the others see what layers mostly do in training.

A paired probe resolves shifts far below anything that matters, the rounding of a number format among them. `smallest`
says what matters, in units of the spread of the first cloud: "moved" is then the claim that W1 exceeds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from icsbound import _check
from icsbound._check import InputError
from icsbound._evidence import Answer, adjusted, answer
from icsbound._evidence import Estimate as Estimate
from icsbound._evidence import HeldOut as HeldOut
from icsbound.measure import cost as costs
from icsbound.measure.certificate import certify
from icsbound.measure.emd import EMDResult, emd
from icsbound.measure.plain import plain

LEVEL = 0.05
LEAST_ROWS = 8  # halves of four


@dataclass(frozen=True)
class Verdict:
    """What a distance supports: "moved", "below the floor" (no more than sampling gives, or than counts), or "not
    resolved".

    As a bool it is True for "moved" and False for "below the floor"; asking "not resolved" raises InputError, since
    neither answer is supported.
    """

    text: Answer
    p: float  # one-sided, of "W1 is at most `smallest`"
    level: float
    smallest: float = 0.0  # in spreads of the first cloud

    def __bool__(self) -> bool:
        if self.text == "not resolved":
            raise InputError(
                f"the verdict must be resolved to be asked for yes or no, got 'not resolved' (p = {self.p:.3g}); "
                "a larger probe would resolve a smaller shift"
            )
        return self.text == "moved"

    def __str__(self) -> str:
        more = f" by more than {self.smallest:g} spreads" if self.smallest and self.text == "moved" else ""
        return f"{self.text}{more} (p = {self.p:.2g})"


@dataclass(frozen=True)
class Shift:
    """A distance with all that is needed to judge it; `str` gives one line."""

    em: EMDResult
    error: float  # standard error of em.value as an estimate of E[EM_n]
    floor: float  # EM between two disjoint halves of the first cloud
    disjoint: float  # EM between one half of the inputs at the first step and the other half at the second
    held_out: HeldOut
    spread: float  # root mean square distance of the rows of the first cloud from their mean

    def p(self, smallest: float = 0.0) -> float:
        """One-sided p-value of "W1 is at most `smallest` spreads of the first cloud"."""
        return self.held_out.p_above(_check.real("smallest", smallest, 0.0) * self.spread)

    def verdict(self, level: float = LEVEL, smallest: float = 0.0) -> Verdict:
        """Whether the held-out bound exceeds `smallest` spreads at `level`; if it does not, whether EM is even above
        the floor and `smallest`.
        """
        return judge(self, self.p(smallest), level, smallest)

    def __str__(self) -> str:
        em = self.em
        ratio = em.paired / em.value if em.paired is not None and em.value else 1.0
        relative = f" = {em.value / self.spread:.3g} spreads" if self.spread else ""
        return (
            f"EM {Estimate(em.value, self.error)}{relative} | gap {em.gap:.1g} | "
            f"paired {em.paired:.4g}, {ratio:.3f} EM | "
            f"floor {self.floor:.4g} (n = {em.n // 2}) | disjoint probes {self.disjoint:.4g} | "
            f"W1 at least {self.held_out.best} | n = {em.n}, d = {em.d} | {self.verdict()}"
        )


def judge(shift: Shift, p: float, level: float, smallest: float = 0.0) -> Verdict:
    """The verdict at a p-value, possibly adjusted for many distances. `smallest` raises the floor."""
    _check.real("level", level, 0.0, 1.0)
    floor = max(shift.floor, smallest * shift.spread)
    return Verdict(answer(p, level, shift.em.value, floor), p, level, smallest)


def standard_error(result: EMDResult) -> float:
    """sd(u_i + v_i) / sqrt(n), the standard error of EM_n over draws of n inputs; needs clouds of equal size.

    u_i + v_i is what input i contributes to the dual value, whose potentials change little from sample to sample.
    Resampling with replacement would not do: repeated inputs shorten every transport.
    """
    if result.matching is None:
        raise InputError("result must come from clouds of equal size without weights to have a standard error by input")
    terms = (result.u + result.v) / (result.scale or 1.0)
    return float(terms.std()) * result.scale / math.sqrt(result.n) if result.n > 1 else math.inf


def halves(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two random disjoint halves of n inputs, of n // 2 each, sorted."""
    seed = _check.positive_int("seed", seed, least=0)
    order = torch.randperm(n, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return order[: n // 2].sort().values, order[n // 2 : 2 * (n // 2)].sort().values


def noise_floor(a: Tensor, seed: int = 0, *, max_bytes: int = costs.MAX_BYTES) -> float:
    """EM between two disjoint halves of the rows of one cloud (n, d): what sampling alone gives at n // 2 inputs."""
    _enough("a", a)
    one, two = halves(len(a), seed)
    return emd(a[one], a[two], max_bytes=max_bytes).value


def disjoint_emd(a: Tensor, b: Tensor, seed: int = 0, *, max_bytes: int = costs.MAX_BYTES) -> float:
    """EM of one half of the inputs in `a` against the other half in `b`, both ways, averaged: no shared sampling."""
    _paired(a, b)
    one, two = halves(len(a), seed)
    return sum(emd(a[i], b[j], max_bytes=max_bytes).value for i, j in ((one, two), (two, one))) / 2


@plain
def held_out(a: Tensor, b: Tensor, seed: int = 0, *, max_bytes: int = costs.MAX_BYTES) -> HeldOut:
    """Lower bounds of W1 by two-fold cross-fitting over the inputs; see `HeldOut`.

    Raises InputError unless `a` and `b` are paired clouds (n, d) with n >= 8, or where the cost matrix of half the
    inputs is larger than `max_bytes`.
    """
    _paired(a, b)
    folds = halves(len(a), seed)
    terms: list[tuple[Tensor, Tensor, Tensor]] = []
    for fit, test in (folds, folds[::-1]):
        v = emd(a[fit], b[fit], max_bytes=max_bytes).v
        potential = _transform(a[test], b[fit], v) - _transform(b[test], b[fit], v)
        pair = costs.pair(a[fit], b[fit])
        shift = pair.x.mean(0) - pair.y.mean(0)
        sign = torch.sign(_norms(pair.x).mean() - _norms(pair.y).mean())
        x, y = pair.centred(a[test]), pair.centred(b[test])
        along = (x - y) @ (shift / torch.linalg.vector_norm(shift).clamp_min(1e-300))
        radial = sign * (_norms(x) - _norms(y))
        terms.append((potential, costs.rescaled(along, pair.exponent), costs.rescaled(radial, pair.exponent)))
    return HeldOut(*map(_cross_fitted, zip(*terms, strict=True)))


def _norms(z: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(z, dim=1)
    return norms


def _transform(x: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """f(x) = min_j (|x - b_j| - v_j) for every row of x."""
    pair = costs.pair(x, b)
    cost, v = costs.matrix(pair), v.to(pair.x.device)
    unit = max(pair.exponent, math.frexp(float(v.abs().max()))[1] - 900)  # v may be far beyond the scale of x and b
    if unit > pair.exponent:
        cost = costs.rescaled(cost, pair.exponent - unit)
    return costs.rescaled(certify(cost, costs.rescaled(v, -unit)).u, unit)


def _cross_fitted(terms: tuple[Tensor, ...]) -> Estimate:
    """The mean over folds of the mean over inputs, and its standard error.

    Each fold's function was fitted on the other fold, so that the two means are anything but independent (for the
    mean shift they even share their sign). Their errors are therefore averaged, which bounds the error of the
    average under any dependence.
    """
    scale = max(float(t.abs().max()) for t in terms) or 1.0
    value = sum(float((t / scale).mean()) for t in terms) / len(terms)
    error = sum(float((t / scale).std()) / math.sqrt(len(t)) for t in terms) / len(terms)
    return Estimate(value * scale, error * scale)


@plain
def shift_report(a: Tensor, b: Tensor, seed: int = 0, *, max_bytes: int = costs.MAX_BYTES) -> Shift:
    """All of this file for one layer at two steps: `str` of the result is one line, `.verdict()` the judgement.

    Args:
        a: outputs (n, d) at the first step, the reference; n >= 8 (the normal approximation wants some tens).
        b: outputs (n, d) of the same inputs, in the same order, at the second step. As many other inputs will do, and
            errors and verdict hold as they are; but nothing pairs the rows then, so that the distance has all of the
            excess that the floor shows, the paired bound says little, and a small shift needs far more inputs.
        seed: of the random halves.
        max_bytes: refuse a cost matrix (8 n² bytes; those of the halves take a quarter) larger than this, with an
            InputError, as `emd` does.
    """
    _paired(a, b)
    result = emd(a, b, max_bytes=max_bytes)
    pair = costs.pair(a, a)
    spread = float(torch.linalg.vector_norm(pair.x, dim=1).square().mean().sqrt())
    return Shift(
        em=result,
        error=standard_error(result),
        floor=noise_floor(a, seed, max_bytes=max_bytes),
        disjoint=disjoint_emd(a, b, seed, max_bytes=max_bytes),
        held_out=held_out(a, b, seed, max_bytes=max_bytes),
        spread=math.ldexp(spread, pair.exponent),
    )


def control(shifts: Sequence[Shift], rate: float = LEVEL, smallest: float = 0.0) -> list[Verdict]:
    """Verdicts over many layers and steps, with at most a share `rate` of false ones expected among "moved".

    Args:
        shifts: what `shift_report` gives, for every distance that is judged.
        rate: the false discovery rate.
        smallest: what counts as a shift, in units of each first cloud's spread; 0: any.

    Benjamini and Yekutieli's procedure (`scipy.stats.false_discovery_control`), which allows for any dependence:
    layers of one network and steps of one training are anything but independent.
    """
    _check.real("rate", rate, 0.0, 1.0)
    _check.real("smallest", smallest, 0.0)
    ps = adjusted([shift.p(smallest) for shift in shifts])
    return [judge(shift, p, rate, smallest) for shift, p in zip(shifts, ps, strict=True)]


def _enough(name: str, cloud: Tensor) -> None:
    _check.cloud(name, cloud)
    if len(cloud) < LEAST_ROWS:
        raise InputError(f"{name} must have at least {LEAST_ROWS} rows to be halved, got {len(cloud)}")


def _paired(a: Tensor, b: Tensor) -> None:
    _enough("a", a)
    _enough("b", b)
    if a.shape != b.shape:
        raise InputError(f"a and b must hold the same inputs (equal shapes), got {tuple(a.shape)} and {tuple(b.shape)}")
