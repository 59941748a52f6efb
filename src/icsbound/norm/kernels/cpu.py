"""The layer on CPU by the native library: one call forward, one backward, the coefficient step included.

`forward` and `backward` are those of `aten`, to rounding. Both memory layouts are handled as they are; any other
strides are made contiguous first, as `nn.BatchNorm` does. The sources are src/native/norm*.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icsbound import _native
from icsbound.norm.coefficients import WHOLE, Moments, Sums, Whole
from icsbound.norm.interpolation import inward
from icsbound.norm.kernels import cpu_plan
from icsbound.norm.kernels.aten import Statistics, inner_dtype
from icsbound.norm.kernels.cpu_plan import DTYPES, GIVEN, PIXELS, PLANNED, REST, ROWS, STATISTICS, Plan
from icsbound.norm.kernels.running import Running
from icsbound.norm.settings import Settings

_PLAIN = (Tensor, torch.nn.Parameter)


class Parameters(NamedTuple):
    """γ, β (None for 1 and 0) and α, each (C,), as the layer holds them: α is brought into its range natively."""

    weight_C: Tensor | None
    bias_C: Tensor | None
    alpha_C: Tensor


@functools.cache
def _calls() -> tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer] | None:
    native = _native.library()
    if native is None or not hasattr(native, "icsbound_norm_forward"):
        return None
    native.icsbound_norm_problem_size.restype = ctypes.c_int64
    if native.icsbound_norm_problem_size() != PLANNED.size + GIVEN.size:
        raise ImportError("the native library of icsbound was built from other sources than this Python code; rebuild")
    calls = native.icsbound_norm_forward, native.icsbound_norm_backward
    for call in calls:
        call.argtypes, call.restype, call.errcheck = (ctypes.c_char_p,), ctypes.c_int32, _checked
    return calls


def _checked(status: Any, _call: Any, _arguments: Any) -> Any:
    if status:
        raise MemoryError("the layer's kernel found too little memory to work in")
    return status


def refusal(x: Tensor) -> str | None:
    """Why `x` cannot be handled here; None if it can."""
    if not x.is_cpu:
        return f"the native kernels are for the CPU and x is on {x.device}"
    if x.dtype not in DTYPES:
        return f"the native kernels have no {str(x.dtype).removeprefix('torch.')}"
    if type(x) not in _PLAIN:
        return f"x is a {type(x).__name__}, whose operations only torch's own dispatch knows"
    if x.layout is not torch.strided:
        return f"the native kernels read strided tensors, and the layout of x is {x.layout}"
    if _calls() is None:
        return "no native library was loaded"
    return None


def usable(x: Tensor) -> bool:
    """Whether `forward` and `backward` take this input."""
    return refusal(x) is None and x.numel() > 0


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


def _inner(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype is dtype and values.is_contiguous() else values.to(dtype).contiguous()


def _address(values: Tensor | None) -> int:
    return 0 if values is None else values.data_ptr()


def forward(
    x: Tensor,
    parameters: Parameters,
    stored: Statistics | None,
    settings: Settings,
    running: Running | None = None,
    whole: Whole = WHOLE,
    *,
    zeroed: bool = False,
) -> tuple[Tensor, Statistics | None, Tensor]:
    """The output, the statistics that normalized it, and the numbers that `backward` needs, all in one tensor.

    `stored` holds the statistics to use (evaluation); None takes those of the batch (training), and moves `running`
    towards them, if given: then they may be left out (None). `whole` is the batch that x is a part of: the call is then
    cut in two, with an exchange in between. Not every call writes all the numbers for `backward`: those left out are 0
    if `zeroed`, else as they lay in memory.
    """
    calls = _calls()
    assert calls is not None
    inner = inner_dtype(x)
    x, where = arranged(x)
    N, C = x.shape[:2]
    L = x.numel() // (N * C)
    training = stored is None
    plan = cpu_plan.plan(settings, N, C, L, x.dtype, where, training)
    weight, bias, alpha = parameters
    weight = None if weight is None else _inner(weight, inner)
    bias = None if bias is None else _inner(bias, inner)
    alpha = _inner(alpha, inner)
    y = torch.empty_like(x)
    saved = alpha.new_zeros(plan.saved) if zeroed else alpha.new_empty(plan.saved)
    in_place = running is not None and _moved_natively(running, inner)
    mean, var = None, None
    if stored is not None:
        mean, var = _inner(stored.mean_C, inner), _inner(stored.var_C, inner)
    elif not in_place or settings.scope == "batch":  # else each allocation costs more than it is worth
        mean, var = torch.empty_like(alpha), torch.empty_like(alpha)
    momentum, bessel, running_mean, running_var = _fields(running if in_place else None)
    given = GIVEN.pack(
        momentum, bessel, x.data_ptr(), 0, y.data_ptr(), _address(weight), _address(bias), alpha.data_ptr(),
        _address(mean), _address(var), running_mean, running_var, saved.data_ptr(), 0, 0, 0, 0,
        _native.parallel_for(), torch.get_num_threads(),
    )  # fmt: skip
    if whole is WHOLE or not training:
        calls[0](plan.fields + given)
    else:
        in_phase = functools.partial(cpu_plan.plan, settings, N, C, L, x.dtype, where, True)
        calls[0](in_phase(STATISTICS).fields + given)
        values = _merge(saved, N, C, L, whole)
        calls[0](in_phase(REST, values).fields + given)
    statistics = None if mean is None or var is None else Statistics(mean, var)
    if running is not None and not in_place:
        assert statistics is not None
        running.move(statistics)
    return y, statistics, saved


def backward(
    dy: Tensor,
    x: Tensor,
    parameters: Parameters,
    saved: Tensor,
    training: bool,
    settings: Settings,
    whole: Whole = WHOLE,
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
    plan = cpu_plan.plan(settings, N, C, L, x.dtype, where, training)
    weight = None if parameters.weight_C is None else _inner(parameters.weight_C, inner)
    dx = torch.empty_like(x) if want_dx else None
    work = None if whole is WHOLE or not training else saved.new_empty(plan.work)
    dweight, dbias, dalpha = saved.new_empty(C), saved.new_empty(C), saved.new_empty(C)
    given = GIVEN.pack(
        0.0, 0.0, x.data_ptr(), dy.data_ptr(), _address(dx), _address(weight), 0, 0, 0, 0, 0, 0, saved.data_ptr(),
        _address(work), dweight.data_ptr(), dbias.data_ptr(), dalpha.data_ptr(), _native.parallel_for(),
        torch.get_num_threads(),
    )  # fmt: skip
    if work is None:
        calls[1](plan.fields + given)
        return dx, dweight, dbias, dalpha
    in_phase = functools.partial(cpu_plan.plan, settings, N, C, L, x.dtype, where, True)
    calls[1](in_phase(STATISTICS, projected=False).fields + given)
    total_alpha_C, values = _reduce(work, saved, dalpha, plan, N, C, L, settings, whole)
    if want_dx:
        calls[1](in_phase(REST, values).fields + given)
    alpha_C = saved[3 * C : 4 * C]
    return dx, dweight, dbias, inward(dalpha, alpha_C, settings.alpha_range, total_alpha_C)


def _merge(saved: Tensor, N: int, C: int, L: int, whole: Whole) -> float:
    """Put the moments of the whole batch in the place of this part's; the number of values that they are taken over."""
    pivot_C, mean_C, var_C = saved[: 3 * C].view(3, C)
    batch = whole.merge(Moments(mean_C, var_C, N * L, N), pivot_C)
    mean_C.copy_(batch.mean_C)
    var_C.copy_(batch.var_C)
    return float(batch.values)


