"""Each kind of batch norm: those that are taken over with all that they do, and those that are left alone."""

import copy
import warnings

import pytest
import torch
from foreign import BatchNormAct2d, FrozenBatchNorm2d, FrozenBatchNormAct2d, InplaceAbn, SyncBatchNormAct
from problems import assert_near, trained
from torch import nn
from torch.nn.utils import parametrizations, prune

from icsbound._check import InputError
from icsbound.norm import (
    LazyUnitizedBatchNorm2d,
    UnitizedBatchNorm2d,
    UnitizedBatchNormAct2d,
    UnitizedFrozenBatchNorm2d,
    UnitizedFrozenBatchNormAct2d,
    UnitizedSyncBatchNorm,
    convert,
    revert,
    survey,
)


def test_synchronized():
    bn = nn.SyncBatchNorm(3)
    bn.running_mean.fill_(0.5)
    net = convert(nn.Sequential(bn))
    assert type(net[0]) is UnitizedSyncBatchNorm
    assert net[0].process_group == "world"
    for shape in ((4, 3), (4, 3, 2), (4, 3, 2, 2), (4, 3, 2, 2, 2)):  # one class for every rank, as before
        x = torch.randn(shape)
        assert_near(net.eval()(x), nn.functional.batch_norm(x, bn.running_mean, bn.running_var), 1e-6)
    back = revert(net)[0]
    assert type(back) is nn.SyncBatchNorm
    assert back.process_group is None
    alone = convert(nn.SyncBatchNorm(3), process_group=None)
    assert alone.train()(torch.randn(4, 3)).shape == (4, 3)
    assert type(revert(convert(nn.BatchNorm2d(3), process_group="world"))) is nn.SyncBatchNorm


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_ones_before_and_after_their_first_input():
    x = torch.randn(6, 2, 5, 5)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.LazyBatchNorm2d(eps=1e-2, momentum=0.3))
    convert(net, alpha_init=0.25, interpolation="geometric")
    assert type(net[1]) is LazyUnitizedBatchNorm2d
    net(x)
    assert type(net[1]) is UnitizedBatchNorm2d
    assert (net[1].num_features, net[1].eps, net[1].momentum) == (3, 1e-2, 0.3)
    assert net[1].alpha.tolist() == [0.25] * 3
    net(x).sum().backward()
    assert net[1].alpha.grad is not None

    unused = revert(convert(nn.LazyBatchNorm2d(eps=1e-2)))
    assert type(unused) is nn.LazyBatchNorm2d
    assert unused.eps == 1e-2

    plain = nn.Sequential(nn.LazyBatchNorm1d(affine=False), nn.LazyBatchNorm3d(track_running_stats=False))
    convert(plain)
    assert_near(plain[0](x[:, :, 0, 0]), nn.BatchNorm1d(2)(x[:, :, 0, 0]), 1e-6)
    assert_near(plain[1](x[..., None]), nn.BatchNorm3d(2)(x[..., None]), 1e-6)
    assert type(revert(plain)[0]) is nn.BatchNorm1d


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_lazy_one_loads_a_batch_norm_checkpoint():
    bn = nn.BatchNorm2d(3)
    bn(torch.randn(4, 3, 2, 2))
    layer = LazyUnitizedBatchNorm2d(alpha_init=0.25)
    layer.load_state_dict(bn.state_dict())
    assert torch.equal(layer.running_mean, bn.running_mean)
    assert layer.alpha.tolist() == [0.25] * 3


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_lazy_one_that_had_loaded_a_checkpoint_keeps_it():
    bn = trained(nn.Sequential(nn.BatchNorm2d(3)), (4, 3, 2, 2))[0]
    lazy = nn.LazyBatchNorm2d()
    lazy.load_state_dict(bn.state_dict())
    layer, x = convert(nn.Sequential(lazy))[0].eval(), torch.randn(4, 3, 2, 2)
    assert_near(layer(x), bn.eval()(x), 1e-6)
    assert (type(layer), layer.num_features, layer.alpha.tolist()) == (UnitizedBatchNorm2d, 3, [0.0] * 3)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_the_bound_of_a_lazy_one_counts_the_channels_that_it_loaded():
    layer, twin = LazyUnitizedBatchNorm2d(), UnitizedBatchNorm2d(3)
    layer.load_state_dict(twin.state_dict())
    assert layer.bound(4) == twin.bound(4) > 0


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_refused_batch_leaves_a_lazy_one_lazy():
    layer = LazyUnitizedBatchNorm2d()
    refused = {
        "x must be a torch tensor, got a list; torch.as_tensor(x) makes one of numbers": [[1.0]],
        "x must be 4-dimensional for LazyUnitizedBatchNorm2d, got shape (3,)": torch.ones(3),
        "x must be 4-dimensional for LazyUnitizedBatchNorm2d, got shape (4, 3, 5)": torch.ones(4, 3, 5),
        "x must be float64, float32, bfloat16 or float16, got a tensor of shape (4, 3, 2, 2) and dtype int64": (
            torch.ones(4, 3, 2, 2, dtype=torch.int64)
        ),
        "x must hold more than one value per channel in training, got shape (1, 3, 1, 1): a single value has no "
        "variance; use a larger batch, or drop the incomplete last one": torch.ones(1, 3, 1, 1),
    }
    for message, x in refused.items():
        with pytest.raises(InputError) as error:
            layer(x)
        assert str(error.value) == message
        assert type(layer) is LazyUnitizedBatchNorm2d
        assert layer.has_uninitialized_params()
    assert layer(torch.ones(4, 5, 2, 2)).shape == (4, 5, 2, 2)


