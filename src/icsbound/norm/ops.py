"""Autograd and dispatch: which implementation runs, and how its gradients reach autograd.

* eager, first order: the closed form, by the backend for the input's device and dtype (`kernels`);
* under `torch.compile` and `torch.export`: the same, as an operator that they keep whole (`operators`), where the
  native kernels handle the device; elsewhere the composite of `reference`, which the compiler fuses;
* under `torch.func` transforms or forward-mode differentiation: the composite, which they differentiate themselves;
* under `torch.jit.trace`, and so in the older exporter of ONNX: the composite, as a trace sees no native kernel;
* a backward that is itself differentiated (double backward): recomputed through the composite, so it is right.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from icsbound import _native
from icsbound.norm import operators, reference
from icsbound.norm.kernels import aten, cpu, cpu_plan, triton
from icsbound.norm.kernels.running import Running
from icsbound.norm.settings import Settings

logger = logging.getLogger("icsbound")

_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch
_NATIVE_BUILT = bool(_native.files())  # a constant, as a compiler cannot follow the loading of a library


def unitize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    stored: aten.Statistics | None,
    settings: Settings,
    running: Running | None = None,
) -> tuple[Tensor, aten.Statistics | None]:
    """The output, and in training the batch's statistics (detached), None in evaluation and where `running` has them.

    Args:
        x: (N, C, *), not empty, floating point.
        weight, bias, alpha: (C,); None for γ = 1, β = 0.
        stored: the statistics to normalize with; None takes those of the batch.
        running: in training, running statistics to move in place.
    """
    if torch.compiler.is_compiling():
        compiled = operators.unitize if _kept_whole(x) else _by_composite
        y, statistics = compiled(x, weight, bias, alpha, stored, settings)
    elif transformed() or torch._C._is_tracing():
        y, statistics = _by_composite(x, weight, bias, alpha, stored, settings)
    elif (kernels := _fused(x)) is not None and not _watched():
        call = _Call(kernels, stored, settings, running)
        if torch.is_grad_enabled():
            fused: Tensor = _Native.apply(x, weight, bias, alpha, call)  # type: ignore[no-untyped-call]  # torch's
        else:
            fused, _ = call.forward(x, weight, bias, alpha)
        return fused, None if stored is not None else call.statistics
    else:
        _say_why(backend(x))
        y, statistics = _by_aten(x, weight, bias, alpha, stored, settings)
    if running is not None and statistics is not None:
        running.move(statistics)
    return y, statistics


class Backend(NamedTuple):
    """The implementation that runs, and why that one."""

    name: str
    why: str


def backend(x: Tensor) -> Backend:
    """Which implementation handles an input like `x` in eager mode."""
    if x.is_cuda:
        refusal = triton.refusal(x)
        return Backend("aten", refusal) if refusal else Backend("triton", "x is on CUDA, and Triton can be imported")
    refusal = cpu.refusal(x)
    if refusal is None:
        return Backend("native", f"built for this installation, instruction set {_native.simd()}")
    return Backend("aten", refusal)


@functools.cache
def _say_why(found: Backend) -> None:
    """Each reason once."""
    if found.name == "aten":
        logger.info("the layer runs through ATen, slower than by its own kernels: %s", found.why)


def _fused(x: Tensor) -> Any:
    """The backend that has fused kernels for an input like `x`; None where there is none."""
    if cpu.usable(x):
        return cpu
    return triton if triton.usable(x) else None


def _by_aten(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    stored: aten.Statistics | None,
    settings: Settings,
) -> tuple[Tensor, aten.Statistics | None]:
    y, mean, var = _Unitize.apply(x, weight, bias, alpha, stored, settings)  # type: ignore[no-untyped-call]  # torch's
    return y, None if stored is not None else aten.Statistics(mean, var)


def _by_composite(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    stored: aten.Statistics | None,
    settings: Settings,
) -> tuple[Tensor, aten.Statistics | None]:
    y = reference.unitize(x, weight, bias, alpha, stored, settings)
    return y, None if stored is not None else aten.Statistics(*reference.statistics_of(x.detach(), settings))


def transformed() -> bool:
    """Whether `torch.func` transforms or forward-mode differentiation are at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _watched() -> bool:
    """Whether a mode of the dispatcher (a tracer, fake tensors, a counter of operations) has to see each operation."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._dispatch_tls_is_dispatch_key_included(_PRE_DISPATCH)


def _kept_whole(x: Tensor) -> bool:
    """Whether a compiled or exported program holds the layer as one operator for an input like `x`."""
    return (
        _NATIVE_BUILT
        and x.is_cpu
        and x.dtype in cpu_plan.DTYPES
        and not transformed()
        and not torch.onnx.is_in_onnx_export()
    )


class _Call:
    """One run of a backend's fused kernels: all but the tensors that autograd follows."""

    __slots__ = ("kernels", "running", "settings", "statistics", "stored")

    def __init__(
        self, kernels: Any, stored: aten.Statistics | None, settings: Settings, running: Running | None
    ) -> None:
        self.kernels = kernels  # `cpu` or `triton`
        self.stored, self.settings, self.running = stored, settings, running
        self.statistics: aten.Statistics | None = None  # those that normalized x, which have no gradient

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor) -> tuple[Tensor, Tensor]:
        parameters = cpu.Parameters(weight, bias, alpha)
        found: tuple[Tensor, aten.Statistics | None, Tensor]
        found = self.kernels.forward(x, parameters, self.stored, self.settings, self.running)
        y, self.statistics, saved = found
        return y, saved


