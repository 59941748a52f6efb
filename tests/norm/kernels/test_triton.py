"""The Triton kernels against the definition, on a GPU where there is one, else in Triton's interpreter.

Every test takes seconds in the interpreter, so that the tiles are made small instead of the tensors large.
"""

import itertools
import os
from types import SimpleNamespace

import pytest
import torch
from problems import INTERPOLATIONS, SCOPES, SHAPES, assert_near, composite, problem, problems_of, settings_of

from icsbound.norm import interpolation, ops
from icsbound.norm.kernels import aten, cpu, triton_launch, triton_plan
from icsbound.norm.kernels import triton as backend
from icsbound.norm.kernels import triton_primitives as primitives
from icsbound.norm.kernels.running import Running
from icsbound.norm.settings import Settings

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("takes a minute: `make test-triton`", allow_module_level=True)
DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
triton = pytest.importorskip("triton")

EVERY_FORM = pytest.mark.parametrize("form", INTERPOLATIONS)
EVERY_SCOPE = pytest.mark.parametrize("scope", SCOPES)
BOTH_MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
LAYOUTS = ("rows", "pixels")
BOTH_LAYOUTS = pytest.mark.parametrize("layout", LAYOUTS)

# With tiles of 64 elements, 6 programs at most, and 64 elements in registers.
ODD_SHAPES = {
    "a tail of one": (2, 5, 1, 17),
    "several tiles to a program": (1, 2, 301),
    "several segments, with a short last one": (2, 3, 131),
    "more channels than a tile has": (2, 33, 1, 3),
    "channels gone through in blocks": (2, 70, 3, 3),
    "dense, with more samples than a tile has": (70, 5),
    "as small as can be": (2, 1),
    "many small rows": (3, 37, 2, 2),
}


@pytest.fixture(scope="module", autouse=True)
def _language_replaced_once():
    """The interpreter replaces the functions of the language again whenever a kernel calls another: half its time."""
    if DEVICE == "cuda":
        yield
        return
    interpreter, language = triton.runtime.interpreter, triton.language
    seen = SimpleNamespace(__globals__={"tl": language, "core": language.core})  # by kernels, and by what they call
    scope = interpreter._patch_lang(seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", lambda kernel: interpreter._LangPatchScope())
        yield
    scope.restore()


@pytest.fixture
def small_tiles(monkeypatch):
    for name, value in {
        "TILE": 64, "SMALLEST_TILE": 32, "ENOUGH_PROGRAMS": 3, "MOST_PROGRAMS": 6, "LARGEST_TILE": 64,
    }.items():  # fmt: skip
        monkeypatch.setattr(triton_plan, name, value)
    triton_plan.plan.cache_clear()
    yield
    triton_plan.plan.cache_clear()


def arranged(t, layout):
    """`t` on the device, with its channels last in memory for "pixels"."""
    t = t.detach().to(DEVICE)
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if layout == "pixels" else t.contiguous()


def run(x, p, dy, settings, training):
    """Output, statistics and gradients by the Triton kernels, on the CPU."""
    parameters = cpu.Parameters(*(None if t is None else t.detach().to(DEVICE) for t in (p.weight, p.bias, p.alpha)))
    stored = None if training else aten.Statistics(*(t.to(DEVICE) for t in p.stored))
    y, statistics, saved = backend.forward(x, parameters, stored, settings)
    grads = backend.backward(dy, x, parameters, saved, training, settings)
    assert y.stride() == x.stride()
    assert grads[0].stride() == x.stride()
    return y.cpu(), [t.cpu() for t in statistics], [t.cpu() for t in grads]


def assert_right(p, settings, training, layout, tolerance=1e-10):
    """The kernels give what autograd finds through the definition, in float64."""
    y, _, grads = run(arranged(p.x, layout), p, arranged(p.dy, layout), settings, training)
    wanted, wanted_grads = composite(p, settings, training)
    for found, right in zip((y, *grads), (wanted, *wanted_grads), strict=True):
        assert found.shape == right.shape
        assert_near(found, right, tolerance)


def run_aten(x, p, dy, settings, training):
    parameters = aten.parameters(x, p.weight, p.bias, p.alpha, settings)
    with torch.no_grad():
        y, statistics, saved = aten.forward(x, parameters, None if training else p.stored, settings)
        return y, statistics, aten.backward(dy, x, parameters, saved, training, settings)


def assert_same(found, wanted, tolerance=1e-10):
    for a, b in zip((found[0], *found[1], *found[2]), (wanted[0], *wanted[1], *wanted[2]), strict=True):
        assert_near(a.double(), b.double(), tolerance)


@EVERY_FORM
@EVERY_SCOPE
@BOTH_MODES
def test_every_shape(form, scope, training):
    """All shapes, and all settings in turn; both layouts in the course of the modes and forms."""
    turn = itertools.cycle(settings_of(form, scope))
    for i, (name, shape) in enumerate(SHAPES.items()):
        layout = LAYOUTS[(i + training + INTERPOLATIONS.index(form)) % 2]
        settings = [next(turn) for _ in range(5)][-1]  # 5 has no divisor in common with the 24 settings
        assert_right(problem(shape, seed=len(name)), settings, training, layout)


@pytest.mark.full
@EVERY_FORM
@EVERY_SCOPE
@BOTH_MODES
@BOTH_LAYOUTS
def test_every_setting(form, scope, training, layout):
    for p, settings in problems_of(form, scope):
        assert_right(p, settings, training, layout)


@pytest.mark.usefixtures("small_tiles")
@EVERY_SCOPE
@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=ODD_SHAPES.keys())
def test_odd_shapes(shape, scope):
    p = problem(shape, seed=3)
    s = Settings(scope=scope, activation="relu", eps=1e-3, norm_eps=2e-3)
    for layout in LAYOUTS if len(shape) > 2 else ("rows",):
        assert_right(p, s, True, layout)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=ODD_SHAPES.keys())
