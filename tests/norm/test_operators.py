"""The layer as operators: their contract with torch's compilers, and what compiled layers compute, call after call."""

import copy

import pytest
import torch
from problems import INTERPOLATIONS, SCOPES, assert_near, problem
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, operators, ops, unitized_batch_norm
from icsbound.norm.kernels import cpu, cpu_plan
from icsbound.norm.settings import Settings

FORWARD, BACKWARD = torch.ops.icsbound.unitize.default, torch.ops.icsbound.unitize_backward.default
BOTH_MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])

# Deprecations inside torch, met on its own paths.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


@pytest.fixture
def native_calls(monkeypatch):
    """Counts the calls of the native kernels."""
    if cpu._calls() is None:
        pytest.skip("no native library was built for this installation")
    counted = {"forward": 0, "backward": 0}
    for name in counted:
        monkeypatch.setattr(cpu, name, counting(counted, name, getattr(cpu, name)))
    return counted


def counting(counted, name, call):
    def spy(*args, **kwargs):
        counted[name] += 1
        return call(*args, **kwargs)

    return spy


STRIDES = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "part of a larger tensor": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],  # gaps between the rows
    "channels first": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),  # dense, in an order no kernel reads
}


def arguments(shape, settings, training, *, dtype=torch.float64, strides="contiguous", affine=True):
    """Those of the forward operator, in the order of its schema."""
    p = problem(shape, dtype=dtype, affine=affine)
    x = STRIDES[strides](p.x.detach()).requires_grad_()
    stored = (None, None) if training else (t.to(torch.float32 if dtype.itemsize == 2 else dtype) for t in p.stored)
    return (x, p.weight, p.bias, p.alpha, *stored, *operators._flat(settings)), STRIDES[strides](p.dy)


def check_both(args, dy, training):
    torch.library.opcheck(FORWARD, args)
    plain = tuple(t.detach() if isinstance(t, torch.Tensor) else t for t in args)
    saved = FORWARD(*plain)[3]
    torch.library.opcheck(BACKWARD, (dy, *plain[:4], saved, training, *plain[6:]))


@pytest.mark.parametrize("form", INTERPOLATIONS)
@pytest.mark.parametrize("scope", SCOPES)
@BOTH_MODES
def test_contract_in_every_setting(form, scope, training):
    settings = Settings(interpolation=form, scope=scope, target=2.5, activation="relu", alpha_range=None)
    check_both(*arguments((3, 2, 5), settings, training), training)


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (4, 3), (2, 3, 2, 2, 3), (3, 2, 1, 1)], ids=str)
def test_contract_in_every_layout(strides, shape):
    training = len(shape) == 4  # each rank in one of the two modes
    check_both(*arguments(shape, Settings(), training, strides=strides), training)


@pytest.mark.parametrize(
    ("dtype", "scope"), [(torch.float32, "position"), (torch.bfloat16, "sample"), (torch.float16, "batch")], ids=str
)
def test_contract_in_every_dtype_and_backend(backend, dtype, scope):
    check_both(*arguments((3, 2, 4, 5), Settings(scope=scope), True, dtype=dtype, affine=False), True)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (4, 3)], ids=str)
@BOTH_MODES
def test_without_native_kernels_the_same_numbers_come_out(monkeypatch, native_calls, scope, shape, training):
    args, dy = arguments(shape, Settings(scope=scope, variance="published"), training)
    found = []
    for handled in (True, False):
        if not handled:
            monkeypatch.setattr(cpu, "usable", lambda x: False)
        outputs = FORWARD(*args)
        leaves = [t for t in args[:4] if t is not None]
        found.append((*outputs, *torch.autograd.grad(outputs[0], leaves, dy)))
    for i, (native, aten) in enumerate(zip(*found, strict=True)):
        assert native.shape == aten.shape
        if i != 3:  # what is saved for backward is each implementation's own affair, but for its size
            assert_near(native, aten)


@pytest.mark.parametrize("scope", SCOPES)
def test_gradients_of_every_order(scope):
    settings = Settings(eps=1e-2, norm_eps=1e-2, scope=scope, alpha_range=None)
    args, _ = arguments((3, 2, 3), settings, training=True)
    assert gradcheck(lambda *t: FORWARD(*t, *args[4:])[0], args[:4])
    assert gradgradcheck(lambda *t: FORWARD(*t, *args[4:])[0], args[:4])


def test_the_backward_operator_alone_refuses_to_be_differentiated():
    args, dy = arguments((3, 2, 4), Settings(), training=True)
    saved = FORWARD(*args)[3]
    dx, *_ = BACKWARD(dy, *args[:4], saved, True, *args[6:])
    with pytest.raises(RuntimeError, match=r"unitize_backward cannot be differentiated again by itself"):
        dx.sum().backward()


def test_what_a_program_for_many_sizes_may_be_given():
    args, _ = arguments((1, 3), Settings(), training=True)
    with pytest.raises(
        ValueError, match=r"x must hold more than one value per channel in training, got shape \(1, 3\)"
    ):
        FORWARD(*args)
    (x, *rest), _ = arguments((2, 3, 4, 5), Settings(), training=False)
    y, *_ = FORWARD(x[:0].contiguous(), *rest)
    assert y.shape == (0, 3, 4, 5)


