"""The native kernels against the closed form over ATen: settings, shapes, layouts, dtypes, instruction sets, edges."""

import itertools

import pytest
import torch
from native_runs import LAYOUTS, arranged, assert_same, run, run_aten
from problems import INTERPOLATIONS, SCOPES, SHAPES, assert_near, problem, settings_of

from icsbound import _native
from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, interpolation, ops
from icsbound.norm.kernels import aten, cpu, cpu_plan
from icsbound.norm.kernels.running import Running
from icsbound.norm.settings import Settings

pytestmark = pytest.mark.skipif(cpu._calls() is None, reason="no native library was built for this installation")

EVERY_FORM = pytest.mark.parametrize("form", INTERPOLATIONS)
EVERY_SCOPE = pytest.mark.parametrize("scope", SCOPES)
BOTH_MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])

# Every way a row or a pixel can meet a vector of 2, 4, 8 or 16 lanes, and every way that work is cut.
ODD_SHAPES = {
    "shorter than a vector": (3, 3, 3),
    "a tail of one": (2, 17, 1, 17),
    "four vectors and a tail": (2, 33, 5, 15),
    "several pieces of a row": (1, 2, 4101),  # beyond the 16 KB that are looked at twice
    "several blocks of positions": (2, 3, 257),
    "rows summed together": (3, 11, 10, 10),  # their shifts from several elements, the last group not full
    "few channels, many pixels": (2, 3, 40, 30),  # channels_last: several pixels are read as one
    "several segments of a sample": (2, 5, 33, 31),  # channels_last: a small batch of large images
    "dense, many samples": (70, 19),  # several tiles and parts
    "as small as can be": (2, 1),
    "many small rows": (40, 70, 2, 2),  # N·C above the grain of the coefficient step, and more than a strip
}
# Against float64 of the same rounded inputs: sums in float32, and one rounding of each output to `dtype`.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@EVERY_FORM
@EVERY_SCOPE
@BOTH_MODES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_setting(form, scope, training, layout):
    for name, shape in SHAPES.items():
        p = problem(shape, seed=len(name))
        x, dy = arranged(p.x.detach(), layout), arranged(p.dy, layout)
        for s in settings_of(form, scope):
            assert_same(run(x, p, dy, s, training), run_aten(x, p, dy, s, training))


