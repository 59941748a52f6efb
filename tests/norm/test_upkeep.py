"""Statistics taken afresh as torch's update_bn takes them, and parameter groups that an optimizer accepts."""

import copy

import pytest
import torch
from problems import assert_near
from torch import nn
from torch.optim.swa_utils import update_bn

from icsbound._check import InputError
from icsbound.norm import (
    UnitizedBatchNorm1d,
    UnitizedBatchNorm2d,
    UnitizedFrozenBatchNorm2d,
    convert,
    mixed_statistics,
    parameter_groups,
    refresh_statistics,
)


def network():
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2, momentum=0.3)
    )


def batches():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(6, 3, generator=g) + i for i in range(4)]


@pytest.mark.parametrize("packed", [False, True], ids=["inputs", "pairs"])
def test_as_torch_does_it(packed):
    plain = network()
    net = convert(copy.deepcopy(plain))
    data = [(x, torch.zeros(6)) if packed else x for x in batches()]
    update_bn(iter(data), plain)
    for model in (net, copy.deepcopy(plain)):  # plain batch norms are refreshed too
        refresh_statistics(model, iter(data))
        for name, value in plain.named_buffers():
            assert_near(model.get_buffer(name).double(), value.double(), 1e-6)
    assert (net[1].momentum, net[4].momentum) == (0.1, 0.3)


def test_every_module_gets_its_own_mode_back():
    net = convert(network())
    net.train()
    net[1].eval()
    modes = [m.training for m in net.modules()]
    refresh_statistics(net, batches(), device="cpu")
    assert [m.training for m in net.modules()] == modes
    assert net[1].num_batches_tracked == 4  # refreshed all the same


def failing():
    yield batches()[0]
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], InputError, r"batches must hold at least one batch, got \[\]"),
        (failing(), RuntimeError, "the disk is gone"),
    ],
    ids=["nothing", "an error on the way"],
)
def test_the_old_statistics_come_back(data, error, message):
    net = convert(network()).eval()
    with torch.no_grad():
        net[1].running_mean.fill_(7)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=message):
        refresh_statistics(net, data)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m.training for m in net.modules())
    assert net[4].momentum == 0.3


def test_nothing_to_refresh():
    frozen = nn.Sequential(nn.Conv2d(3, 3, 1), UnitizedFrozenBatchNorm2d(3))
    with pytest.raises(InputError) as error:
        refresh_statistics(frozen, [torch.randn(2, 3, 4, 4)])
    assert str(error.value) == "model must keep running statistics to refresh, got a Sequential without any"
    assert frozen.training
    assert not frozen[1].training


def with_statistics(kind, **settings):
    layer = kind(3, **settings).double().eval()
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([1.5, 0.2, 4.0]))
    return layer


@pytest.mark.parametrize("shape", [(5, 3, 7), (5, 3, 4, 4), (2, 3, 2, 3, 2)])
def test_mixing_is_the_published_formula(shape):
    norm = with_statistics({3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)])
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad(), mixed_statistics(nn.Sequential(norm), 0.25):
        y = norm(x)
    positions, channels = tuple(range(2, x.ndim)), (1, 3, *[1] * (x.ndim - 2))
    mean = 0.75 * norm.running_mean.view(channels) + 0.25 * x.mean(positions, keepdim=True)
    variance = 0.75 * norm.running_var.view(channels) + 0.25 * x.var(positions, correction=0, keepdim=True)
    assert_near(y, (x - mean) / torch.sqrt(variance + norm.eps))


def test_mixed_statistics_are_those_that_a_unitized_layer_would_have_stored():
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    layer, other = (with_statistics(UnitizedBatchNorm2d, alpha_init=0.7) for _ in range(2))
    other.running_mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
    other.running_var.mul_(0.9).add_(0.1 * x.var((0, 2, 3), correction=0))
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad(), mixed_statistics(layer, 0.1):
        assert_near(layer(x), other(x))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert not torch.allclose(layer(x), other(x))  # and nothing stays


def test_instance_normalization_at_one_and_nothing_at_zero():
    layer, x = with_statistics(nn.BatchNorm2d), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    plain = layer(x)
    with mixed_statistics(layer, 0.0):
        assert_near(layer(x), plain)
    with mixed_statistics(layer, 1.0):
        assert_near(layer(x), nn.functional.instance_norm(x, eps=layer.eps))


def test_mixing_loses_no_digits_of_inputs_far_from_zero():
    """As it would, were the variance the mean square minus the square of the mean."""
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64) + 3000
    norm = with_statistics(nn.BatchNorm2d)
    norm.running_mean.fill_(3000)
    with torch.no_grad(), mixed_statistics(norm, 0.5):
        whole, single = norm(x), norm.float()(x.float())
    torch.testing.assert_close(single.double(), whole, rtol=0, atol=5e-3)


def test_mixing_keeps_the_dtype_of_the_outputs():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad(), mixed_statistics(model, 0.3):
        full = model(x)
        half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("model", "weight", "x", "message"),
    [
        (nn.BatchNorm2d(3), 1.5, None, "weight must lie in [0, 1], got 1.5"),
        (
            nn.Sequential(nn.GroupNorm(1, 3)),
            0.1,
            None,
            "model must keep running statistics to mix, got a Sequential without any",
        ),
        (
            nn.BatchNorm1d(3).eval(),
            0.5,
            torch.randn(5, 3),
            "model must normalize outputs with positions to mix statistics, got a BatchNorm1d with an input of shape "
            "(5, 3): one sample has no statistics of its own there",
        ),
        (
            nn.BatchNorm2d(3),
            0.5,
            torch.randn(5, 3, 2, 2),
            "model must be in evaluation mode while statistics are mixed, got a BatchNorm2d in training mode, which "
            "normalizes by its batch",
        ),
    ],
)
def test_what_cannot_be_mixed(model, weight, x, message):
    with pytest.raises(InputError) as error, mixed_statistics(model, weight):
        model(x)
    assert str(error.value) == message
    assert not model._forward_pre_hooks


def test_parameter_groups():
    net = convert(network())
    net[1].alpha.requires_grad_(False)
    net.append(net[3])  # a module in two places counts once
    groups = {g["name"]: g for g in parameter_groups(net, 0.1, 1e-2, alpha_lr_factor=10, vector_weight_decay=1e-4)}
    assert [(g["lr"], g["weight_decay"]) for g in groups.values()] == [(0.1, 1e-2), (0.1, 1e-4), (1.0, 0.0)]
    assert [id(p) for p in groups["weights"]["params"]] == [id(net[0].weight), id(net[3].weight)]
    assert [id(p) for p in groups["alpha"]["params"]] == [id(net[4].alpha)]
    assert len(groups["vectors"]["params"]) == 6
    torch.optim.AdamW(groups.values()).step()
    assert [g["name"] for g in parameter_groups(nn.Linear(2, 2, bias=False), 0.1)] == ["weights"]


def test_alpha_is_known_by_its_layer_and_not_by_its_name():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.alpha = nn.Parameter(torch.ones(3))
            self.norm = UnitizedBatchNorm1d(3)

    groups = {g["name"]: g["params"] for g in parameter_groups(Scaled(), 0.1)}
    assert len(groups["alpha"]) == 1
    assert len(groups["vectors"]) == 3


def test_refused_rates():
    with pytest.raises(InputError, match=r"alpha_lr_factor must lie in \[0, inf\], got -1"):
        parameter_groups(network(), 0.1, alpha_lr_factor=-1)
