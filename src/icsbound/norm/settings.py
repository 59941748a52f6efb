"""The fixed choices of a unitization layer, checked once, and the few numbers that follow from them.

Shapes, here and in the whole wing: N samples, C channels, L positions (the product of the spatial sizes; 1 for
dense input). A suffix names the axes, as in `x_NCL`, `alpha_C`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, overload

from torch import Tensor

from icsbound import _check

INTERPOLATIONS = ("harmonic", "arithmetic", "geometric")
SCOPES = ("sample", "position", "batch")
TARGETS = ("rms", "paper")
VARIANCES = ("biased", "published")
ACTIVATIONS = ("relu",)

Count = (
    float | Tensor
)  # a number of values: a number in one process, a scalar on the device where several share a batch


class Settings(NamedTuple):
    """What a layer computes, apart from its tensors. See `UnitizedBatchNorm2d` for the meaning of each."""

    eps: float = 1e-5
    norm_eps: float = 1e-5
    interpolation: str = "harmonic"
    scope: str = "sample"
    target: str | float = "rms"
    alpha_range: tuple[float, float] | None = (0.0, 1.0)
    shrink_only: bool = False
    variance: str = "biased"
    activation: str | None = None

    def kappa(self, channels: int, positions: int) -> float:
        """The target norm κ: ``n = |u| / κ``, and u / n has norm κ (per sample, or per position in that scope)."""
        if not isinstance(self.target, str):
            return float(self.target)
        at_position = self.scope == "position"
        if self.target == "rms":
            return math.sqrt(channels if at_position else channels * positions)
        return 1.0 if at_position else float(positions)

    @overload
    def variance_factor(self, count: float) -> float: ...
    @overload
    def variance_factor(self, count: Count) -> Count: ...
    def variance_factor(self, count: Count) -> Count:
        """B of ``var = B · mean (x - mean)²`` over `count` values: 1, or the authors' count / (count - 1 - eps)."""
        return 1.0 if self.variance == "biased" else count / (count - 1 - self.eps)


def checked(
    eps: float,
    norm_eps: float | None,
    interpolation: str,
    scope: str,
    target: str | float,
    alpha_range: tuple[float, float] | None,
    shrink_only: bool,
    variance: str,
    activation: str | None,
) -> Settings:
    """The `Settings` of these arguments; InputError names the first that cannot be used."""
    eps = _check.real("eps", eps, low=0.0)
    norm_eps = eps if norm_eps is None else _check.real("norm_eps", norm_eps)
    if norm_eps <= 0:
        _check.fail("norm_eps", "be above 0 (a sample of zeros has no direction; it defaults to eps)", norm_eps)
    _check.one_of("interpolation", interpolation, INTERPOLATIONS)
    _check.one_of("scope", scope, SCOPES)
    _check.one_of("variance", variance, VARIANCES)
    if activation is not None:
        _check.one_of("activation", activation, ACTIVATIONS)
    if isinstance(target, str):
        _check.one_of("target", target, TARGETS)
    elif _check.real("target", target) <= 0:
        _check.fail("target", "be 'rms', 'paper' or a number above 0", target)
    if alpha_range is not None:
        if not isinstance(alpha_range, tuple | list) or len(alpha_range) != 2:
            _check.fail("alpha_range", "be a pair (low, high) or None", alpha_range)
        low, high = (_check.real("alpha_range", end) for end in alpha_range)
        if low > high:
            _check.fail("alpha_range", "be a pair (low, high) with low <= high", alpha_range)
        if interpolation == "harmonic" and (low < 0 or high > 1):
            _check.fail("alpha_range", "lie in [0, 1] for the harmonic form, which has a pole outside", alpha_range)
        alpha_range = (low, high)
    return Settings(eps, norm_eps, interpolation, scope, target, alpha_range, bool(shrink_only), variance, activation)
