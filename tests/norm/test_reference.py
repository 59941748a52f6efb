"""The definition against the equations written out sample by sample in numpy, and the properties they promise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import INTERPOLATIONS, SCOPES, SHAPES, assert_near, problem, settings_of

from icsbound.norm import interpolation, reference
from icsbound.norm.settings import Settings


def written_out(x, weight, bias, alpha, stored, s: Settings):
    """The layer with plain loops: nothing is shared with the code under test."""
    N, C = x.shape[:2]
    x = x.reshape(N, C, -1)
    L = x.shape[2]
    at_position = s.scope == "position"
    kappa = {"rms": math.sqrt(C * (1 if at_position else L)), "paper": 1 if at_position else L}.get(s.target, s.target)
    if stored is None:
        mean, var = x.mean((0, 2)), x.var((0, 2))
        var = var * (N * L / (N * L - 1 - s.eps) if s.variance == "published" else 1)
    else:
        mean, var = stored
    u = np.stack([(x[:, c] - mean[c]) / math.sqrt(var[c] + s.eps) for c in range(C)], 1)
    if s.scope == "sample":
        n = np.array([[np.linalg.norm(u[i]) / kappa] * L for i in range(N)])
    elif at_position:
        n = np.array([[np.linalg.norm(u[i, :, j]) / kappa for j in range(L)] for i in range(N)])
    elif stored is None:
        n = np.full((N, L), math.sqrt(np.mean([np.sum(u[i] ** 2) for i in range(N)])) / kappa)
    else:
        n = np.full((N, L), math.sqrt(L * sum(var[c] / (var[c] + s.eps) for c in range(C))) / kappa)
    nu = np.sqrt(n**2 + s.norm_eps)
    if s.shrink_only:
        nu = np.maximum(nu, 1)
    y = np.empty_like(u)
    for c in range(C):
        a = alpha[c]
        k = {"arithmetic": a / nu + 1 - a, "harmonic": 1 / (a * nu + 1 - a), "geometric": nu**-a}[s.interpolation]
        y[:, c] = weight[c] * k * u[:, c] + bias[c]
    return np.maximum(y, 0) if s.activation == "relu" else y


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("form", INTERPOLATIONS)
def test_definition(form, scope):
    for name, shape in SHAPES.items():
        p = problem(shape, seed=len(name))
        arrays = [t.detach().numpy() for t in (p.x, p.weight, p.bias, p.alpha)]
        for s in settings_of(form, scope):
            for stored in (None, p.stored):
                y = reference.unitize(p.x, p.weight, p.bias, p.alpha, stored, s).detach()
                wanted = written_out(*arrays, stored and [t.numpy() for t in stored], s)
                assert_near(y, torch.from_numpy(wanted).reshape(shape), 1e-12)


@given(st.floats(0, 1), st.floats(1e-3, 1e3), st.sampled_from(INTERPOLATIONS))
@settings(deadline=None, derandomize=True)
def test_the_three_forms_are_three_means(alpha, n, form):
    s = Settings(interpolation=form)
    k = float(interpolation.scale(torch.tensor(n, dtype=torch.float64), torch.tensor(alpha, dtype=torch.float64), s))
    mean = {
        "arithmetic": alpha + (1 - alpha) * n,
        "geometric": n ** (1 - alpha),
        "harmonic": 1 / (alpha + (1 - alpha) / n),
    }[form]
    assert k * n == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize(("form", "nu"), [("arithmetic", 1e4), ("harmonic", 1e-4)])
def test_no_digit_is_lost_near_alpha_one(form, nu):
    # Without its brackets the formula loses about 1e4 times the unit roundoff at these ν.
    alpha, s = torch.tensor(1 - 2.0**-14), Settings(interpolation=form)
    nu = torch.tensor(nu)
    wanted = interpolation.scale(nu.double(), alpha.double(), s)
    torch.testing.assert_close(interpolation.scale(nu, alpha, s).double(), wanted, rtol=5e-7, atol=0)


def test_the_norm_at_alpha_one_is_the_target():
    p = problem((4, 3, 5, 2))  # more positions than channels, so that κ = √(C·L) and L differ
    ones = torch.ones(3, dtype=torch.float64)
    for target, kappa in (("rms", math.sqrt(30)), ("paper", 10.0), (7.0, 7.0)):
        y = reference.unitize(p.x, None, None, ones, None, Settings(norm_eps=1e-14, target=target))
        torch.testing.assert_close(y.flatten(1).norm(dim=1), torch.full((4,), kappa, dtype=torch.float64))


def stretched(form, scope, alpha, alpha_range=(0.0, 1.0)):
    """The largest factor by which a layer that only shrinks moves two samples apart, of many pairs at all scales."""
    s = Settings(
        eps=0.0, norm_eps=1e-2, interpolation=form, scope=scope, alpha_range=alpha_range, shrink_only=True
    )  # fmt: skip
    g = torch.Generator().manual_seed(0)
    scale = torch.exp(1.5 * torch.randn(400, 1, 1, generator=g, dtype=torch.float64))
    u, away = scale * torch.randn(2, 400, 4, 5, generator=g, dtype=torch.float64)
    v = u + torch.exp(-4 * torch.rand(400, 1, 1, generator=g, dtype=torch.float64)) * away
    stored = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    of = torch.full((4,), alpha, dtype=torch.float64)
    y, z = (reference.unitize(t, None, None, of, stored, s) for t in (u, v))
    return float(((y - z).flatten(1).norm(dim=1) / (u - v).flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("form", INTERPOLATIONS)
def test_only_shrinking_moves_no_two_samples_apart(form, scope):
    for alpha in (0.0, 0.3, 1.0):
        assert stretched(form, scope, alpha) <= 1 + 1e-12


def test_beyond_its_range_alpha_moves_them_apart():
    assert stretched("arithmetic", "sample", 3.0, alpha_range=None) > 1.5