@EVERY_SCOPE
@BOTH_MODES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=ODD_SHAPES.keys())
def test_odd_shapes(shape, scope, training, layout):
    p = problem(shape, seed=3)
    x, dy = arranged(p.x.detach(), layout), arranged(p.dy, layout)
    for form, activation in itertools.product(INTERPOLATIONS, (None, "relu")):
        s = Settings(interpolation=form, scope=scope, activation=activation, eps=1e-3, norm_eps=2e-3)
        y, statistics, grads = run(x, p, dy, s, training)
        assert y.stride() == x.stride()
        assert grads[0].stride() == x.stride()
        assert_same((y, statistics, grads), run_aten(x, p, dy, s, training))


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", list(cpu_plan.DTYPES), ids=lambda d: str(d).removeprefix("torch."))
def test_every_instruction_set_and_dtype(dtype):
    for shape, scope, layout, training in itertools.product(((4, 19, 5, 7), (6, 33)), SCOPES, LAYOUTS, (True, False)):
        p = problem(shape, seed=5)
        x, dy = arranged(p.x.detach().to(dtype), layout), arranged(p.dy.to(dtype), layout)
        s = Settings(scope=scope, eps=1e-3, norm_eps=1e-3)
        y, statistics, grads = run(x, p, dy, s, training)
        assert y.dtype == grads[0].dtype == dtype
        assert statistics.mean_C.dtype == grads[1].dtype == aten.inner_dtype(x)
        wanted = run_aten(x.double(), p, dy.double(), s, training)
        for a, b in zip((y, *statistics, *grads), (wanted[0], *wanted[1], *wanted[2]), strict=True):
            assert_near(a.double(), b, TOLERANCE[dtype])


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", list(cpu_plan.DTYPES), ids=lambda d: str(d).removeprefix("torch."))
def test_rows_of_any_length(dtype):
    """The ends of rows and pixels, at odd addresses, with NaN beside them that no sum and no output may take in."""

    def beside_nan(t):
        return t.new_full((t.numel() + 64,), torch.nan).as_strided(t.shape, t.stride(), 33).copy_(t)

    lengths = (1, 7, 15, 17, 49, 196)
    for length, scope, layout, training in itertools.product(lengths, SCOPES, LAYOUTS, (True, False)):
        p = problem((3, length % 8 + 2, 1, length), seed=length)
        x, dy = (beside_nan(arranged(t.detach().to(dtype), layout)) for t in (p.x, p.dy))
        s = Settings(scope=scope, activation="relu", eps=1e-3, norm_eps=1e-3)
        found, wanted = run(x, p, dy, s, training), run_aten(x.double(), p, dy.double(), s, training)
        for a, b in zip((found[0], *found[1], *found[2]), (wanted[0], *wanted[1], *wanted[2]), strict=True):
            assert_near(a.double(), b, TOLERANCE[dtype])


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_rounded_as_torch_rounds(dtype):
    """With μ = 0, var + eps = 1, α = 0 the layer is γ x: all halves are read, the product rounded to nearest even."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[torch.isfinite(x)].reshape(1, 1, -1)
    s = Settings(eps=0.0, scope="batch")
    stored = aten.Statistics(torch.zeros(1), torch.ones(1))
    for gamma in (1.0, 1 + 2**-9, 1 + 2**-12, 0.37, 2.0**-9, 3.0):
        y, _, _ = cpu.forward(x, cpu.Parameters(torch.tensor([gamma]), None, torch.zeros(1)), stored, s)
        assert torch.equal(y, (x.float() * gamma).to(dtype))
    nan = torch.full((1, 1, 40), torch.nan, dtype=dtype)
    assert cpu.forward(nan, cpu.Parameters(None, None, torch.zeros(1)), stored, s)[0].isnan().all()


@EVERY_SCOPE
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 48, 160, 288),  # above 8 MB in either dtype, its rows whole vectors: stored past the caches
        (2, 53, 131, 173),  # above 4 MB in either dtype, its rows and pixels ragged: asked for in advance
    ],
    ids=["aligned", "ragged"],
)
def test_large_tensors(shape, scope, layout, dtype):
    p = problem(shape, dtype=torch.float32)
    x, dy = arranged(p.x.detach().to(dtype), layout), arranged(p.dy.to(dtype), layout)
    s = Settings(scope=scope)
    found = run(x, p, dy, s, True)
    pieces = slice(1, None), slice(None, 5)  # an image large enough, of which a part is compared
    wanted = run_aten(x.float(), p, dy.float(), s, True)
    tolerance = 1e-4 if dtype is torch.float32 else 2e-2
    assert_near(found[0][pieces].float(), wanted[0][pieces], tolerance)
    assert_near(found[2][0][pieces].float(), wanted[2][0][pieces], tolerance)


@EVERY_SCOPE
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_any_strides(scope, layout):
    p = problem((5, 3, 4, 6))
    x = arranged(p.x.detach(), layout)
    for dy in (
        torch.tensor(0.7, dtype=torch.float64).expand(5, 3, 4, 6),  # what y.sum() hands back
        p.dy[:, :, :1, :1].expand(5, 3, 4, 6),  # what a mean over positions hands back
        p.dy.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0),
        arranged(p.dy, "pixels"),
        p.dy.repeat(1, 1, 1, 2)[..., ::2],
    ):
        found, wanted = (
            run(x, p, dy, Settings(scope=scope), True),
            run(x, p, dy.contiguous(), Settings(scope=scope), True),
        )
        assert_same(found, wanted, 0.0)


@EVERY_SCOPE
def test_input_of_any_strides(scope):
    p = problem((5, 3, 4, 6))
    for x in (
        p.x.detach().repeat(1, 1, 1, 2)[..., ::2],
        p.x.detach().transpose(2, 3).contiguous().transpose(2, 3),
        p.x.detach()[:1].expand(5, 3, 4, 6),
    ):
        found = run(x, p, p.dy, Settings(scope=scope), True)
        assert_same(found, run(x.contiguous(), p, p.dy, Settings(scope=scope), True), 0.0)
    dense = problem((4, 3))
    x = dense.x.detach().t().contiguous().t()
    assert_same(run(x, dense, dense.dy, Settings(), True), run_aten(x, dense, dense.dy, Settings(), True))


@EVERY_SCOPE
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_the_number_of_threads(scope, layout):
    p = problem((4, 24, 40, 40), dtype=torch.float32)
    x, dy = arranged(p.x.detach(), layout), arranged(p.dy, layout)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([run(x, p, dy, Settings(scope=scope), training) for training in (True, False)])
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        assert_same(one, three, 0.0)


@pytest.mark.parametrize("kept", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 3)], ids=["image", "dense"])
def test_running_statistics_move_in_place(kept, shape):
    p = problem(shape, dtype=torch.float32)
    parameters = cpu.Parameters(p.weight, p.bias, p.alpha)
    for momentum, scope in itertools.product((0.1, 1.0), SCOPES):
        mean, var = torch.randn(3, dtype=kept), torch.rand(3, dtype=kept)
        moved = Running(mean.clone(), var.clone(), momentum, 1.25)
        versions = moved.mean_C._version, moved.var_C._version
        s = Settings(scope=scope)
        y, batch, _ = cpu.forward(p.x.detach(), parameters, None, s)
        again, found, _ = cpu.forward(p.x.detach(), parameters, None, s, moved)
        assert torch.equal(y, again)
        assert found is None or torch.equal(found.var_C, batch.var_C)
        assert_near(moved.mean_C, torch.lerp(mean, batch.mean_C.to(kept), momentum), 1e-6)
        assert_near(moved.var_C, torch.lerp(var, batch.var_C.to(kept) * 1.25, momentum), 1e-6)
        assert moved.mean_C._version > versions[0]
        assert moved.var_C._version > versions[1]


def test_a_backward_through_statistics_that_have_moved_is_refused():
    layer = UnitizedBatchNorm2d(3)
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    y = layer.eval()(x)
    layer.train()(x)  # moves the statistics that y was normalized with
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_layer_uses_the_kernels_and_saves_little():
    layer = UnitizedBatchNorm2d(8)
    x = torch.randn(4, 8, 16, 16, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(x)
    assert type(y.grad_fn).__name__ == "_NativeBackward"
    others = [t for t in saved if t.data_ptr() != x.data_ptr()]
    assert sum(t.numel() for t in others) <= 6 * 8 + 4 + 3 * 4 * 8 + 3 * 8  # coefficients, and the parameters
    name, why = ops.backend(x)
    assert name == "native"
    assert _native.simd() in why


@EVERY_SCOPE
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 6)], ids=["dense", "image"])
def test_one_native_call_each_way(monkeypatch, shape, scope):
    """The coefficient step is part of it: a few small calls of torch's would cost more than a small batch norm."""
    made = []

    def recorded(name, call):
        return lambda problem: made.append(name) or call(problem)

    calls = tuple(recorded(*named) for named in zip(("forward", "backward"), cpu._calls(), strict=True))
    monkeypatch.setattr(cpu, "_calls", lambda: calls)
    layer = (UnitizedBatchNorm1d if len(shape) == 2 else UnitizedBatchNorm2d)(3, scope=scope)
    x = torch.randn(shape, requires_grad=True)
    for training in (True, False):
        layer.train(training)(x).sum().backward()
        assert made == ["forward", "backward"]
        made.clear()


