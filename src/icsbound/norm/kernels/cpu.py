"""The layer on CPU by the native library: one call forward, one backward, the coefficient step included.

`forward` and `backward` are those of `aten`, to rounding. Both memory layouts are handled as they are; any other
strides are made contiguous first, as `nn.BatchNorm` does. The sources are src/native/norm*.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from icsbound import _native
from icsbound.norm.kernels.aten import Statistics, inner_dtype
from icsbound.norm.kernels.running import Running
from icsbound.norm.settings import INTERPOLATIONS, SCOPES, Settings

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ROWS, PIXELS = 0, 1
_STATISTICS, _REST = 1, 2
_PLAIN = (Tensor, torch.nn.Parameter)


class Parameters(NamedTuple):
    """γ, β (None for 1 and 0) and α, each (C,), as the layer holds them: α is brought into its range natively."""

    weight_C: Tensor | None
    bias_C: Tensor | None
    alpha_C: Tensor


class Problem(ctypes.Structure):
    """`struct Problem` of src/native/norm.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "channels", "positions")),
        *((name, ctypes.c_int32) for name in ("dtype", "layout", "interpolation", "scope")),
        *((name, ctypes.c_int32) for name in ("relu", "shrink_only", "training", "phases")),
        *((name, ctypes.c_double) for name in ("eps", "norm_eps", "per_kappa", "variance_factor", "count")),
        *((name, ctypes.c_double) for name in ("alpha_low", "alpha_high", "momentum", "bessel")),
        *((name, ctypes.c_void_p) for name in ("x", "dy", "out", "weight", "bias", "alpha", "mean", "var")),
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_var", "saved", "work")),
        *((name, ctypes.c_void_p) for name in ("grad_weight", "grad_bias", "grad_alpha", "parallel_for")),
        ("threads", ctypes.c_int64),
    )


@functools.cache
def _calls() -> tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer] | None:
    native = _native.library()
    if native is None or not hasattr(native, "icsbound_norm_forward"):
        return None
    native.icsbound_norm_problem_size.restype = ctypes.c_int64
    if native.icsbound_norm_problem_size() != ctypes.sizeof(Problem):
        raise ImportError("the native library of icsbound was built from other sources than this Python code; rebuild")
    calls = native.icsbound_norm_forward, native.icsbound_norm_backward
    for call in calls:
        call.argtypes, call.restype = (ctypes.POINTER(Problem),), None
    return calls


def refusal(x: Tensor) -> str | None:
    """Why `x` cannot be handled here; None if it can."""
    if x.device.type != "cpu":
        return f"the native kernels are for the CPU and x is on {x.device}"
    if x.dtype not in DTYPES:
        return f"the native kernels have no {str(x.dtype).removeprefix('torch.')}"
    if type(x) not in _PLAIN:
        return f"x is a {type(x).__name__}, whose operations only torch's own dispatch knows"
    if _calls() is None:
        return "no native library was built for this installation"
    return None


def usable(x: Tensor) -> bool:
    """Whether `forward` and `backward` take this input."""
    plain = type(x) in _PLAIN and x.is_cpu and x.dtype in DTYPES and x.layout is torch.strided
    return plain and x.numel() > 0 and _calls() is not None


def layout(x: Tensor) -> int | None:
    """ROWS for (N, C, L) in memory, PIXELS for (N, L, C), which is also dense input; None for anything else."""
    if x.is_contiguous():
        return PIXELS if x.numel() == x.shape[0] * x.shape[1] else ROWS
    return PIXELS if _channels_last(x) else None


def readable(x: Tensor) -> bool:
    """Whether the kernels read `x` where it lies; other strides are made contiguous first."""
    return x.is_contiguous() or _channels_last(x)


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.movedim(1, -1).is_contiguous()