COMPILED = [
    {"interpolation": "harmonic", "scope": "sample", "activation": "relu"},
    {"interpolation": "geometric", "scope": "position", "shrink_only": True, "target": 2.5},
    {"interpolation": "arithmetic", "scope": "batch", "variance": "published", "debias": True, "alpha_range": None},
    {"momentum": None, "affine": False},
]


@pytest.mark.parametrize(
    ("compiler", "settings"),
    [*(("aot_eager", s) for s in COMPILED), ("inductor", COMPILED[0])],
    ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())),
)
def test_compiled_whole_without_recompiling(native_calls, compiler, settings):
    layer = UnitizedBatchNorm2d(3, **settings).double()
    plain = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=compiler)
    for training in (True, False):
        layer.train(training)
        plain.train(training)
        # Every size differs from every other, and from the next call's: equal ones are compiled as one symbol.
        for first, shape in ((True, (4, 3, 5, 6)), (False, (7, 3, 8, 9)), (False, (2, 3, 4, 7))):
            x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            before = dict(native_calls)
            with torch._dynamo.config.patch(error_on_recompile=not first):
                y = compiled(x)
            found = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
            assert native_calls == {name: n + 1 for name, n in before.items()}
            wanted = plain(x)
            right = torch.autograd.grad(wanted.square().sum(), [x, *plain.parameters()])
            for a, b in zip((y, *found), (wanted, *right), strict=True):
                assert_near(a, b)
            for a, b in zip(layer.buffers(), plain.buffers(), strict=True):
                assert_near(a.double(), b.double())


@pytest.mark.parametrize("settings", COMPILED[:2], ids=lambda v: "-".join(map(str, v.values())))
def test_without_a_native_library_it_is_compiled_whole_without_recompiling_too(monkeypatch, settings):
    monkeypatch.setattr(ops, "_NATIVE_BUILT", False)
    layer = UnitizedBatchNorm2d(3, **settings).double()
    plain = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for training in (True, False):
        layer.train(training)
        plain.train(training)
        for first, shape in ((True, (4, 3, 5, 6)), (False, (7, 3, 8, 9)), (False, (2, 3, 4, 7))):
            x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            with torch._dynamo.config.patch(error_on_recompile=not first):
                y = compiled(x)
            found = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
            wanted = plain(x)
            right = torch.autograd.grad(wanted.square().sum(), [x, *plain.parameters()])
            for a, b in zip((y, *found, *layer.buffers()), (wanted, *right, *plain.buffers()), strict=True):
                assert_near(a.double(), b.double())


def test_a_compiled_layer_keeps_channels_last(native_calls):
    layer = UnitizedBatchNorm2d(3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = compiled(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert dx.is_contiguous(memory_format=torch.channels_last)


def test_a_compiled_network_takes_the_same_steps_under_autocast():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), UnitizedBatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    network(torch.randn(2, 3, 6, 6))
    plain = copy.deepcopy(network)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for n in (4, 6):
        x = torch.randn(n, 3, 6, 6)
        outputs = []
        for net, run in ((network, compiled), (plain, plain)):
            with torch.autocast("cpu", torch.bfloat16):
                y = run(x)
            y.square().sum().backward()
            outputs.append((y, *(p.grad for p in net.parameters()), *net.buffers()))
        for found, wanted in zip(*outputs, strict=True):
            assert found.dtype == wanted.dtype
            assert_near(found.double(), wanted.double(), 1e-6)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(cpu_plan, "DTYPES", {}), (ops, "_NATIVE_BUILT", False)],
    ids=["dtype", "installation"],
)
def test_what_has_no_native_kernel_is_compiled_as_the_composite(monkeypatch, module, name, value):
    monkeypatch.setattr(module, name, value)
    found = torch.export.export(UnitizedBatchNorm1d(3).eval(), (torch.randn(4, 3),))
    assert FORWARD not in {node.target for node in found.graph.nodes}


def test_transforms_of_a_compiled_function_see_plain_operations():
    x, alpha = torch.randn(5, 4, 3, 2, dtype=torch.float64), torch.rand(3, dtype=torch.float64)

    def layer(x, alpha):
        return unitized_batch_norm(x, None, None, None, None, alpha, training=True)

    def loss(x, alpha):
        return layer(x, alpha).pow(3).sum()

    for f in (
        torch.vmap(layer, (0, None)),
        torch.vmap(torch.func.grad(loss, (0, 1)), (0, None)),
    ):
        found, wanted = torch.compile(f, backend="aot_eager", fullgraph=True)(x, alpha), f(x, alpha)
        torch.testing.assert_close(found, wanted)


def test_vmap_of_the_operator_itself_is_right():
    args, _ = arguments((3, 2, 4), Settings(), training=True)
    x = torch.randn(5, 3, 2, 4, dtype=torch.float64)
    found = torch.vmap(lambda t: FORWARD(t, *args[1:])[0])(x)
    for i in range(5):
        assert_near(found[i], ops.unitize(x[i], *args[1:4], None, Settings())[0])