def test_only_the_wanted_gradients_are_found():
    layer = UnitizedBatchNorm2d(3)
    x = torch.randn(4, 3, 2, 2)
    layer(x).sum().backward()  # x needs none
    assert x.grad is None
    assert layer.alpha.grad is not None
    p = problem((4, 3, 2, 2))
    parameters = cpu.Parameters(p.weight, p.bias, p.alpha)
    with torch.no_grad():
        _, _, saved = cpu.forward(p.x, parameters, None, Settings())
        with_dx = cpu.backward(p.dy, p.x, parameters, saved, True, Settings())
        without = cpu.backward(p.dy, p.x, parameters, saved, True, Settings(), want_dx=False)
    assert without[0] is None
    for a, b in zip(with_dx[1:], without[1:], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (torch.empty(2, 3, device="meta"), "x is on meta"),
        (torch.zeros(2, 3, dtype=torch.float8_e4m3fn), "have no float8_e4m3fn"),
        (torch.zeros(2, 3).as_subclass(type("Wrapped", (torch.Tensor,), {})), "x is a Wrapped"),
    ],
    ids=["device", "dtype", "subclass"],
)
def test_what_the_kernels_refuse_runs_on_torch(x, why):
    assert not cpu.usable(x)
    name, reason = ops.backend(x)
    assert name == "aten"
    assert why in reason


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 4, 5, 6)], ids=len)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_neither_layout_is_copied_to_another(layout, shape):
    x = arranged(torch.randn(shape), layout)
    assert cpu.arranged(x)[0] is x
    strided = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    assert cpu.arranged(strided)[0] is not strided  # what is copied, so that the above can fail


def test_without_a_library_the_layer_still_works(monkeypatch):
    p = problem((5, 3, 4, 6))
    wanted, _ = ops.unitize(p.x, p.weight, p.bias, p.alpha, None, Settings())
    monkeypatch.setattr(cpu, "_calls", lambda: None)
    found, _ = ops.unitize(p.x, p.weight, p.bias, p.alpha, None, Settings())
    assert type(found.grad_fn).__name__ == "_UnitizeBackward"
    assert_near(found.detach(), wanted.detach())
    assert ops.backend(p.x) == ("aten", "no native library was loaded")


def test_alpha_at_an_end_of_its_range_can_leave_it():
    p = problem((6, 4, 3, 3))
    for low_end, sign in itertools.product((True, False), (1, -1)):
        p.alpha.data.fill_(0.0 if low_end else 1.0)
        _, _, (_, _, _, free) = run(p.x.detach(), p, sign * p.dy, Settings(alpha_range=None), True)
        _, _, (_, _, _, kept) = run(p.x.detach(), p, sign * p.dy, Settings(), True)
        assert torch.equal(kept, interpolation.inward(free, p.alpha.detach(), (0.0, 1.0)))