def test_frozen_statistics_of_torchvision():
    bn = FrozenBatchNorm2d(3, eps=1e-3)
    for b in bn.buffers():
        b.uniform_(0.5, 2)
    net, original = nn.Sequential(nn.Conv2d(2, 3, 1), bn), copy.deepcopy(bn)
    convert(net).train()
    x = torch.randn(6, 3, 4, 4)
    assert type(net[1]) is UnitizedFrozenBatchNorm2d
    assert not net[1].training
    assert not any(p.requires_grad for p in net[1].parameters())
    assert_near(net[1](x), original(x), 1e-6)
    assert net[1].running_mean is bn.running_mean
    revert(net)
    assert type(net[1]) is FrozenBatchNorm2d
    assert net[1].state_dict().keys() == original.state_dict().keys()
    assert torch.equal(net[1](x), original(x))
    assert not list(net[1].parameters())


def test_batch_norm_with_activation_of_timm():
    net = trained(nn.Sequential(nn.Conv2d(2, 4, 1), BatchNormAct2d(4)).double())
    original, keys = copy.deepcopy(net), list(net.state_dict())
    convert(net)
    assert type(net[1]) is UnitizedBatchNormAct2d
    assert [k for k in net.state_dict() if not k.endswith("alpha")] == keys
    x = torch.randn(6, 2, 3, 3).double()
    assert_near(net.eval()(x), original.eval()(x), 1e-12)
    for model in (net, original):
        model.train()
        torch.manual_seed(1)  # dropout
        model.y = model(x)
    assert_near(net.y, original.y, 1e-12)
    assert type(revert(net)[1]) is BatchNormAct2d
    assert_near(net.eval()(x), original.eval()(x), 1e-13)

    frozen = FrozenBatchNormAct2d(4)
    layer = convert(nn.Sequential(copy.deepcopy(frozen)))[0].train()
    assert type(layer) is UnitizedFrozenBatchNormAct2d
    assert (layer.training, layer.drop.training) == (False, True)
    x = torch.randn(3, 4, 2, 2)
    assert_near(layer(x), frozen(x), 1e-6)
    assert type(revert(layer)) is FrozenBatchNormAct2d


def test_synchronized_batch_norm_with_activation_of_timm():
    net = nn.Sequential(SyncBatchNormAct(4)).eval()
    for p in (*net.parameters(), net[0].running_mean, net[0].running_var):
        p.data.uniform_(0.5, 2)
    original, x = copy.deepcopy(net), torch.randn(6, 4, 3, 3)
    convert(net)
    assert type(net[0]) is UnitizedBatchNormAct2d
    assert net[0].process_group == "world"
    assert_near(net(x), original(x), 1e-6)
    revert(net)
    assert type(net[0]) is SyncBatchNormAct
    assert net[0].process_group is None
    assert torch.equal(net(x), original(x))


