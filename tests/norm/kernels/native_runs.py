"""One problem through the native kernels, and through ATen, for the tests to compare."""

import torch
from problems import assert_near

from icsbound.norm.kernels import aten, cpu

LAYOUTS = ("rows", "pixels")


def arranged(t, layout):
    """`t` with its channels last in memory for "pixels"."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if layout == "pixels" else t.contiguous()


def run(x, p, dy, settings, training):
    """Output, statistics and gradients by the native kernels."""
    stored = None if training else p.stored
    parameters = cpu.Parameters(p.weight, p.bias, p.alpha)
    with torch.no_grad():
        y, statistics, saved = cpu.forward(x, parameters, stored, settings)
        grads = cpu.backward(dy, x, parameters, saved, training, settings)
    return y, statistics, grads


def run_aten(x, p, dy, settings, training):
    stored = None if training else p.stored
    with torch.no_grad():
        parameters = aten.parameters(x, p.weight, p.bias, p.alpha, settings)
        y, statistics, saved = aten.forward(x, parameters, stored, settings)
        grads = aten.backward(dy, x, parameters, saved, training, settings)
    return y, statistics, grads


def assert_same(found, wanted, tolerance=1e-10):
    y, statistics, grads = found
    wanted_y, wanted_statistics, wanted_grads = wanted
    assert y.dtype == wanted_y.dtype
    for a, b in zip((y, *statistics, *grads), (wanted_y, *wanted_statistics, *wanted_grads), strict=True):
        assert a.shape == b.shape
        assert_near(a.double(), b.double(), tolerance)
