"""The layer in few bits, with large means, and on degenerate input: no digit lost, nothing that is not finite."""

import copy

import pytest
import torch
from problems import SCOPES, assert_near
from torch import nn

from icsbound.norm import UnitizedBatchNorm2d, reference

EVERY_BACKEND = pytest.mark.usefixtures("backend")
EVERY_SCOPE = pytest.mark.parametrize("scope", SCOPES)


@EVERY_BACKEND
@EVERY_SCOPE
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_rounds_once(dtype, scope):
    # 600 exceeds the largest number whose square float16 holds: statistics must be taken in float32.
    layer = UnitizedBatchNorm2d(3, scope=scope)
    exact = copy.deepcopy(layer).double()
    x = (600 * torch.randn(4, 3, 5, 6)).to(dtype)
    dy = torch.randn(4, 3, 5, 6).to(dtype)
    results = []
    for module, leaf in ((layer, x.clone()), (exact, x.double())):
        y = module(leaf.requires_grad_())
        results.append([y, *torch.autograd.grad(y, [leaf, *module.parameters()], dy.to(y.dtype))])
    y, dx, *of_parameters = results[0]
    assert y.dtype == dx.dtype == dtype
    unit = torch.finfo(dtype).eps
    assert_near(y.double(), results[1][0], 0.51 * unit)
    torch.testing.assert_close(dx.double(), results[1][1], rtol=unit, atol=1e-6)
    for found, wanted in zip(of_parameters, results[1][2:], strict=True):
        assert found.dtype == torch.float32
        assert_near(found.double(), wanted, 1e-5)
    assert_near(layer.running_var.double(), exact.running_var, 1e-5 * 600**2)


@EVERY_BACKEND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_held_in_half_precision(dtype):
    layer = UnitizedBatchNorm2d(3).to(dtype)
    y = layer(torch.randn(4, 3, 5, 6, dtype=dtype, requires_grad=True))
    y.sum().backward()
    assert y.dtype == layer.alpha.grad.dtype == layer.running_mean.dtype == dtype


def test_autocast_as_batch_norm():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), UnitizedBatchNorm2d(3, alpha_init=0.0))
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(4, 2, 5, 5)
        hidden = network[0](x)
        y = network(x)
        wanted = nn.BatchNorm2d(3)(hidden)
    assert hidden.dtype == y.dtype == wanted.dtype == torch.bfloat16
    assert_near(y.float(), wanted.float(), torch.finfo(torch.bfloat16).eps)
    y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters())


@EVERY_BACKEND
@EVERY_SCOPE
@pytest.mark.parametrize("ratio", [1e2, 1e5])
@pytest.mark.parametrize("path", ["closed form", "composite"])
def test_no_digit_is_lost_where_the_mean_is_large(ratio, scope, path):
    # Against float64 of the same float32 numbers. Without a pivot the error grows to 5e-3 at a ratio of 1e5.
    x = (torch.randn(8, 3, 16, 15) + ratio).requires_grad_()
    dy = torch.randn_like(x)
    layer = UnitizedBatchNorm2d(3, scope=scope)
    exact = copy.deepcopy(layer).double()
    results = []
    for module in (layer, exact):
        leaf = x.detach().to(module.alpha.dtype).requires_grad_()
        if path == "composite" and module is layer:
            y = reference.unitize(leaf, module.weight, module.bias, module.alpha, None, module.settings)
        else:
            y = module(leaf)
        results.append([y, *torch.autograd.grad(y, [leaf, *module.parameters()], dy.to(leaf.dtype))])
    for i, (found, wanted) in enumerate(zip(*results, strict=True)):
        assert_near(found.double(), wanted, 2e-6 if i < 2 else 1e-5)  # sums of 2880 terms follow y and dx


@EVERY_BACKEND
@EVERY_SCOPE
def test_no_digit_is_lost_in_evaluation_where_the_mean_is_large(scope):
    layer = UnitizedBatchNorm2d(3, scope=scope)
    layer.running_mean.fill_(1e5)
    exact = copy.deepcopy(layer).double()
    x, dy = torch.randn(4, 3, 6, 5) + 1e5, torch.randn(4, 3, 6, 5)
    results = []
    for module in (layer.eval(), exact.eval()):
        leaf = x.to(module.alpha.dtype).requires_grad_()
        y = module(leaf)
        statistics = module.running_mean, module.running_var
        composite = reference.unitize(leaf, module.weight, module.bias, module.alpha, statistics, module.settings)
        grads = torch.autograd.grad(y, [leaf, *module.parameters()], dy.to(leaf.dtype))
        results.append([y, composite, *grads])
    for found, wanted in zip(*results, strict=True):
        assert_near(found.double(), wanted, 2e-6)


@EVERY_BACKEND
@EVERY_SCOPE
@pytest.mark.parametrize("interpolation", ["harmonic", "arithmetic", "geometric"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_degenerate_input_stays_finite(interpolation, scope, training, alpha):
    layer = UnitizedBatchNorm2d(3, interpolation=interpolation, scope=scope, alpha_init=alpha).train(training)
    spread = torch.randn(4, 3, 5, 6)
    constant_channel = spread.clone()
    constant_channel[:, 1] = 7.0
    at_the_mean = spread.clone()
    at_the_mean[2] = 0.0
    at_the_mean -= at_the_mean.mean((0, 2, 3), keepdim=True)
    at_the_mean[2] = 0.0
    for x in (constant_channel, at_the_mean, torch.zeros(4, 3, 5, 6), torch.full((4, 3, 5, 6), 1e15)):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        grads = torch.autograd.grad(y, [leaf, *layer.parameters()], torch.randn_like(y))
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in grads)
    assert all(b.isfinite().all() for b in layer.buffers())
