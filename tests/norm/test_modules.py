"""The layer as a drop-in for `nn.BatchNorm`: equal to it at α = 0, and as careful with memory layouts."""

import copy

import pytest
import torch
from problems import SCOPES, assert_near
from torch import nn

from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, UnitizedBatchNorm3d, reference

# One shape for each rank that a class accepts; no two axes agree, so that swapped ones show.
PAIRS = {
    "dense": (UnitizedBatchNorm1d, nn.BatchNorm1d, (6, 3)),
    "1d": (UnitizedBatchNorm1d, nn.BatchNorm1d, (4, 3, 7)),
    "2d": (UnitizedBatchNorm2d, nn.BatchNorm2d, (4, 3, 5, 6)),
    "3d": (UnitizedBatchNorm3d, nn.BatchNorm3d, (2, 3, 4, 5, 6)),
}
EVERY_BACKEND = pytest.mark.usefixtures("backend")
EVERY_RANK = pytest.mark.parametrize("rank", PAIRS)
EVERY_SCOPE = pytest.mark.parametrize("scope", SCOPES)


def pair(rank, dtype=torch.float64, **settings):
    """A layer with α = 0 and a batch norm, with the same parameters, away from their initial values."""
    ours, theirs, shape = PAIRS[rank]
    shared = {k: settings.pop(k) for k in ("momentum", "affine", "track_running_stats", "bias") if k in settings}
    layer = ours(3, alpha_init=0.0, dtype=dtype, **shared, **settings)
    bn = theirs(3, dtype=dtype, **shared)
    with torch.no_grad():
        for p in bn.parameters():
            p.normal_()
    layer.load_state_dict(bn.state_dict())
    return layer, bn, shape


def assert_same_step(layer, bn, x, dy, tolerance):
    """One forward and backward through both: outputs and gradients of x, γ and β agree."""
    results = []
    for module in (layer, bn):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        leaves = [leaf, *(p for p in (module.weight, module.bias) if p is not None)]
        results.append([y, *torch.autograd.grad(y, leaves, dy)])
    for found, wanted in zip(*results, strict=True):
        assert found.dtype == wanted.dtype
        assert_near(found, wanted, tolerance)


@EVERY_BACKEND
@EVERY_RANK
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": None},
        {"momentum": 1.0},
        {"track_running_stats": False},
        {"affine": False},
        {"bias": False},
        {"affine": False, "track_running_stats": False},
        {"interpolation": "arithmetic", "alpha_range": None},
        {"interpolation": "geometric", "scope": "position"},
        {"scope": "batch", "target": "paper"},
    ],
    ids=str,
)
def test_is_batch_norm_at_alpha_zero(rank, settings):
    layer, bn, shape = pair(rank, **settings)
    for mode in (True, False, True):  # running statistics are used in between, and go on afterwards
        layer.train(mode), bn.train(mode)
        assert_same_step(layer, bn, 3 * torch.randn(shape).double() + 1, torch.randn(shape).double(), 1e-12)
        for found, wanted in zip(layer.buffers(), bn.buffers(), strict=True):
            assert found.dtype == wanted.dtype
            assert_near(found.double(), wanted.double(), 1e-14)


LAYOUTS = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "strided": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
}


@EVERY_BACKEND
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_is_batch_norm_in_every_dtype_and_layout(dtype, layout):
    layer, bn, shape = pair("2d", torch.float32)
    tolerance = 2e-6 if dtype is torch.float32 else 2 * torch.finfo(dtype).eps  # of the largest entry
    for mode in (True, False):
        layer.train(mode), bn.train(mode)
        x, dy = (LAYOUTS[layout]((3 * torch.randn(shape) + i).to(dtype)) for i in (1, 0))
        assert_same_step(layer, bn, x, dy, tolerance)
    assert_near(layer.running_var, bn.running_var, 1e-6)


@EVERY_BACKEND
@EVERY_SCOPE
@pytest.mark.parametrize("interpolation", ["harmonic", "arithmetic", "geometric"])
@pytest.mark.parametrize("rank", ["dense", "2d"])
def test_is_batch_norm_where_the_square_of_the_input_overflows(rank, interpolation, scope):
    layer, bn, shape = pair(rank, torch.float32, interpolation=interpolation, scope=scope)
    layer.eval(), bn.eval()
    x = torch.randn(shape) * 1e20
    assert_same_step(layer, bn, x, torch.randn(shape), 2e-6)
    y = reference.unitize(x, layer.weight, layer.bias, layer.alpha, (bn.running_mean, bn.running_var), layer.settings)
    assert_near(y, bn(x), 2e-6)


@EVERY_BACKEND
def test_frozen_statistics_inside_a_training_network():
    layer, bn, shape = pair("2d")
    layer.alpha.requires_grad_(False)
    for module in (layer, bn):
        module.running_mean.fill_(0.5)
        module.eval()
    before = copy.deepcopy(layer.state_dict())
    assert_same_step(layer, bn, torch.randn(shape).double(), torch.randn(shape).double(), 1e-13)
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


def test_without_a_counter_the_momentum_still_moves_the_statistics():
    layer, bn, shape = pair("2d")
    layer.num_batches_tracked = bn.num_batches_tracked = None  # as checkpoints from before the counter leave it
    x = torch.randn(shape).double()
    layer(x), bn(x)
    assert_near(layer.running_mean, bn.running_mean, 1e-15)


