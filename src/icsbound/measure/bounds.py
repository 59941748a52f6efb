"""Every bound of W1 between two clouds, each one function, and the bracket they make.

Notation: a is (n, d), b is (m, d), Y and Y' are uniform random rows of a and b, μ and μ' their means, S and S' their
covariances (biased), D = |μ - μ'|. Any coupling gives an upper bound, any 1-Lipschitz function f a lower one:
E f(Y) - E f(Y') <= W1(a, b) <= E|Y - Y'|. All values are floats in the units of the clouds, computed in float64;
inputs are finite floating-point tensors of one width, else InputError. Sources: derived here, by the argument each
states.

Gelbrich's sqrt(D^2 + tr(S + S' - 2 (S^(1/2) S' S^(1/2))^(1/2))) is deliberately absent: it bounds W2 from below, and
W1 neither way.

Bounds that come from a layer's parameters instead of clouds are in `layer_bounds`; `held_out` (of
`icsbound.measure.floor`) gives lower bounds of W1 between the laws that the clouds were drawn from, in expectation.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Literal, ParamSpec

import torch
from torch import Tensor

from icsbound import _check
from icsbound._check import InputError
from icsbound.measure import cost as costs
from icsbound.measure.certificate import identity_certificate
from icsbound.measure.cost import Pair
from icsbound.measure.emd import emd
from icsbound.measure.floor import held_out as held_out
from icsbound.measure.layer_bounds import layer_bound as layer_bound
from icsbound.measure.line import line
from icsbound.measure.plain import plain

P = ParamSpec("P")
Side = Literal["upper", "lower"]


@dataclass(frozen=True)
class Bound:
    """One bound: the function's name, which side it is on, its value, and the order of its cost."""

    name: str
    side: Side
    value: float
    cost: str


@dataclass(frozen=True)
class Bracket:
    """All bounds of one pair of clouds. W1 lies in [lower.value, upper.value]."""

    bounds: tuple[Bound, ...]

    @property
    def lower(self) -> Bound:
        """The tightest lower bound."""
        return max((b for b in self.bounds if b.side == "lower"), key=lambda b: b.value)

    @property
    def upper(self) -> Bound:
        """The tightest upper bound."""
        return min((b for b in self.bounds if b.side == "upper"), key=lambda b: b.value)


# Bounds are written for a centred and scaled pair and published for clouds; the bracket shares one pair among them.
_BRACKET: list[tuple[str, Side, str, Callable[..., float]]] = []
_OfPair = Callable[Concatenate[Pair, P], float]
_OfClouds = Callable[Concatenate[Tensor, Tensor, P], float]


def _bound(side: Side, cost: str, in_bracket: bool = True) -> Callable[[_OfPair[P]], _OfClouds[P]]:
    """Publish a bound of a pair as a function of (a, b); those whose choices all have a default enter the bracket."""

    def publish(of_pair: _OfPair[P]) -> _OfClouds[P]:
        @plain
        def of_clouds(a: Tensor, b: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> float:
            return of_pair(_pair(a, b), *args, **kwargs)

        if in_bracket:
            _BRACKET.append((of_pair.__name__, side, cost, of_pair))
        functools.update_wrapper(of_clouds, of_pair)
        clouds = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY, annotation=Tensor) for name in "ab"]
        choices = list(inspect.signature(of_pair).parameters.values())[1:]
        of_clouds.__signature__ = inspect.Signature([*clouds, *choices], return_annotation=float)  # type: ignore[attr-defined]
        return of_clouds

    return publish


def _pair(a: Tensor, b: Tensor) -> Pair:
    _check.clouds(a, b)
    return costs.pair(a, b)


def _units(p: Pair, value: float | Tensor) -> float:
    """A distance between rows of x and y in the units of the clouds."""
    try:
        return math.ldexp(float(value), p.exponent)
    except OverflowError:
        raise InputError("a and b must lie closer together: a bound exceeds the largest float64") from None


