"""`bound`: every output lies within it, whatever the input and the statistics, and inputs exist that come close."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d

# (class, shape): one position, where scopes agree, and six, where the tensor's norm is over all of them.
LAYERS = [(UnitizedBatchNorm1d, (5, 3)), (UnitizedBatchNorm2d, (5, 3, 2, 3))]


def distances(y, bias):
    """|y - β| of each sample, all channels and positions together."""
    return (y - bias.reshape(-1, *(1,) * (y.ndim - 2))).flatten(1).norm(dim=1)


@given(
    seed=st.integers(0, 2**31),
    which=st.sampled_from(LAYERS),
    scope=st.sampled_from(["sample", "position"]),
    target=st.sampled_from(["rms", "paper", 0.3]),
    options=st.sampled_from([{}, {"shrink_only": True}, {"activation": "relu"}, {"alpha_range": None}]),
    exponent=st.integers(-6, 9),
    training=st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_no_output_lies_outside(seed, which, scope, target, options, exponent, training):
    cls, shape = which
    g = torch.Generator().manual_seed(seed)
    layer = cls(3, scope=scope, target=target, dtype=torch.float64, **options).train(training)
    with torch.no_grad():
        layer.alpha.copy_(0.01 + 0.99 * torch.rand(3, generator=g))
        layer.weight.copy_(torch.randn(3, generator=g))
        layer.bias.copy_(torch.randn(3, generator=g))
        # Statistics that do not fit the input at all: that is what the bound is for.
        layer.running_mean.copy_(100 * torch.randn(3, generator=g))
        layer.running_var.copy_(torch.exp(10 * torch.randn(3, generator=g)))
        x = 10.0**exponent * torch.randn(shape, generator=g, dtype=torch.float64)
        x[0] *= 1e6  # one sample far from the others
        centre = layer.bias.relu() if options.get("activation") else layer.bias
        found = distances(layer(x), centre).max()
    assert found <= layer.bound(math.prod(shape[2:])) * (1 + 1e-12)


@pytest.mark.parametrize(("cls", "shape"), LAYERS)
@pytest.mark.parametrize("scope", ["sample", "position"])
def test_it_is_sharp(cls, shape, scope):
    # All of a huge input in the channel of the largest |γ|/α, where the statistics understate its size.
    layer = cls(3, scope=scope, dtype=torch.float64).eval()
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.9, 0.2, 0.5]))
        layer.weight.copy_(torch.tensor([1.0, -2.0, 1.0]))
    x = torch.zeros(shape, dtype=torch.float64)
    x[:, 1] = 1e9
    positions = math.prod(shape[2:])
    assert distances(layer(x), layer.bias).min() > 0.999999 * layer.bound(positions)


def test_values():
    layer = UnitizedBatchNorm2d(4, alpha_init=0.5)
    assert layer.bound() == pytest.approx(math.sqrt(4) / 0.5)
    assert layer.bound(9) == pytest.approx(math.sqrt(4 * 9) / 0.5)
    assert UnitizedBatchNorm2d(4, target="paper").bound(9) == pytest.approx(9 / 0.5)
    assert UnitizedBatchNorm2d(4, target=3.0).bound(9) == pytest.approx(3 / 0.5)
    assert UnitizedBatchNorm2d(4, scope="position").bound(9) == pytest.approx(3 * 2 / 0.5)
    assert UnitizedBatchNorm2d(4, affine=False).bound() == pytest.approx(2 / 0.5)
    for form in ("arithmetic", "geometric"):
        assert UnitizedBatchNorm2d(4, interpolation=form, alpha_init=1.0).bound(9) == pytest.approx(6)


def test_infinite_where_there_is_none():
    for settings_ in (
        {"alpha_init": 0.0},
        {"scope": "batch"},
        {"interpolation": "arithmetic", "alpha_init": 0.99},
        {"interpolation": "geometric", "alpha_init": 0.99},
        {"alpha_init": 1.01, "alpha_range": None},  # the harmonic form has a pole there
        {"alpha_init": -0.1, "alpha_range": None},
        {"interpolation": "arithmetic", "alpha_init": 1.5, "alpha_range": None},
    ):
        assert UnitizedBatchNorm2d(4, **settings_).bound(9) == math.inf
    layer = UnitizedBatchNorm2d(4)
    for bad in (0.0, math.nan):  # one channel suffices
        with torch.no_grad():
            layer.alpha[2] = bad
        assert layer.bound() == math.inf


def test_the_clamped_alpha_counts():
    layer = UnitizedBatchNorm2d(4, alpha_range=(0.25, 1.0))
    with torch.no_grad():
        layer.alpha.fill_(-3.0)  # as an optimizer may leave it: computed with as 0.25
    assert layer.bound() == pytest.approx(2 / 0.25)
