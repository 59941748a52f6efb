"""What normalization guarantees about W1 of its outputs at two steps, from parameters and noise alone.

γ, β are weight and bias, u the standardized input (before γ, β), d the width of the cloud, primes (`_b`) the second
step. Batch norm keeps two moments of each channel, so the independent coupling bounds W1; unitization keeps every
output near its bias, so gathering both laws there does. All arguments are finite; dtypes are free, arithmetic is
float64; everything else raises InputError. Derived here, by the argument each function states; the claims they
answer are those of Huang and Yu (CVPR 2020, arXiv 2001.02814).

Under the *train law* (each mini-batch normalized by its own moments) every batch has mean 0 and second moment at
most 1 in each channel, hence so has the mixture: there `batch_norm` holds for every batch size from 2, with no term
for noise.

What describes noise and bounds nothing has no function here: the factor 1 + (kurtosis + 1) / M for any law is an
expansion with an unknown rest; running statistics of rate λ have errors δ of variance λ / (2 - λ) / M and lag by
v (1 - λ) / λ behind a drift of v deviations a step. Such δ may be put into `Noise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from icsbound import _check
from icsbound._check import InputError

Interpolation = Literal["harmonic", "arithmetic", "geometric"]
INTERPOLATIONS = ("harmonic", "arithmetic", "geometric")


def _vector(name: str, value: Any, length: int | None = None) -> Tensor:
    if not isinstance(value, torch.Tensor) or value.ndim != 1 or (length is not None and len(value) != length):
        size = "d" if length is None else length
        _check.fail(name, f"be a tensor of shape ({size},)", value)
    return _check.finite_rows(name, value.detach().cpu().double())


def _length(vector: Tensor) -> float:
    """|vector|, also where squares of its entries are no float64."""
    return math.hypot(*vector.tolist())


def batch_norm(dimension: int) -> float:
    """W1 <= sqrt(2 d): exact statistics, γ = 1, β = 0.

    Each of the d coordinates has mean 0 and variance at most 1 at both steps. For convolutions this is the law of
    single positions (d = channels); whole tensors need `batch_norm_tensor`.
    """
    return math.sqrt(2 * _check.positive_int("dimension", dimension))


def batch_norm_affine(weight_a: Tensor, weight_b: Tensor, bias_a: Tensor, bias_b: Tensor) -> float:
    """W1 <= sqrt(|γ|^2 + |γ'|^2 + |β - β'|^2): exact statistics with affine parameters, each of shape (d,)."""
    weight = _vector("weight_a", weight_a)
    others = (_vector(n, z, len(weight)) for n, z in (("weight_b", weight_b), ("bias_a", bias_a), ("bias_b", bias_b)))
    weight_b, bias_a, bias_b = others
    return math.hypot(_length(weight), _length(weight_b), _length(bias_a - bias_b))


def batch_norm_tensor(
    channels: int, positions: int, mean_a: Tensor | None = None, mean_b: Tensor | None = None
) -> float:
    """W1 <= sqrt(2 d - 2 <μ, μ'>) <= 2 sqrt(d) for whole outputs of convolutions, d = channels * positions.

    Batch norm centres a channel over samples and positions together, so that E|u|^2 <= d while the means μ, μ' (d) of
    the tensor law need not vanish. Without them the second form, which is attained, is returned. A mean longer than
    sqrt(d) is that of no such law, and raises InputError.
    """
    d = _check.positive_int("channels", channels) * _check.positive_int("positions", positions)
    if (mean_a is None) != (mean_b is None):
        raise InputError("mean_a and mean_b must be given together")
    if mean_a is None or mean_b is None:
        return 2 * math.sqrt(d)
    means = _vector("mean_a", mean_a, d), _vector("mean_b", mean_b, d)
    for name, mean in zip(("mean_a", "mean_b"), means, strict=True):
        if _length(mean) > math.sqrt(d) * (1 + 1e-6):
            _check.fail(name, f"be at most sqrt({d}) long, as E|u|^2 <= {d} has it", _length(mean))
    return math.sqrt(max(0.0, 2 * d - 2 * float(means[0] @ means[1])))


@dataclass(frozen=True)
class Noise:
    """Errors of the statistics that normalize a step: true moments m, σ; used m + σ δ and σ (1 + η), η > -1; shapes
    (d,).

    The output is u = (z - δ) / (1 + η) with z exactly standardized.
    """

    delta: Tensor
    eta: Tensor

    def __post_init__(self) -> None:
        delta = _vector("delta", self.delta)
        eta = _vector("eta", self.eta, len(delta))
        if not bool((eta > -1).all()):
            _check.fail("eta", "exceed -1 everywhere (a standard deviation is positive)", float(eta.min()))
        object.__setattr__(self, "delta", delta)
        object.__setattr__(self, "eta", eta)

    @property
    def gain(self) -> Tensor:
        """Standard deviations of the output: 1 / (1 + η)."""
        return 1 / (1 + self.eta)

    @property
    def shift(self) -> Tensor:
        """Minus the means of the output: δ / (1 + η)."""
        return self.delta / (1 + self.eta)


def _both(a: Noise, b: Noise) -> tuple[Noise, Noise]:
    if len(a.delta) != len(b.delta):
        raise InputError(f"a and b must have the same dimension, got {len(a.delta)} and {len(b.delta)}")
    return a, b


def noisy_batch_norm(a: Noise, b: Noise) -> float:
    """W1 <= sqrt(sum_j gain_j^2 + gain'_j^2 + (shift_j - shift'_j)^2): one fixed noisy draw at each step.

    The moments of the outputs put into the independent coupling.
    """
    a, b = _both(a, b)
    return math.hypot(_length(a.gain), _length(b.gain), _length(a.shift - b.shift))


def noisy_batch_norm_coarse(dimension: int, delta_max: float, eta_max: float) -> float:
    """W1 <= sqrt(d (2 + 4 δ^2)) / (1 - η): dimension times noise, for |δ_j| <= δ and -η_j <= η < 1 at both steps."""
    d = _check.positive_int("dimension", dimension)
    delta_max, eta_max = _check.real("delta_max", delta_max, 0.0), _check.real("eta_max", eta_max, 0.0, 1.0)
    return math.sqrt(d) * math.hypot(math.sqrt(2), 2 * delta_max) / (1 - eta_max) if eta_max < 1 else math.inf


def noise_effect(a: Noise, b: Noise) -> float:
    """|W1(noisy) - W1(exact)| <= sum over both steps of sqrt(sum_j (gain_j - 1)^2 + shift_j^2).

    The triangle inequality over the displacement of every row: sharper than `noisy_batch_norm` where noise is small.
    """
    a, b = _both(a, b)
    return sum(math.hypot(_length(z.gain - 1), _length(z.shift)) for z in (a, b))


def noise_only(a: Noise, b: Noise) -> tuple[float, float]:
    """(lower, upper) for W1 that noise alone makes: one layer, one data law, two draws of the statistics.

    lower = |shift - shift'| is the mean shift; it also holds where layer and law differ between the steps. upper =
    sqrt(sum_j (gain_j - gain'_j)^2 + (shift_j - shift'_j)^2) is the paired coupling.
    """
    a, b = _both(a, b)
    shift = _length(a.shift - b.shift)
    return shift, math.hypot(_length(a.gain - b.gain), shift)


def effective_count(batch: int, positions: int = 1, correlation: float = 0.0) -> float:
    """M = N L / (1 + (L - 1) ρ) independent values a channel; ρ = mean correlation of two positions of one sample."""
    n, size = _check.positive_int("batch", batch), _check.positive_int("positions", positions)
    return n * size / (1 + (size - 1) * _check.real("correlation", correlation, 0.0, 1.0))


def small_batch_norm(dimension: int, count: float, *, unbiased: bool = False) -> float:
    """E W1 <= sqrt(2 d (M + 1) / (M - 3)) over noise from `count` = M independent Gaussian values a channel; inf for
    M <= 3.

    Biased variance, ε = 0: E (1 + δ^2) / (1 + η)^2 = (M + 1) / (M - 3) for Student's ratio, and Jensen. With the
    `unbiased` variance, which ``nn.BatchNorm`` stores, every output is smaller by sqrt((M - 1) / M).
    """
    exact, m = batch_norm(dimension), _check.real("count", count, 1.0)
    return _smaller(m, unbiased) * exact * math.sqrt((m + 1) / (m - 3)) if m > 3 else math.inf


def small_batch_shift(dimension: int, count: float, *, unbiased: bool = False) -> float:
    """Root mean square of the mean shift that noise alone makes between two batches of M: sqrt(2 d / (M - 3)); inf
    for M <= 3.

    Gaussian data, one layer, one law: internal covariate shift that batch norm makes itself. `unbiased` as above.
    """
    exact, m = batch_norm(dimension), _check.real("count", count, 1.0)
    return _smaller(m, unbiased) * exact / math.sqrt(m - 3) if m > 3 else math.inf


def _smaller(count: float, unbiased: bool) -> float:
    return math.sqrt((count - 1) / count) if unbiased else 1.0


@dataclass(frozen=True)
class Unitized:
    """One unitized layer at one step: y = γ s_c(n) u + β with n = |u| / κ and, for α_c in [0, 1],

    harmonic s = 1 / (α n + 1 - α), arithmetic s = α / n + 1 - α, geometric s = n^(-α).

    alpha: (C,) or a number. target: κ > 0. weight, bias: γ, β (C,); None: 1 and 0. norms: what is known of |u|: a
    sample of it (any shape (n,)), its mean (a number), or None. A positive ε in n only lowers outputs: all bounds
    stay.
    """

    interpolation: Interpolation
    alpha: Tensor | float
    target: float
    weight: Tensor | None = None
    bias: Tensor | None = None
    norms: Tensor | float | None = None

    def __post_init__(self) -> None:
        _check.one_of("interpolation", self.interpolation, INTERPOLATIONS)
        if _check.real("target", self.target, 0.0) == 0:
            _check.fail("target", "be positive", self.target)
        channels = None
        if isinstance(self.alpha, torch.Tensor):
            alpha = _vector("alpha", self.alpha)
            channels = len(alpha)
            if not bool(((alpha >= 0) & (alpha <= 1)).all()):
                _check.fail("alpha", "lie in [0, 1]", f"{float(alpha.min()):g} to {float(alpha.max()):g}")
        else:
            _check.real("alpha", self.alpha, 0.0, 1.0)
        for name in ("weight", "bias"):
            value = getattr(self, name)
            if value is not None:
                _vector(name, value, channels)
        if isinstance(self.norms, torch.Tensor):
            if bool((_vector("norms", self.norms) < 0).any()):
                _check.fail("norms", "be nonnegative", float(self.norms.min()))
        elif self.norms is not None:
            _check.real("norms", self.norms, 0.0)

    def _parameters(self) -> tuple[Tensor, Tensor]:
        """α and |γ| in float64, of one shape."""
        alpha = torch.as_tensor(self.alpha, dtype=torch.float64, device="cpu").detach().reshape(-1)
        weight = torch.ones_like(alpha) if self.weight is None else self.weight.detach().cpu().double().abs()
        return alpha.expand_as(weight), weight

    def _reach(self, norms: Tensor) -> Tensor:
        """The most |y - β| can be at each |u|: |u| max_c |γ_c| s_c(n), since |y - β|^2 = sum_c γ_c^2 s_c^2 u_c^2."""
        alpha, weight = self._parameters()
        norm, target = norms[:, None], torch.full_like(norms, self.target)[:, None]
        # The mean of κ and |u| with weights α and 1 - α, of its kind; the ratio n need be no float64.
        mean = {
            "harmonic": lambda: _harmonic(target, norm, alpha),
            "arithmetic": lambda: alpha * target + (1 - alpha) * norm,
            "geometric": lambda: target**alpha * norm ** (1 - alpha),
        }[self.interpolation]()
        return torch.where(weight == 0, 0.0, weight * mean).amax(1)

    def noise_free_radius(self) -> float:
        """R with |y - β| <= R for every input: κ max_c |γ_c| / α_c (harmonic), κ max|γ| (all α = 1), else inf."""
        alpha, weight = self._parameters()
        if self.interpolation != "harmonic" and not bool(((alpha == 1) | (weight == 0)).all()):
            return math.inf
        ratio = torch.where(weight == 0, 0.0, weight / alpha)  # a channel of weight 0 is silent at any α
        return self.target * float(ratio.max())

    def radius(self, power: int = 1) -> float:
        """R with (E|y - β|^p)^(1/p) <= R, the least that `norms` gives, for `power` = p in {1, 2}.

        From a sample of norms: the mean of what each allows. From their mean alone (p = 1): Jensen, since the
        interpolation is concave in n, for one α; by way of the arithmetic form, which dominates, for several.
        """
        free = self.noise_free_radius()
        if self.norms is None or (power == 2 and not isinstance(self.norms, torch.Tensor)):
            return free
        if isinstance(self.norms, torch.Tensor):
            reach = self._reach(self.norms.detach().cpu().double())
            largest = float(reach.max())
            if largest in (0.0, math.inf):
                return largest
            share = reach / largest
            return largest * float(share.mean() if power == 1 else share.square().mean().sqrt())
        alpha, weight = self._parameters()
        if bool((alpha == alpha[0]).all()):
            return min(free, float(self._reach(torch.tensor([self.norms], dtype=torch.float64, device="cpu"))))
        parts = (weight * (alpha * self.target)).max() + (weight * ((1 - alpha) * self.norms)).max()
        return min(free, float(parts))


def _harmonic(a: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
    """1 / (α / a + (1 - α) / b), 0 where b is."""
    mean = torch.where(b <= a, b / (alpha * (b / a) + (1 - alpha)), a / (alpha + (1 - alpha) * (a / b)))
    return torch.where(b == 0, 0.0, mean)


def _bias_shift(a: Tensor | None, b: Tensor | None, positions: int) -> float:
    """|β - β'| for the law of whole outputs, where each channel's bias is repeated over the positions."""
    if a is None and b is None:
        return 0.0
    vectors = [None if z is None else _vector("bias", z) for z in (a, b)]
    first, second = (torch.zeros_like(next(w for w in vectors if w is not None)) if z is None else z for z in vectors)
    if first.shape != second.shape:
        raise InputError(f"bias must have the same shape at both steps, got {len(first)} and {len(second)} channels")
    return math.sqrt(positions) * _length(first - second)


def unitized(
    a: Unitized, b: Unitized, positions: int = 1, mean_a: Tensor | None = None, mean_b: Tensor | None = None
) -> float:
    """W1 <= |β - β'| + R + R' with the radii of both steps; `positions` repeats the bias over a convolution's
    positions.

    With the means μ, μ' of y - β and y' - β' (any common shape (d,)) also W1 <= |β - β'| + sqrt(R_2^2 + R_2'^2 - 2
    <μ, μ'>), R_2 in root mean square; the smaller is returned. Noise-free where `norms` is not given.
    """
    size = _check.positive_int("positions", positions)
    shift = _bias_shift(a.bias, b.bias, size)
    bound = a.radius() + b.radius()
    if (mean_a is None) != (mean_b is None):
        raise InputError("mean_a and mean_b must be given together")
    if mean_a is not None and mean_b is not None:
        mean = _vector("mean_a", mean_a)
        means, radii = (mean, _vector("mean_b", mean_b, len(mean))), (a.radius(2), b.radius(2))
        for name, vector, radius in zip(("mean_a", "mean_b"), means, radii, strict=True):
            if _length(vector) > radius * (1 + 1e-6):
                _check.fail(name, f"be no longer than the outputs are in root mean square, {radius:g}", _length(vector))
        if 0 < (unit := max(radii)) < math.inf:
            squares = sum((radius / unit) ** 2 for radius in radii) - 2 * float((means[0] / unit) @ (means[1] / unit))
            bound = min(bound, unit * math.sqrt(max(0.0, squares)))
    return shift + bound


def arithmetic_lower(alpha: float, norms_a: Tensor, norms_b: Tensor) -> float:
    """W1 >= (1 - α) |E|u| - E|u'|| for the arithmetic form with one α at both steps, γ = 1, β = 0, ε = 0.

    |y| = α κ + (1 - α) |u| is 1-Lipschitz in y: where statistics understate σ at one step, W1 grows without bound; no
    constant makes the arithmetic form noise-free for α < 1.
    """
    share = 1 - _check.real("alpha", alpha, 0.0, 1.0)
    norms = _vector("norms_a", norms_a), _vector("norms_b", norms_b)
    unit = max(1.0, *(float(z.abs().max()) for z in norms))  # sums need be no float64
    return share * unit * abs(float((norms[0] / unit).mean()) - float((norms[1] / unit).mean()))


def layer_bound(before: Any, after: Any, positions: int = 1) -> float:
    """W1 <= R + R' + sqrt(L) |β - β'| for one layer at two steps, whole outputs of L = `positions` positions.

    `before` and `after` are modules, or anything with ``bound(positions) -> float`` (every output lies within it of
    the bias) and ``bias`` (a tensor (C,) or None). Infinite where a layer has no noise-free bound.
    """
    size = _check.positive_int("positions", positions)
    for name, layer in (("before", before), ("after", after)):
        if not callable(getattr(layer, "bound", None)) or not hasattr(layer, "bias"):
            _check.fail(name, "have a method bound(positions) and an attribute bias", layer)
    return float(before.bound(size)) + float(after.bound(size)) + _bias_shift(before.bias, after.bias, size)
