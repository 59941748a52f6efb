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
    UnitizedFrozenBatchNorm2d,
    convert,
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
