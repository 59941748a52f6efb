"""The native kernels where digits could be lost, squares overflow, channels are constant, or memory is short."""

import itertools
import subprocess
import sys

import pytest
import torch
from native_runs import LAYOUTS, arranged, assert_same, run, run_aten
from problems import INTERPOLATIONS, SCOPES, assert_near, problem

from icsbound.norm.kernels import cpu
from icsbound.norm.settings import Settings

pytestmark = pytest.mark.skipif(cpu._calls() is None, reason="no native library was built for this installation")

EVERY_SCOPE = pytest.mark.parametrize("scope", SCOPES)
BOTH_MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@EVERY_SCOPE
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(16, 6, 9, 11), (64, 24)], ids=["image", "dense"])
def test_digits_are_kept_where_the_mean_is_large(scope, layout, shape):
    p = problem(shape, seed=7)
    x = arranged((p.x.detach() + 1e5).float(), layout)
    s = Settings(scope=scope, activation="relu")
    y, statistics, grads = run(x, p, arranged(p.dy.float(), layout), s, True)
    wanted = run_aten(x.double(), p, p.dy, s, True)
    # In units of the output. Without the pivot the error is about 1e-2.
    assert_near(y.double(), wanted[0], 1e-5)
    assert_near(statistics.var_C.double(), wanted[1].var_C, 1e-5)
    for a, b in zip(grads, wanted[2], strict=True):
        assert_near(a.double(), b, 3e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 2, 7, 7), (3, 2, 12, 20), (2, 2, 80, 120)], ids=["short", "medium", "long"])
def test_digits_are_kept_where_a_few_values_are_all_there_is(layout, shape):
    """Moments are taken about some of the values: even if just those are far from all the others, digits are kept."""
    for at in range(8):
        x = torch.randn(shape, dtype=torch.float64) * 1e-3
        x.flatten(2)[..., x[0, 0].numel() * at // 8] += 100.0
        x = arranged(x.float(), layout)
        p = problem(shape)
        found = run(x, p, arranged(p.dy.float(), layout), Settings(), True)
        wanted = run_aten(x.double(), p, p.dy, Settings(), True)
        assert_near(found[1].var_C.double() / wanted[1].var_C, torch.ones(2, dtype=torch.float64), 3e-5)
        assert_near(found[0].double(), wanted[0], 1e-4)


@EVERY_SCOPE
@BOTH_MODES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_constant_channels_and_zero_samples_stay_finite(scope, training, layout):
    p = problem((4, 5, 3, 6), seed=8)
    x = p.x.detach().clone()
    x[:, 1] = 3.0  # a channel without variance
    x[2] = 0.0  # a sample of zeros, whatever the mean
    x[3] = p.stored.mean_C[:, None, None]  # a sample equal to the stored mean: norm 0 in evaluation
    x, dy = arranged(x, layout), arranged(p.dy, layout)
    for form in INTERPOLATIONS:
        s = Settings(interpolation=form, scope=scope)
        found = run(x, p, dy, s, training)
        assert all(bool(t.isfinite().all()) for t in (found[0], *found[2]))
        assert_same(found, run_aten(x, p, dy, s, training), 1e-8)  # r is 1 / sqrt(eps) in the constant channel
    zeros = torch.zeros_like(x)
    y, _, grads = run(zeros, p, dy, Settings(scope=scope), training)
    assert bool(y.isfinite().all())
    assert all(bool(g.isfinite().all()) for g in grads)


@pytest.mark.usefixtures("level")
@EVERY_SCOPE
def test_where_squares_overflow_in_evaluation_nothing_becomes_nan(scope):
    for shape, form, layout in itertools.product(((3, 5, 3, 6), (3, 5)), INTERPOLATIONS, LAYOUTS):
        p = problem(shape, dtype=torch.float32, seed=9)  # α is 0 in the first channel and 1 in the last
        x, dy = arranged(p.x.detach() * 1e25, layout), arranged(p.dy, layout)
        s = Settings(interpolation=form, scope=scope)
        y, _, grads = run(x, p, dy, s, False)
        wanted, _, right = run_aten(x, p, dy, s, False)
        for a, b in ((y, wanted), (grads[0], right[0]), (grads[1], right[1]), (grads[2], right[2])):
            assert bool(a.isfinite().all())
            assert_near(a, b, 1e-5)
        first = slice(None), 0
        r = 1 / torch.sqrt(p.stored.var_C[0] + s.eps)
        affine = p.weight[0].detach() * r * (x[first] - p.stored.mean_C[0]) + p.bias[0].detach()
        torch.testing.assert_close(y[first], affine, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_stays_nan_for_the_sample_or_the_pixel(layout):
    for form, scope in itertools.product(INTERPOLATIONS, ("sample", "position")):
        p = problem((3, 5, 3, 6), dtype=torch.float32)
        x = p.x.detach().clone()
        x[1, 2, 0, 4] = torch.nan
        y, _, _ = run(arranged(x, layout), p, arranged(p.dy, layout), Settings(interpolation=form, scope=scope), False)
        wanted = run_aten(x, p, p.dy, Settings(interpolation=form, scope=scope), False)[0]
        assert torch.equal(y.isnan(), wanted.isnan())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space of a process")
def test_too_little_memory_is_an_error_and_no_crash():
    # In backward the kernels work in as much memory as x takes; torch needs next to none where dx is not wanted.
    script = """
import resource, torch
from icsbound.norm.kernels import cpu
from icsbound.norm.settings import Settings
x, parameters = torch.randn(250, 20000, 2), cpu.Parameters(None, None, torch.zeros(20000))
_, _, saved = cpu.forward(x, parameters, None, Settings())
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**23, resource.RLIM_INFINITY))
try:
    cpu.backward(x, x, parameters, saved, True, Settings(), want_dx=False)
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "the layer's kernel found too little memory to work in\n"), done.stderr