def test_odd_shapes_in_evaluation(shape):
    """Where a sample has one norm: the other scopes have no pass of their own."""
    p = problem(shape, seed=4)
    assert_right(p, Settings(), False, "pixels" if shape[0] % 2 else "rows")


@pytest.mark.usefixtures("small_tiles")
@EVERY_SCOPE
@pytest.mark.parametrize("dtype", triton_launch.DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_every_dtype(dtype, scope):
    # Against float64 of the same rounded inputs: sums in float32, and one rounding of each output to `dtype`.
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for layout, training in ((LAYOUTS[0], True), (LAYOUTS[1], False)):
        p = problem((3, 5, 3, 7), seed=5)
        x, dy = arranged(p.x.detach().to(dtype), layout), arranged(p.dy.to(dtype), layout)
        s = Settings(scope=scope, eps=1e-3, norm_eps=1e-3)
        found = run(x, p, dy, s, training)
        assert found[0].dtype == found[2][0].dtype == dtype
        assert found[1][0].dtype == found[2][1].dtype == aten.inner_dtype(x)
        assert_same(found, run_aten(x.cpu().double(), p, dy.cpu().double(), s, training), tolerance)


@pytest.mark.usefixtures("small_tiles")
@EVERY_SCOPE
@pytest.mark.parametrize("shape", [(5, 3, 9, 5), (64, 3)], ids=["image", "dense"])
def test_digits_are_kept_where_the_mean_is_large(scope, shape):
    p = problem(shape, seed=7)
    x, dy = (p.x.detach() + 1e5).float(), p.dy.float()
    s = Settings(scope=scope, activation="relu")
    for layout in LAYOUTS if len(shape) > 2 else ("rows",):
        # In units of the output. Without the pivot the error is about 1e-2.
        found = run(arranged(x, layout), p, arranged(dy, layout), s, True)
        y, statistics, grads = run_aten(x.double(), p, p.dy, s, True)
        assert_near(found[0].double(), y, 1e-5)
        assert_near(found[1][1].double(), statistics.var_C, 1e-5)
        for a, b in zip(found[2], grads, strict=True):
            assert_near(a.double(), b, 3e-5)


@EVERY_SCOPE
@BOTH_MODES
def test_constant_channels_and_zero_samples_stay_finite(scope, training):
    p = problem((4, 5, 3, 6), seed=8)
    x = p.x.detach().clone()
    x[:, 1] = 3.0  # a channel without variance
    x[2] = 0.0  # a sample of zeros, whatever the mean
    x[3] = p.stored.mean_C[:, None, None]  # a sample equal to the stored mean: norm 0 in evaluation
    for form, layout in zip(INTERPOLATIONS, (*LAYOUTS, "rows"), strict=True):
        s = Settings(interpolation=form, scope=scope)
        found = run(arranged(x, layout), p, arranged(p.dy, layout), s, training)
        assert all(bool(t.isfinite().all()) for t in (found[0], *found[2]))
        assert_same(found, run_aten(x, p, p.dy, s, training), 1e-8)  # r is 1 / sqrt(eps) in the constant channel
    y, _, grads = run(torch.zeros_like(x, device=DEVICE), p, p.dy.to(DEVICE), Settings(scope=scope), training)
    assert all(bool(t.isfinite().all()) for t in (y, *grads))


def test_not_a_number_stays_one():
    p = problem((3, 4, 2, 2))
    p.x.data[0, 1] = torch.nan
    y, (mean, _), (dx, *_) = run(arranged(p.x, "rows"), p, arranged(p.dy, "rows"), Settings(activation="relu"), True)
    assert y[:, 1].isnan().all()
    assert mean.isnan().tolist() == [False, True, False, False]
    assert dx[0].isnan().any()


@EVERY_SCOPE
def test_gradients_and_inputs_of_any_strides(scope):
    p = problem((2, 3, 4, 6))
    s = Settings(scope=scope)
    x = arranged(p.x, "rows")
    for dy in (
        torch.tensor(0.7, dtype=torch.float64, device=DEVICE).expand(2, 3, 4, 6),  # what y.sum() hands back
        p.dy.to(DEVICE).permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0),
        arranged(p.dy, "pixels"),
    ):
        assert_same(run(x, p, dy, s, True), run(x, p, dy.contiguous(), s, True), 0.0)
    scattered = x.repeat(1, 1, 1, 2)[..., ::2]
    parameters = cpu.Parameters(None, None, p.alpha.detach().to(DEVICE))
    found, wanted = (backend.forward(t, parameters, None, s)[0] for t in (scattered, scattered.contiguous()))
    assert torch.equal(found, wanted)


