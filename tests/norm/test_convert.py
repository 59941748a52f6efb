"""Whole models converted and reverted: what they compute, and everything that was attached to them, stays."""

import copy
import re
import warnings

import pytest
import torch
from problems import assert_near, trained
from torch import nn

from icsbound._check import InputError
from icsbound.norm import (
    UnitizedBatchNorm1d,
    UnitizedBatchNorm2d,
    UnitizedBatchNorm3d,
    convert,
    revert,
    survey,
)


class Net(nn.Module):
    """Batch norms at several depths, one used twice, and one whose weight is another's."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4, eps=1e-2, momentum=None)
        self.again = self.norm
        self.tied = nn.BatchNorm2d(4, momentum=0.3)
        self.tied.weight = self.norm.weight
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5, affine=False))

    def forward(self, x):
        x = self.norm(self.body(self.stem(x)))
        return self.head(self.tied(self.again(x)))


def assert_same(found, wanted, x, tolerance=1e-12):
    """Evaluation, then a training step: outputs, gradients of all parameters that both have, and buffers."""
    found, wanted = copy.deepcopy(found), copy.deepcopy(wanted)
    for training in (False, True):
        assert_near(found.train(training)(x), wanted.train(training)(x), tolerance)
    for net in (found, wanted):
        net(x).square().sum().backward()
    theirs = dict(wanted.named_parameters())
    for name, p in found.named_parameters():
        if not name.endswith("alpha"):
            assert_near(p.grad, theirs.pop(name).grad, 100 * tolerance)
    assert not theirs
    buffers = dict(found.named_buffers())
    for name, b in wanted.named_buffers():
        assert_near(buffers[name].double(), b.double(), tolerance)


def test_a_network_computes_what_it_computed_before_and_comes_back():
    net = trained(Net().double())
    original = copy.deepcopy(net)
    x = torch.randn(6, 2, 5, 5).double()
    assert survey(net).convertible == {
        "stem.1": "BatchNorm2d",
        "norm": "BatchNorm2d",
        "tied": "BatchNorm2d",
        "head.2": "BatchNorm1d",
    }
    assert convert(net) is net
    assert not survey(net).convertible
    assert [type(m) for m in (net.stem[1], net.norm, net.head[2])] == [
        UnitizedBatchNorm2d,
        UnitizedBatchNorm2d,
        UnitizedBatchNorm1d,
    ]
    assert_same(net, original, x)
    assert revert(net) is net
    assert_same(net, original, x, 1e-15)
    assert repr(net) == repr(original)
    assert net.state_dict().keys() == original.state_dict().keys()


def test_the_same_tensors_go_on_being_used():
    net = trained(Net())
    before = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers(remove_duplicate=False))}
    for change in (convert, revert):
        change(net)
        after = {
            **dict(net.named_parameters(remove_duplicate=False)),
            **dict(net.named_buffers(remove_duplicate=False)),
        }
        assert all(after[name] is tensor for name, tensor in before.items())
        assert net.norm is net.again
        assert net.tied.weight is net.norm.weight


def test_an_optimizer_goes_on():
    net, x = trained(Net()), torch.randn(6, 2, 5, 5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        before = net.norm.weight.detach().clone()
        optimizer.step()
        assert not torch.equal(net.norm.weight, before)
        convert(net)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_mode_dtype_and_gradients_wanted_are_kept(dtype):
    net = Net().to(dtype)
    net.norm.eval()
    net.stem[1].requires_grad_(False)
    convert(net)
    assert [m.training for m in (net.stem[1], net.norm, net.tied)] == [True, False, True]
    assert [m.alpha.requires_grad for m in (net.stem[1], net.norm, net.head[2])] == [False, True, True]
    assert all(m.alpha.dtype == dtype for m in (net.stem[1], net.norm, net.head[2]))
    assert (net.norm.eps, net.norm.momentum, net.tied.momentum) == (1e-2, None, 0.3)
    assert net.norm.settings.norm_eps == 1e-2


def test_device_is_kept_where_the_layer_has_no_tensor_of_its_own():
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, affine=False, track_running_stats=False)).to("meta")
    assert convert(net)[1].alpha.device.type == "meta"


def test_hooks_and_marks_of_users_are_kept():
    net, seen = Net(), []
    handle = net.norm.register_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    net.norm.mark = "mine"
    x = torch.randn(6, 2, 5, 5)
    for change, kind in ((convert, UnitizedBatchNorm2d), (revert, nn.BatchNorm2d)):
        change(net)
        net(x)
        assert net.norm.mark == "mine"
        assert seen == [kind, kind]
        seen.clear()
    handle.remove()
    net(x)
    assert not seen


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.LazyBatchNorm2d])
def test_hooks_before_the_forward_pass_and_before_loading_are_kept(kind):
    net, seen = nn.Sequential(kind(2) if kind is nn.BatchNorm2d else kind()), []
    handles = [
        net[0].register_forward_pre_hook(lambda module, inputs: seen.append(type(module))),
        net[0].register_load_state_dict_pre_hook(lambda module, *rest: seen.append(type(module))),
    ]
    checkpoint = nn.Sequential(nn.BatchNorm2d(2)).state_dict()
    for change in (convert, revert, convert):
        change(net)
        net.load_state_dict(checkpoint)
        assert seen == [type(net[0])]  # as lazy as before
        seen.clear()
    net(torch.randn(6, 2, 5, 5))
    assert seen == [UnitizedBatchNorm2d]
    for handle in handles:
        handle.remove()
    net(torch.randn(6, 2, 5, 5))
    net.load_state_dict(checkpoint)
    assert len(seen) == 1


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # the compiler's own
def test_a_batch_norm_that_was_compiled_does_not_live_on():
    bn = nn.BatchNorm1d(3)
    bn.compile(backend="eager")
    x = torch.randn(5, 3) * torch.arange(1, 6)[:, None]
    bn(x)
    layer = convert(bn, alpha_init=1.0)
    assert_near(layer(x), UnitizedBatchNorm1d(3, alpha_init=1.0)(x), 1e-6)


def test_a_batch_norm_itself():
    bn = nn.BatchNorm3d(3)
    layer = convert(bn, alpha_init=0.5, scope="position")
    assert type(layer) is UnitizedBatchNorm3d
    assert layer.alpha.tolist() == [0.5] * 3
    assert layer.settings.scope == "position"
    assert type(revert(layer, exact=False)) is nn.BatchNorm3d


def test_bias_alone_may_be_missing():
    net = trained(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, bias=False)).double())
    original = copy.deepcopy(net)
    assert_same(convert(net), original, torch.randn(6, 2, 5, 5).double())
    assert revert(net)[1].bias is None


REFUSALS = {
    "no model": (lambda: convert("resnet"), "model must be a torch.nn.Module, got 'resnet'"),
    "taken": (
        lambda: convert(Net(), eps=1e-3),
        "settings must leave eps to each batch norm, got eps=0.001",
    ),
    "activation": (
        lambda: convert(Net(), activation="relu"),
        "settings must leave activation out, for a converted network computes what it did before, "
        "got activation='relu'",
    ),
    "unknown": (
        lambda: convert(Net(), scop="batch"),
        "settings must be among interpolation, scope, target, alpha_init, alpha_range, norm_eps, process_group, "
        "shrink_only, variance, debias, got 'scop' (did you mean 'scope'?)",
    ),
    "value": (
        lambda: convert(Net(), alpha_init=2.0),
        "alpha_init must lie in alpha_range = [0, 1], got 2.0",
    ),
    "revert, alpha": (
        lambda: revert(convert(Net(), alpha_init=0.5)),
        "model must be the same network without unitization to be reverted, got 4 layers that differ from batch norm: "
        "'stem.1' (alpha up to 0.5), 'norm' (alpha up to 0.5), 'tied' (alpha up to 0.5), 'head.2' (alpha up to 0.5); "
        "pass exact=False to drop the difference",
    ),
    "revert, variance": (
        lambda: revert(convert(nn.Sequential(nn.BatchNorm2d(2)), variance="published")),
        "model must be the same network without unitization to be reverted, got 1 layers that differ from batch norm: "
        "'0' (variance='published'); pass exact=False to drop the difference",
    ),
    "revert, debias": (
        lambda: revert(UnitizedBatchNorm2d(2, alpha_init=0.0, debias=True)),
        "model must be the same network without unitization to be reverted, got 1 layers that differ from batch norm: "
        "'UnitizedBatchNorm2d' (debias=True); pass exact=False to drop the difference",
    ),
    "revert, unknown": (
        lambda: revert(nn.Sequential(type("Mine", (UnitizedBatchNorm2d,), {})(2))),
        "model must hold only unitized layers of known classes to be reverted, got '0' (Mine)",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(case):
    act, message = REFUSALS[case]
    with pytest.raises(InputError) as error:
        act()
    assert str(error.value) == message


def test_a_refused_conversion_changes_nothing():
    net = convert(Net(), alpha_init=0.5)
    with pytest.raises(InputError):
        revert(net)
    assert type(net.norm) is UnitizedBatchNorm2d
    plain = Net()
    with pytest.raises(InputError):
        convert(plain, alpha_init=2.0)
    assert type(plain.norm) is nn.BatchNorm2d


def test_scripted_models_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(InputError, match=re.escape("model must not be scripted, got a torch.jit.ScriptModule")):
        convert(scripted)


def sharded(net):
    """`net` with its parameters spread over the processes, as FSDP2 does it: in place, in a class made for it."""
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.fsdp.fully_shard(net, mesh=mesh)
    return net


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [(nn.parallel.DistributedDataParallel, "DistributedDataParallel"), (sharded, "FSDPSequential")],
    ids=["DDP", "FSDP2"],
)
@pytest.mark.parametrize("change", [convert, revert])
def test_models_wrapped_for_data_parallel_training_are_refused(change, wrap, kind, tmp_path):
    # The wrapper would neither reduce the gradient of a new α nor get over the loss of an old one.
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.Sequential(nn.BatchNorm2d(3))
        with pytest.raises(InputError) as error:
            change(wrap(net))
    finally:
        torch.distributed.destroy_process_group()
    assert str(error.value) == (
        f"model must not be wrapped for data-parallel training yet, got a {kind}, which has taken its "
        "parameters down already: convert or revert first, then wrap"
    )
    assert type(net[0]) is nn.BatchNorm2d


def test_reverting_on_ones_word():
    net = trained(convert(Net(), alpha_init=0.5))
    revert(net, exact=False)
    assert type(net.norm) is nn.BatchNorm2d
    assert net.norm is net.again


def test_a_fused_relu_becomes_a_module():
    layer = UnitizedBatchNorm2d(3, alpha_init=0.0, activation="relu").double()
    x = torch.randn(4, 3, 2, 2).double()
    wanted = layer(x)
    back = revert(nn.Sequential(copy.deepcopy(layer)))[0]
    assert [type(m) for m in back] == [nn.BatchNorm2d, nn.ReLU]
    assert_near(back(x), wanted, 1e-13)


def test_an_alpha_below_its_range_counts_as_zero():
    layer = UnitizedBatchNorm2d(3, alpha_init=0.0)
    with torch.no_grad():
        layer.alpha.fill_(-0.1)  # as an optimizer may leave it
    assert type(revert(layer)) is nn.BatchNorm2d