class Renormalized(nn.BatchNorm2d):
    """Stands for a subclass whose forward pass does something of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def odd_ones():
    patched = nn.BatchNorm2d(3)
    patched.forward = lambda x: x
    return nn.Sequential(
        nn.BatchNorm2d(3),
        Renormalized(3),
        patched,
        parametrizations.spectral_norm(nn.Linear(3, 3)),
        nn.InstanceNorm2d(3),
    )


def test_others_are_left_alone_and_reported():
    net = odd_ones()
    with pytest.warns(UserWarning, match="2 batch norms were left as they are") as record:
        convert(net)
    assert str(record[0].message) == (
        f"2 batch norms were left as they are: '1' (a {__name__}.Renormalized, which may do more than batch norm), "
        "'2' (its forward was replaced on the instance)"
    )
    assert record[0].filename == __file__
    assert [type(m) for m in net] == [
        UnitizedBatchNorm2d,
        Renormalized,
        nn.BatchNorm2d,
        type(net[3]),
        nn.InstanceNorm2d,
    ]


class Split(nn.BatchNorm2d):
    """Stands for timm's `SplitBatchNorm2d`: a batch norm with batch norms inside."""

    def __init__(self, channels):
        super().__init__(channels)
        self.parts = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))


class BatchNormNet(nn.Sequential):
    """Named after batch norm, and none."""


def test_what_is_inside_of_one_left_alone_is_left_alone():
    net = BatchNormNet(nn.BatchNorm2d(3), Split(3), nn.Sequential(nn.BatchNorm2d(3)))
    assert list(survey(net).convertible) == ["0", "2.0"]
    assert list(survey(net).left) == ["1"]
    assert not survey(Split(3)).convertible
    with pytest.warns(UserWarning, match="1 batch norms were left as they are: '1'"):
        convert(net)
    assert [type(m) for m in net[1].parts] == [nn.BatchNorm2d] * 2


def test_strict_refuses_them_and_changes_nothing():
    net = odd_ones()
    with pytest.raises(InputError, match=r"with strict=True, got 2 others: '1' \(a .*Renormalized") as error:
        convert(net, strict=True)
    assert str(error.value).startswith("model must hold only batch norms of known kinds")
    assert type(net[0]) is nn.BatchNorm2d
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(convert(nn.Sequential(nn.BatchNorm2d(3)), strict=True)[0]) is UnitizedBatchNorm2d


@pytest.mark.parametrize(
    "inside", [nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)], ids=["tracked", "untracked"]
)
def test_scripted_parts_are_left_alone_and_reported(inside):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that scripting is deprecated
        part = torch.jit.script(nn.Sequential(inside, nn.ReLU()))
        other = torch.jit.script(nn.ReLU())
    net = nn.Sequential(nn.BatchNorm2d(3), part, other)
    assert survey(net).convertible == {"0": "BatchNorm2d"}
    assert survey(net).left == {"1": "scripted: convert the model before it is scripted"}
    with pytest.raises(InputError, match=r"with strict=True, got 1 others: '1' \(scripted: convert"):
        convert(net, strict=True)


def test_a_batch_norm_of_another_name_is_left_alone_and_reported():
    net = nn.Sequential(InplaceAbn(3), nn.InstanceNorm2d(3, track_running_stats=True))
    assert survey(net).left == {"0": "a timm.layers.inplace_abn.InplaceAbn, which may do more than batch norm"}
    with pytest.raises(InputError, match=r"got 1 others: '0' \(a timm.layers.inplace_abn.InplaceAbn"):
        convert(net, strict=True)


def test_a_reparametrized_batch_norm_is_left_alone():
    bn = nn.BatchNorm2d(3)
    prune.l1_unstructured(bn, "weight", amount=1)
    found = survey(nn.Sequential(bn, nn.Sequential(nn.BatchNorm1d(2))))
    assert found.left == {"0": "it holds weight_mask, weight_orig: a reparametrization that would be lost"}
    assert found.convertible == {"1.0": "BatchNorm1d"}


def test_convert_sync_batchnorm_does_not_drop_alpha():
    # torch's conversion knows `_BatchNorm` only and keeps of it what `nn.SyncBatchNorm` has.
    net = nn.Sequential(
        UnitizedBatchNorm2d(3, alpha_init=0.7), nn.Sequential(nn.BatchNorm2d(3)), UnitizedBatchNormAct2d(3)
    )
    unitized = net[0], net[2]
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert (net[0], net[2]) == unitized
    assert net[0].alpha.tolist() == pytest.approx([0.7] * 3)
    assert type(net[1][0]) is nn.SyncBatchNorm