class _Native(torch.autograd.Function):
    """A backend's fused kernels as one node of the graph: x, the parameters and one tensor of N×C numbers are saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor, call: _Call) -> Tensor:
        y, saved = call.forward(x, weight, bias, alpha)
        ctx.save_for_backward(x, weight, bias, alpha, saved, *(call.stored or ()))
        ctx.kernels, ctx.settings, ctx.training = call.kernels, call.settings, call.stored is None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, alpha, saved, *stored = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: this backward will be differentiated
            return *_differentiable(ctx, dy, x, weight, bias, alpha, stored), None
        settings, want_dx = ctx.settings, ctx.needs_input_grad[0]
        parameters = cpu.Parameters(weight, bias, alpha)
        dx, *grads = ctx.kernels.backward(dy, x, parameters, saved, ctx.training, settings, want_dx=want_dx)
        return dx, *aten.in_own_dtypes(grads, parameters), None


class _Unitize(torch.autograd.Function):
    """The closed form as one node of the graph: x, C numbers and N×C numbers are saved, nothing of the output's
    size."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        alpha: Tensor,
        stored: aten.Statistics | None,
        settings: Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, statistics, saved = aten.forward(x, aten.parameters(x, weight, bias, alpha, settings), stored, settings)
        ctx.save_for_backward(x, weight, bias, alpha, *(stored or (None, None)), *saved.tensors())
        ctx.settings, ctx.training = settings, stored is None
        mean, var = statistics
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, alpha, mean, var, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: this backward will be differentiated
            return *_differentiable(ctx, dy, x, weight, bias, alpha, (mean, var)), None, None
        settings = ctx.settings
        parameters = aten.parameters(x, weight, bias, alpha, settings)
        dx, *grads = aten.backward(dy, x, parameters, aten.Saved.of(kept, settings), ctx.training, settings)
        return dx, *aten.in_own_dtypes(grads, (weight, bias, alpha)), None, None


def _differentiable(
    ctx: Any, dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor, stored: Sequence[Any]
) -> tuple[Tensor | None, ...]:
    statistics = None if ctx.training else aten.Statistics(*stored)
    return reference.gradients(dy, x, weight, bias, alpha, statistics, ctx.settings, ctx.needs_input_grad[:4])