@pytest.mark.usefixtures("small_tiles")
@BOTH_LAYOUTS
def test_the_same_input_gives_the_same_bits(layout):
    p = problem((2, 5, 9, 9), dtype=torch.float32)
    x, dy = arranged(p.x, layout), arranged(p.dy, layout)
    runs = [run(x, p, dy, Settings(), True) for _ in range(2)]
    assert_same(*runs, 0.0)


@pytest.mark.parametrize("kept", [torch.float32, torch.float64, torch.bfloat16], ids=["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 3)], ids=["image", "dense"])
def test_running_statistics_move_in_place(kept, shape):
    p = problem(shape, dtype=torch.float32)
    for momentum in (0.1, 1.0):
        mean, var = torch.randn(3, dtype=kept), torch.rand(3, dtype=kept)
        moved = Running(mean.to(DEVICE, copy=True), var.to(DEVICE, copy=True), momentum, 1.25)
        versions = moved.mean_C._version, moved.var_C._version
        parameters = cpu.Parameters(*(t.detach().to(DEVICE) for t in (p.weight, p.bias, p.alpha)))
        _, batch, _ = backend.forward(arranged(p.x, "rows"), parameters, None, Settings(), moved)
        for found, old, new in zip(moved[:2], (mean, var), (batch.mean_C, batch.var_C * 1.25), strict=True):
            wanted = torch.lerp(old.float(), new.cpu().float(), momentum)
            assert_near(found.cpu().float(), wanted, 1e-2 if kept is torch.bfloat16 else 1e-6)
        assert moved.mean_C._version > versions[0]
        assert moved.var_C._version > versions[1]


def test_without_weight_and_bias_and_without_dx():
    p = problem((5, 3, 4, 6), affine=False)
    x, dy = arranged(p.x, "rows"), arranged(p.dy, "rows")
    parameters = cpu.Parameters(None, None, p.alpha.detach().to(DEVICE))
    y, _, saved = backend.forward(x, parameters, None, Settings())
    wanted, (_, dalpha) = composite(p, Settings(), True)
    assert_near(y.cpu(), wanted)
    nothing, *grads = backend.backward(dy, x, parameters, saved, True, Settings(), want_dx=False)
    assert nothing is None
    assert_near(grads[2].cpu(), dalpha)


def test_alpha_at_an_end_of_its_range_can_leave_it():
    p = problem((2, 4, 3, 3))
    for end, sign in itertools.product((0.0, 1.0), (1, -1)):
        p.alpha.data.fill_(end)
        x, dy = arranged(p.x, "rows"), arranged(sign * p.dy, "rows")
        _, _, (_, _, _, free) = run(x, p, dy, Settings(alpha_range=None), True)
        _, _, (_, _, _, kept) = run(x, p, dy, Settings(), True)
        assert torch.equal(kept, interpolation.inward(free, p.alpha.detach(), (0.0, 1.0)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
@EVERY_FORM
@EVERY_SCOPE
def test_where_squares_overflow_in_evaluation_nothing_becomes_nan(form, scope):
    p = problem((3, 5, 3, 6), dtype=torch.float32, seed=9)  # α is 0 in the first channel and 1 in the last
    x, s = p.x.detach() * 1e25, Settings(interpolation=form, scope=scope)
    y, _, (dx, dweight, dbias, _) = run(arranged(x, "rows"), p, arranged(p.dy, "rows"), s, False)
    wanted, _, right = run_aten(x, p, p.dy, s, False)
    for found, exact in ((y, wanted), (dx, right[0]), (dweight, right[1]), (dbias, right[2])):
        assert bool(found.isfinite().all())
        assert_near(found, exact, 1e-5)
    x[1, 2, 0, 4] = torch.nan
    y, _, _ = run(arranged(x, "rows"), p, arranged(p.dy, "rows"), s, False)
    assert torch.equal(y.isnan(), run_aten(x, p, p.dy, s, False)[0].isnan())


@BOTH_MODES
def test_through_autograd(monkeypatch, training):
    """The layer's own node of the graph, whichever backend fills it: first and second order."""
    if DEVICE == "cpu":
        monkeypatch.setattr(cpu, "usable", lambda x: False)
        monkeypatch.setattr(backend, "usable", lambda x: True)
    p = problem((3, 2, 4), edges=False)
    leaves = [t.detach().to(DEVICE).requires_grad_() for t in p.leaves]
    stored = None if training else aten.Statistics(*(t.to(DEVICE) for t in p.stored))
    y, _ = ops.unitize(*leaves, stored, Settings())
    assert type(y.grad_fn).__name__ == "_NativeBackward"
    wanted, wanted_grads = composite(p, Settings(), training)
    assert_near(y.cpu(), wanted)
    for found, right in zip(
        torch.autograd.grad(y, leaves, p.dy.to(DEVICE), retain_graph=True), wanted_grads, strict=True
    ):
        assert_near(found.cpu(), right)
    first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    assert all(bool(g.isfinite().all()) for g in second)


@pytest.mark.usefixtures("small_tiles")
@BOTH_LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 5, 131), (4, 19, 3, 3)], ids=["several segments", "several rows"])
def test_primitives(shape, dtype, layout):
    g = torch.Generator().manual_seed(1)
    N, C = shape[:2]
    inner = torch.float64 if dtype == torch.float64 else torch.float32
    x, dy = (torch.randn(shape, generator=g).to(dtype) + 3 for _ in range(2))
    K, (a, b, c) = x[0].flatten(1)[:, 0].to(inner), torch.randn(3, N, C, generator=g, dtype=inner)
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 1e-2}[dtype]

    def near(found, wanted):
        for f, w in zip(found, wanted, strict=True):
            assert f.shape == w.shape
            assert_near(f.cpu().double(), w, tolerance)

    xd, dyd, Kd, ad, bd, cd = (t.to(DEVICE) for t in (arranged(x, layout), arranged(dy, layout), K, a, b, c))
    exact = [t.double() for t in (x, dy, K, a, b, c)]
    x, dy, K, a, b, c = exact
    near(primitives.row_moments(xd, Kd), aten.row_moments(x, K))
    near(primitives.row_dots(dyd, xd, Kd), aten.row_dots(dy, x, K))
    near([primitives.row_affine(xd, Kd, ad, bd)], [aten.row_affine(x, K, a, b)])
    near([primitives.row_affine(xd, Kd, ad, bd, relu=True)], [aten.row_affine(x, K, a, b).relu()])
    near([primitives.row_affine2(dyd, xd, Kd, ad, bd, cd)], [aten.row_affine2(dy, x, K, a, b, c)])
    assert primitives.row_affine(xd, Kd, ad, bd).stride() == xd.stride()