@functools.lru_cache(maxsize=512)
def _constants(settings: Settings, N: int, C: int, L: int, training: bool) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The fields of `Problem` that follow from shape and settings, without those of layout and phases."""
    s = settings
    per_kappa = 1 / s.kappa(C, 1) ** 2 if s.scope == "position" else L / s.kappa(C, L) ** 2
    low, high = (-math.inf, math.inf) if s.alpha_range is None else s.alpha_range
    factor = s.variance_factor(N * L) if training else 1.0
    codes = (INTERPOLATIONS.index(s.interpolation), SCOPES.index(s.scope), s.activation == "relu", s.shrink_only)
    return codes, (s.eps, s.norm_eps, per_kappa, factor, N * L, low, high)


def _inner(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype is dtype and values.is_contiguous() else values.to(dtype).contiguous()


def _address(values: Tensor | None) -> int | None:
    return None if values is None else values.data_ptr()


def by_pixel(settings: Settings, positions: int) -> bool:
    """Whether every pixel has a map of its own; a sample without positions is one pixel."""
    return settings.scope == "position" or (settings.scope == "sample" and positions == 1)


def sizes(N: int, C: int, L: int, settings: Settings) -> tuple[int, int]:
    """How many numbers forward saves, and backward works with; see Saved and Work in src/native."""
    if by_pixel(settings, L):
        return 6 * C + N * L, 9 * C + N * L
    return 6 * C + N + 3 * N * C, 9 * C + N + 2 * N * C


def forward(
    x: Tensor,
    parameters: Parameters,
    stored: Statistics | None,
    settings: Settings,
    running: Running | None = None,
) -> tuple[Tensor, Statistics, Tensor]:
    """The output, the statistics that normalized it, and the numbers that `backward` needs, all in one tensor.

    `stored` holds the statistics to use (evaluation); None takes those of the batch (training), and moves `running`
    towards them, if given.
    """
    calls = _calls()
    assert calls is not None
    inner = inner_dtype(x)
    x, where = arranged(x)
    N, C = x.shape[:2]
    L = x.numel() // (N * C)
    codes, numbers = _constants(settings, N, C, L, stored is None)
    weight, bias, alpha = (None if p is None else _inner(p, inner) for p in parameters)
    y = torch.empty_like(x)
    saved = torch.empty(sizes(N, C, L, settings)[0], dtype=inner)
    mean, var = (torch.empty(C, dtype=inner) if s is None else _inner(s, inner) for s in stored or (None, None))
    in_place = running is not None and _moved_natively(running, inner)
    momentum, bessel, running_mean, running_var = _fields(running if in_place else None)
    calls[0](
        Problem(
            N, C, L, DTYPES[x.dtype], where, *codes, stored is None, _STATISTICS | _REST, *numbers, momentum, bessel,
            x.data_ptr(), None, y.data_ptr(), _address(weight), _address(bias), _address(alpha),
            mean.data_ptr(), var.data_ptr(), running_mean, running_var, saved.data_ptr(), None, None, None, None,
            _native.parallel_for(), torch.get_num_threads(),
        )
    )  # fmt: skip
    statistics = Statistics(mean, var)
    if running is not None and not in_place:
        running.move(statistics)
    return y, statistics, saved


def backward(
    dy: Tensor,
    x: Tensor,
    parameters: Parameters,
    saved: Tensor,
    training: bool,
    settings: Settings,
    *,
    want_dx: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Gradients of x (None unless wanted), γ, β and α. A fused ReLU is undone from x."""
    calls = _calls()
    assert calls is not None
    inner = saved.dtype
    x, where = arranged(x)
    if layout(dy) != where:
        dy = torch.empty_like(x).copy_(dy)
    N, C = x.shape[:2]
    L = x.numel() // (N * C)
    codes, numbers = _constants(settings, N, C, L, training)
    weight = None if parameters.weight_C is None else _inner(parameters.weight_C, inner)
    dx = torch.empty_like(x) if want_dx else None
    work = torch.empty(sizes(N, C, L, settings)[1], dtype=inner)
    dweight, dbias, dalpha = (torch.empty(C, dtype=inner) for _ in range(3))
    calls[1](
        Problem(
            N, C, L, DTYPES[x.dtype], where, *codes, training, _STATISTICS | _REST, *numbers, 0.0, 0.0,
            x.data_ptr(), dy.data_ptr(), _address(dx), _address(weight), None, None, None, None, None, None,
            saved.data_ptr(), work.data_ptr(), dweight.data_ptr(), dbias.data_ptr(), dalpha.data_ptr(),
            _native.parallel_for(), torch.get_num_threads(),
        )
    )  # fmt: skip
    return dx, dweight, dbias, dalpha


def arranged(x: Tensor) -> tuple[Tensor, int]:
    """`x` in a layout that the kernels read, and which one."""
    where = layout(x)
    if where is not None:
        return x, where
    x = x.contiguous()
    return x, PIXELS if x.ndim == 2 else ROWS


def _moved_natively(running: Running, inner: torch.dtype) -> bool:
    mean_C, var_C, *_ = running
    return mean_C.dtype == var_C.dtype == inner and mean_C.is_contiguous() and var_C.is_contiguous()


def _fields(running: Running | None) -> tuple[float, float, int | None, int | None]:
    """Those of `Problem` that have the running statistics moved; autograd is told that they change."""
    if running is None:
        return 0.0, 0.0, None, None
    torch.autograd.graph.increment_version((running.mean_C, running.var_C))
    return float(running.momentum), float(running.bessel), running.mean_C.data_ptr(), running.var_C.data_ptr()