def _reduce(
    work: Tensor, saved: Tensor, dalpha: Tensor, plan: Plan, N: int, C: int, L: int, settings: Settings, whole: Whole
) -> tuple[Tensor, float]:
    """Put the sums over the whole batch in the place of this part's; the whole gradient of α and number of values."""
    ks1_C, _, _, as0_C, eq_C, ed_C = work[: 6 * C].view(6, C)
    e = work[9 * C :][: N * L if cpu_plan.by_pixel(settings, L) else N]
    w = plan.per_kappa  # differs between parts where their sizes of images do
    total = whole.reduce(Sums(ks1_C, w * eq_C, as0_C, w * ed_C, dalpha, e.sum().reshape(1)))
    values, samples = whole.size(N, L)
    if settings.scope == "batch":  # every sample has the mean of all e, and Σ q = samples · var / B, Σ d = 0
        r_C = saved[2 * C : 3 * C]
        e.copy_((total.e_1 / samples).expand_as(e))
        eq_C.copy_(total.e_1 * (1 / (r_C * r_C) - settings.eps) / settings.variance_factor(values))
        ed_C.zero_()
    else:
        eq_C.copy_(total.eq_C / w)
        ed_C.copy_(total.ed_C / w)
    ks1_C.copy_(total.ks1_C)
    as0_C.copy_(total.as0_C)
    return total.alpha_C, float(values)


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


def _fields(running: Running | None) -> tuple[float, float, int, int]:
    """Those of `Problem` that have the running statistics moved; autograd is told that they change."""
    if running is None:
        return 0.0, 0.0, 0, 0
    torch.autograd.graph.increment_version((running.mean_C, running.var_C))
    return float(running.momentum), float(running.bessel), running.mean_C.data_ptr(), running.var_C.data_ptr()