@EVERY_RANK
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_empty_batches(rank, training):
    layer, bn, shape = pair(rank)
    layer.train(training), bn.train(training)
    results = []
    for module in (layer, bn):
        x = torch.zeros(0, *shape[1:], dtype=torch.float64, requires_grad=True)
        y = module(x)
        y.sum().backward()
        results.append((y.shape, x.grad.shape, module.weight.grad, module.num_batches_tracked, module.running_var))
    assert layer.alpha.grad.tolist() == [0, 0, 0]
    for found, wanted in zip(*results, strict=True):
        assert found == wanted if isinstance(found, torch.Size) else torch.equal(found, wanted)


@EVERY_BACKEND
@EVERY_SCOPE
@pytest.mark.parametrize(
    ("rank", "memory_format"), [("2d", torch.channels_last), ("3d", torch.channels_last_3d)], ids=["2d", "3d"]
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_channels_last_is_kept(rank, memory_format, scope, training):
    cls, _, shape = PAIRS[rank]
    layer = cls(3, scope=scope, activation="relu").double().train(training)
    twin = copy.deepcopy(layer)
    x, dy = torch.randn(2, *shape).double()
    wanted = x.clone().requires_grad_()
    y = twin(wanted)
    y.backward(dy)
    leaf = x.contiguous(memory_format=memory_format).requires_grad_()
    for gradient in (dy, dy.contiguous(memory_format=memory_format)):
        leaf.grad = layer.alpha.grad = None
        found = layer(leaf)
        found.backward(gradient)
        assert found.is_contiguous(memory_format=memory_format)
        assert leaf.grad.is_contiguous(memory_format=memory_format)
        assert_near(found, y, 1e-13)
        assert_near(leaf.grad, wanted.grad, 1e-13)
        assert_near(layer.alpha.grad, twin.alpha.grad, 1e-12)


@EVERY_BACKEND
@EVERY_SCOPE
def test_strided_input(scope):
    layer = UnitizedBatchNorm2d(3, scope=scope).double()
    wide = torch.randn(8, 3, 5, 12).double()
    for x in (wide[::2, :, :, ::2], wide.transpose(2, 3), wide[:, :, :, :1].expand(8, 3, 5, 4)):
        assert_near(layer(x), layer(x.contiguous()), 1e-13)


@EVERY_BACKEND
def test_fused_relu_equals_relu_after():
    fused = UnitizedBatchNorm2d(3, activation="relu").double()
    plain = nn.Sequential(UnitizedBatchNorm2d(3).double(), nn.ReLU())
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    found, wanted = fused(x), plain(x)
    assert torch.equal(found, wanted)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), [x, *fused.parameters()]),
        torch.autograd.grad(wanted.square().sum(), [x, *plain.parameters()]),
        strict=True,
    ):
        assert_near(a, b, 1e-13)


@EVERY_BACKEND
@EVERY_SCOPE
def test_little_is_saved_and_no_more_for_a_fused_relu(scope):
    N, C, L = 4, 8, 256
    x = torch.randn(N, C, 16, 16, requires_grad=True)
    sizes = []
    for activation in (None, "relu"):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            UnitizedBatchNorm2d(C, scope=scope, activation=activation)(x)
        sizes.append([t.numel() for t in saved if t.data_ptr() != x.data_ptr()])
    assert sizes[0] == sizes[1]
    assert sum(sizes[0]) <= 9 * C + (N * L if scope == "position" else N + 5 * N * C)  # parameters among them


def test_eps_set_later_is_used():
    layer, bn, shape = pair("2d")
    layer.eps = bn.eps = 0.5
    assert_same_step(layer, bn, torch.randn(shape).double(), torch.randn(shape).double(), 1e-13)


@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"debias": True}], ids=str)
def test_an_ensemble_trains_under_vmap(settings):
    # Models stacked along a new axis, each with running statistics of its own.
    members = [UnitizedBatchNorm2d(3, **settings).double() for _ in range(4)]
    parameters, buffers = torch.func.stack_module_state(members)
    shared = copy.deepcopy(members[0]).to("meta")
    x = torch.randn(4, 5, 3, 2, 2, dtype=torch.float64)

    def run(p, b, x):
        return torch.func.functional_call(shared, (p, b), (x,))

    y = torch.vmap(run)(parameters, buffers, x)
    for i, member in enumerate(members):
        assert_near(y[i], member(x[i]), 1e-13)
        assert_near(buffers["running_var"][i], member.running_var, 1e-14)
        assert buffers["num_batches_tracked"][i] == 1


def test_reset_parameters():
    layer = UnitizedBatchNorm2d(3, alpha_init=0.25)
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(9)
    layer.reset_parameters()
    assert [p.tolist() for p in layer.parameters()] == [[1] * 3, [0] * 3, [0.25] * 3]


def test_repr_names_what_differs():
    shown = repr(UnitizedBatchNorm2d(3, scope="position", norm_eps=0.1, activation="relu", process_group="world"))
    assert shown == (
        "UnitizedBatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, "
        "interpolation='harmonic', scope='position', target='rms', alpha_range=(0.0, 1.0), norm_eps=0.1, "
        "activation='relu', process_group='world')"
    )