def _norms(z: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(z, dim=1)
    return norms


def _line(x: Tensor, y: Tensor) -> float:
    """W1 of two samples on the line."""
    if len(x) == len(y):
        return float((x.sort().values - y.sort().values).abs().mean())
    return line(x, y, torch.full_like(x, 1 / len(x)), torch.full_like(y, 1 / len(y)))[0]


# ---------------------------------------------------------------------------------------------------- upper bounds


@_bound("upper", "n d")
def independent(p: Pair) -> float:
    """U_indep = sqrt(tr S + tr S' + D^2): the independent coupling and Jensen, since E|Y - Y'|^2 is what the root
    holds.

    Nothing smaller holds in terms of (tr S, tr S', D) for every dimension.
    """
    a_mean, b_mean = p.x.mean(0), p.y.mean(0)
    traces = _norms(p.x - a_mean).square().mean() + _norms(p.y - b_mean).square().mean()
    return _units(p, (traces + (a_mean - b_mean).square().sum()).sqrt())


@_bound("upper", "n m d")
def independent_coupling(p: Pair) -> float:
    """E|Y - Y'| of the independent coupling itself: the mean of the cost matrix, which is never held whole; at most
    `independent`.
    """
    return _units(
        p, sum(float(rows.sum(1).mean()) * len(rows) for _, rows in costs.matrix_blocks(p)) / len(p.x) / len(p.y)
    )


def _paired(p: Pair) -> Tensor:
    if len(p.a) != len(p.b):
        raise InputError(f"a and b must have the same number of rows to be paired, got {len(p.a)} and {len(p.b)}")
    return p.paired()


@_bound("upper", "n d")
def paired(p: Pair) -> float:
    """U_pair = mean |a_i - b_i|: the coupling that keeps every input with itself. Needs n = m, else InputError."""
    return _units(p, _paired(p).mean())


@_bound("upper", "n d")
def paired_rms(p: Pair) -> float:
    """sqrt(mean |a_i - b_i|^2): never below `paired` (Jensen). Needs n = m, else InputError."""
    return _units(p, _paired(p).square().mean().sqrt())


@_bound("upper", "n d")
def radius(p: Pair, centre: Tensor | None = None) -> float:
    """E|Y - c| + E|Y' - c|: both laws gathered at the point c (d), by the triangle inequality.

    Valid for every c. Without `centre`, c is the geometric median of the equal mixture (which minimizes it), by 100
    Weiszfeld steps; where they stop matters for the tightness only. It pays with heavy tails and bounded outputs; in
    second moments alone, sqrt((sqrt(tr S) + sqrt(tr S'))^2 + D^2), it is never better than `independent`.
    """

    def gathered(c: Tensor) -> Tensor:
        return _norms(p.x - c).mean() + _norms(p.y - c).mean()

    if centre is not None:
        return _units(p, gathered(p.centred(_point("centre", centre, p))))
    points = torch.cat([p.x, p.y])
    mass = torch.cat([p.x.new_full((len(p.x),), 1 / len(p.x)), p.y.new_full((len(p.y),), 1 / len(p.y))])
    centre = points.median(0).values
    best = min(gathered(centre), gathered(torch.zeros_like(centre)))
    for _ in range(100):
        pull = mass / _norms(points - centre).clamp_min(1e-12)
        centre = pull @ points / pull.sum()
        found = gathered(centre)
        if not found < best * (1 - 1e-9):
            best = min(best, found)
            break
        best = found
    return _units(p, best)


def _point(name: str, value: Tensor, p: Pair) -> Tensor:
    d = p.x.shape[1]
    if not isinstance(value, torch.Tensor) or value.shape != (d,) or not value.is_floating_point():
        _check.fail(name, f"be a floating-point tensor of shape ({d},)", value)
    return _check.finite_rows(name, value.cpu().double())


# ---------------------------------------------------------------------------------------------------- lower bounds


@_bound("lower", "n d")
def mean_shift(p: Pair) -> float:
    """D = |μ - μ'|: the linear f along the shift."""
    return _units(p, torch.linalg.vector_norm(p.x.mean(0) - p.y.mean(0)))


def _about(p: Pair, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """Norms of both clouds about one common centre, by default the mean of all rows."""
    c = torch.zeros_like(p.origin) if centre is None else p.centred(_point("centre", centre, p))
    return _norms(p.x - c), _norms(p.y - c)


@_bound("lower", "n d + n log n")
def norms(p: Pair, centre: Tensor | None = None) -> float:
    """W1 on the line between |Y - c| and |Y' - c|, c (d) by default the mean of all rows of both: |y - c| is
    1-Lipschitz.

    It dominates `truncated_moment` for every p and r about the same c.
    """
    return _units(p, _line(*_about(p, centre)))


@_bound("lower", "n d")
def truncated_moment(p: Pair, power: float = 2.0, cut: float | None = None, centre: Tensor | None = None) -> float:
    """|E f(Y - c) - E f(Y' - c)| with f(y) = min(|y|, r)^p / (p r^(p-1)), for p = `power` >= 1 and r = `cut` > 0.

    f is 1-Lipschitz: its radial slope is (|y|/r)^(p-1) <= 1 up to r and 0 beyond. `cut` is in the clouds' units, by
    default the largest |y - c| of both, which cuts nothing off; c (d) is the mean of all rows by default.
    """
    _check.real("power", power, 1.0)
    if cut is not None and _check.real("cut", cut, 0.0) == 0:
        _check.fail("cut", "be positive", cut)
    lengths = _about(p, centre)
    if cut is None:
        r = max(float(z.max()) for z in lengths)
    else:
        r = math.ldexp(cut, -p.exponent) if math.frexp(cut)[1] - p.exponent < 900 else 2.0**900
    if r == 0:
        return 0.0  # so small a cut that f vanishes beside the clouds' spread, or no spread
    a_part, b_part = ((z / r).clamp(max=1.0).pow(power).mean() for z in lengths)
    return _units(p, float((a_part - b_part).abs()) * r / power)


@_bound("lower", "n d")
def untruncated_moment(p: Pair, power: float = 2.0, higher: float = 4.0, centre: Tensor | None = None) -> float:
    """What two moments of the norms alone force, for 1 <= p = `power` < q = `higher`.

    With Δ = E|Y|^p - E|Y'|^p > 0 (the clouds swapped if need be), τ = E|Y|^q and C = sup_{v>=1} (v^p - 1) v^(-q)
    = (p/q) ((q-p)/q)^((q-p)/p):

        W1 >= (q-p) / (p (q-1)) · Δ · ((p-1) Δ / ((q-1) C τ))^((p-1)/(q-p))      (p > 1),      W1 >= Δ      (p = 1).

    E min(|Y|, r)^p >= E|Y|^p - C τ r^(p-q), put into `truncated_moment` and maximized over r. An explanation of how a
    difference of moments forces a distance; as a measurement it stays well below `norms`.
    """
    _check.real("power", power, 1.0)
    if _check.real("higher", higher, 1.0) <= power:
        _check.fail("higher", f"exceed power = {power:g}", higher)
    a_norms, b_norms = _about(p, centre)
    largest = torch.maximum(a_norms.max(), b_norms.max())
    if largest == 0:
        return 0.0
    a_norms, b_norms = a_norms / largest, b_norms / largest
    delta = float(a_norms.pow(power).mean() - b_norms.pow(power).mean())
    if delta < 0:
        delta, a_norms = -delta, b_norms
    if delta == 0 or power == 1:
        return _units(p, delta * largest)
    c = power / higher * ((higher - power) / higher) ** ((higher - power) / power)
    share = (power - 1) * delta / ((higher - 1) * c * float(a_norms.pow(higher).mean()))
    bound = (higher - power) / (power * (higher - 1)) * delta * share ** ((power - 1) / (higher - power))
    return _units(p, bound * largest)


@_bound("lower", "n d log n")
def marginals(p: Pair, basis: Tensor | None = None) -> float:
    """sqrt(sum_j W1(Y_j, Y'_j)^2) over the coordinates of an orthonormal `basis` ((d, d), in columns; default: the
    axes).

    With f_j optimal for coordinate j and a unit vector w >= 0, sum_j w_j f_j is 1-Lipschitz (Cauchy-Schwarz); take
    w_j in proportion to W1 of coordinate j. It is at least `mean_shift`, and each single marginal.
    """
    x, y = p.x, p.y
    if basis is not None:
        d = x.shape[1]
        if not isinstance(basis, torch.Tensor) or basis.shape != (d, d):
            _check.fail("basis", f"be a tensor of shape ({d}, {d})", basis)
        q = basis.to(x)
        if not torch.allclose(q.T @ q, torch.eye(d, dtype=q.dtype, device=q.device), rtol=0, atol=1e-9):
            raise InputError("basis must have orthonormal columns (basis.T @ basis = identity to 1e-9)")
        x, y = x @ q, y @ q
    if len(x) == len(y):
        each = (x.sort(0).values - y.sort(0).values).abs().mean(0)
    else:
        each = x.new_tensor([_line(x[:, j], y[:, j]) for j in range(x.shape[1])])
    return _units(p, torch.linalg.vector_norm(each))


@_bound("lower", "blocks of n m", in_bracket=False)
def blocks(p: Pair, sizes: list[int]) -> float:
    """sqrt(sum_B W1(Y_B, Y'_B)^2) over consecutive blocks of columns (channels, say) of the given `sizes`.

    The argument of `marginals` with blocks for coordinates: whole blocks see what marginals miss. Each block takes an
    exact distance (its dual value enters here).
    """
    d = p.x.shape[1]
    if not sizes or min(sizes) < 1 or sum(sizes) != d:
        _check.fail("sizes", f"be positive and sum to d = {d}", sizes)
    parts = zip(torch.split(p.x, sizes, dim=1), torch.split(p.y, sizes, dim=1), strict=True)
    return _units(p, math.hypot(*(emd(x, y).lower for x, y in parts)))


@_bound("lower", "n d log n")
def max_sliced(p: Pair, starts: int = 8, steps: int = 20, seed: int = 0) -> float:
    """max over unit directions e of W1(<Y, e>, <Y', e>): projections are 1-Lipschitz.

    From the mean shift, the axis of the largest marginal and `starts` random directions (seeded by `seed`), `steps`
    times e becomes the direction of the gradient; the function is convex and positively homogeneous in e, so that
    this never loses. The maximum found is a bound wherever the search stops.
    """
    _check.positive_int("starts", starts, 0)
    _check.positive_int("steps", steps, 0)
    _check.positive_int("seed", seed, 0)
    n, m, d = len(p.x), len(p.y), p.x.shape[1]
    # The quantile coupling: which ranks of both samples meet, and with what mass, in exact integer arithmetic.
    ends = [torch.arange(1, size + 1, device=p.x.device) * other for size, other in ((n, m), (m, n))]
    cuts = torch.unique(torch.cat(ends))
    left = torch.cat([cuts.new_zeros(1), cuts[:-1]])
    i, j = (torch.div(left, size, rounding_mode="floor") for size in (m, n))
    mass = (cuts - left).double() / (n * m)

    def slope(e: Tensor) -> tuple[float, Tensor]:
        s, t = p.x @ e, p.y @ e
        i_row, j_row = s.argsort()[i], t.argsort()[j]
        difference = s[i_row] - t[j_row]
        pull = mass * difference.sign()
        gradient = p.x.new_zeros(n).index_add(0, i_row, pull) @ p.x - p.y.new_zeros(m).index_add(0, j_row, pull) @ p.y
        return float(mass @ difference.abs()), gradient

    generator = torch.Generator("cpu").manual_seed(seed)
    directions = torch.randn(starts, d, generator=generator, dtype=torch.float64, device="cpu").to(p.x.device)
    axis = torch.zeros(d, dtype=torch.float64, device=p.x.device)
    spread = (p.x.abs().mean(0) - p.y.abs().mean(0)).abs()
    axis[spread.argmax()] = 1.0
    best = 0.0
    for e in (p.x.mean(0) - p.y.mean(0), axis, *directions):
        size = torch.linalg.vector_norm(e)
        if size == 0:
            continue
        value, gradient = slope(e / size)
        for _ in range(steps):
            size = torch.linalg.vector_norm(gradient)
            if size == 0:
                break
            found, gradient = slope(gradient / size)
            if found <= value * (1 + 1e-6):
                value = max(value, found)
                break
            value = found
        best = max(best, value)
    return _units(p, best)


@_bound("lower", "n m d")
def nearest_neighbour(p: Pair) -> float:
    """The mean distance from a row to the nearest row of the other cloud, from whichever side it is larger.

    Every coupling moves a row at least to its nearest partner (the dual with one potential 0). The cost matrix is
    never held whole.
    """
    of_rows, of_columns = p.x.new_empty(len(p.x)), p.x.new_full((len(p.y),), math.inf)
    for block, rows in costs.matrix_blocks(p):
        of_rows[block] = rows.amin(1)
        torch.minimum(of_columns, rows.amin(0), out=of_columns)
    return _units(p, torch.maximum(of_rows.mean(), of_columns.mean()))


@_bound("lower", "n m d")
def dual(p: Pair, sweeps: int = 16, max_bytes: int = costs.MAX_BYTES) -> float:
    """The dual value mean(u) + mean(v), u_i + v_j <= |a_i - b_j|, after Bellman's sweeps for the identity.

    It reaches `paired`, and then both are W1, where the identity is optimal and the sweeps have settled. For n != m
    there is no identity and the best of the starts is taken as it is. A cost matrix (8 n m bytes) larger than
    `max_bytes` raises InputError.
    """
    _check.positive_int("sweeps", sweeps, 0)
    costs.refuse_too_large(len(p.x), len(p.y), max_bytes)
    cost = costs.matrix(p)
    shift = p.y.mean(0) - p.x.mean(0)
    along = p.y @ (shift / torch.linalg.vector_norm(shift).clamp_min(1e-300))
    if len(p.x) == len(p.y):
        cost.diagonal().copy_(p.paired())
    enough = float(cost.diagonal().mean()) if len(p.x) == len(p.y) else math.inf
    return _units(p, identity_certificate(cost, along, enough, sweeps).lower)


@plain
def bracket(a: Tensor, b: Tensor, *, quadratic: bool = True, max_bytes: int = costs.MAX_BYTES) -> Bracket:
    """Every bound of W1(a, b), its choices by default, with its cost; `.lower` and `.upper` are the tightest.

    Two stay out: `blocks`, which must be told the sizes of its blocks and takes an exact distance for each, and
    `held_out`, which speaks of the laws behind the clouds, and that in expectation.

    Args:
        a: cloud (n, d).
        b: cloud (m, d). The paired bounds are left out for n != m.
        quadratic: also those that need the n x m distances. Without them the bracket costs O(n d log n).
        max_bytes: refuse a cost matrix (8 n m bytes, for `dual`) larger than this, with an InputError.
    """
    _check.clouds(a, b)
    if quadratic:
        costs.refuse_too_large(len(a), len(b), max_bytes)
    limits = {"dual": {"max_bytes": max_bytes}}
    p = costs.pair(a, b)
    return Bracket(
        tuple(
            Bound(name, side, of_pair(p, **limits.get(name, {})), cost)
            for name, side, cost, of_pair in _BRACKET
            if (quadratic or "m" not in cost.split()) and (len(a) == len(b) or not name.startswith("paired"))
        )
    )
