"""Autograd and dispatch: which implementation runs, and how its gradients reach autograd.

* eager, first order: the closed form, by the backend for the input's device and dtype (`kernels`);
* under `torch.compile`, `torch.func` transforms or forward-mode differentiation: the composite of `reference`, which
  they differentiate themselves;
* a backward that is itself differentiated (double backward): recomputed through the composite, so it is right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from icsbound import _native
from icsbound.norm import coefficients, interpolation, reference
from icsbound.norm.kernels import aten, cpu
from icsbound.norm.kernels.running import Running
from icsbound.norm.settings import Settings


def unitize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    stored: aten.Statistics | None,
    settings: Settings,
    running: Running | None = None,
) -> tuple[Tensor, aten.Statistics | None]:
    """The output, and in training the batch's statistics (detached), None in evaluation.

    Args:
        x: (N, C, *), not empty, floating point.
        weight, bias, alpha: (C,); None for γ = 1, β = 0.
        stored: the statistics to normalize with; None takes those of the batch.
        running: in training, running statistics to move in place.
    """
    if not composite_needed() and cpu.usable(x) and not torch._C._len_torch_dispatch_stack():
        return _by_native_kernels(x, weight, bias, alpha, stored, settings, running)
    y, statistics = _by_torch(x, weight, bias, alpha, stored, settings)
    if running is not None and statistics is not None:
        running.move(statistics)
    return y, statistics


class Backend(NamedTuple):
    """The implementation that runs, and why that one."""

    name: str
    why: str


def backend(x: Tensor) -> Backend:
    """Which implementation handles an input like `x` in eager mode."""
    refusal = cpu.refusal(x)
    if refusal is None:
        return Backend("native", f"built for this installation, instruction set {_native.simd()}")
    return Backend("aten", refusal)


def _by_native_kernels(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    stored: aten.Statistics | None,
    settings: Settings,
    running: Running | None,
) -> tuple[Tensor, aten.Statistics | None]:
    if torch.is_grad_enabled():
        found: list[aten.Statistics] = []
        y: Tensor = _Native.apply(x, weight, bias, alpha, stored, settings, running, found)  # type: ignore[no-untyped-call]  # torch's
        return y, None if stored is not None else found[0]
    y, statistics, _ = cpu.forward(x, cpu.Parameters(weight, bias, alpha), stored, settings, running)
    return y, None if stored is not None else statistics


def _by_torch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    stored: aten.Statistics | None,
    settings: Settings,
) -> tuple[Tensor, aten.Statistics | None]:
    if composite_needed():
        y = reference.unitize(x, weight, bias, alpha, stored, settings)
        return y, None if stored is not None else _batch_statistics(x.detach(), settings)
    y, mean, var = _Unitize.apply(x, weight, bias, alpha, stored, settings)  # type: ignore[no-untyped-call]  # torch's
    return y, None if stored is not None else aten.Statistics(mean, var)


def composite_needed() -> bool:
    """Whether a tracer or transform is at work that has to see plain torch operations."""
    return (
        torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def _batch_statistics(x: Tensor, settings: Settings) -> aten.Statistics:
    x_NCL = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
    return aten.Statistics(*reference.batch_statistics(x_NCL.to(aten.inner_dtype(x)), settings))


def parameters_of(x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor, s: Settings) -> aten.Parameters:
    """γ, β and α as the kernels take them."""
    inner = aten.inner_dtype(x)
    alpha_C = interpolation.clamped(alpha.to(inner), s.alpha_range)
    weight_C = torch.ones_like(alpha_C) if weight is None else weight.to(inner)
    bias_C = torch.zeros_like(alpha_C) if bias is None else bias.to(inner)
    return aten.Parameters(weight_C, bias_C, alpha_C)


class _Native(torch.autograd.Function):
    """The native kernels as one node of the graph: x, the parameters and one tensor of N×C numbers are saved."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        alpha: Tensor,
        stored: aten.Statistics | None,
        settings: Settings,
        running: Running | None,
        found: list[aten.Statistics],  # receives the batch's statistics, which have no gradient
    ) -> Tensor:
        y, statistics, saved = cpu.forward(x, cpu.Parameters(weight, bias, alpha), stored, settings, running)
        found.append(statistics)
        ctx.save_for_backward(x, weight, bias, alpha, *(stored or (None, None)), saved)
        ctx.settings, ctx.training = settings, stored is None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, alpha, mean, var, saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: this backward will be differentiated
            return *_differentiable_backward(ctx, dy, x, weight, bias, alpha, mean, var), None, None
        dx, dweight, dbias, dalpha = cpu.backward(
            dy,
            x,
            cpu.Parameters(weight, bias, alpha),
            saved,
            ctx.training,
            ctx.settings,
            want_dx=ctx.needs_input_grad[0],
        )
        return (
            dx,
            _like(dweight, weight),
            _like(dbias, bias),
            _like(dalpha, alpha),
            None,
            None,
            None,
            None,
        )


def _like(grad: Tensor, parameter: Tensor | None) -> Tensor | None:
    """The gradient in its parameter's dtype, or None where there is no parameter."""
    if parameter is None:
        return None
    return grad if grad.dtype is parameter.dtype else grad.to(parameter.dtype)


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
        y, statistics, saved = aten.forward(x, parameters_of(x, weight, bias, alpha, settings), stored, settings)
        by_row, by_position = saved.by_row or (), saved.by_position or ()
        stored_ = stored or (None, None)
        ctx.save_for_backward(x, weight, bias, alpha, *stored_, saved.pivot_C, *by_row, *by_position)
        ctx.settings, ctx.training, ctx.rows = settings, stored is None, bool(by_row)
        mean, var = statistics
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, alpha, mean, var, pivot_C, *rest = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: this backward will be differentiated
            return _differentiable_backward(ctx, dy, x, weight, bias, alpha, mean, var)
        saved = aten.Saved(
            pivot_C,
            coefficients.Forward(*rest) if ctx.rows else None,
            None if ctx.rows else tuple(rest),
        )
        parameters = parameters_of(x, weight, bias, alpha, ctx.settings)
        dx, dweight, dbias, dalpha = aten.backward(dy, x, parameters, saved, ctx.training, ctx.settings)
        return (
            dx,
            _like(dweight, weight),
            _like(dbias, bias),
            _like(dalpha, alpha),
            None,
            None,
        )


def _differentiable_backward(
    ctx: Any, dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor, mean: Any, var: Any
) -> tuple[Tensor | None, ...]:
    """The gradients by autograd through the composite, itself differentiable."""
    stored = None if ctx.training else aten.Statistics(mean, var)

    def own(t: Tensor | None, needed: bool) -> Tensor | None:
        # A view of its own, so that the gradient is taken at this node and not further up the graph.
        return t.view_as(t) if t is not None and needed else t

    needed = ctx.needs_input_grad[:4]
    x_, weight_, bias_, alpha_ = map(own, (x, weight, bias, alpha), needed)
    assert x_ is not None
    assert alpha_ is not None
    y = reference.unitize(x_, weight_, bias_, alpha_, stored, ctx.settings)
    wanted = [n and t is not None for t, n in zip((x_, weight_, bias_, alpha_), needed, strict=True)]
    leaves = [t for t, w in zip((x_, weight_, bias_, alpha_), wanted, strict=True) if w and t is not None]
    grads = iter(torch.autograd.grad(y, leaves, dy, create_graph=True, materialize_grads=True))
    return (*(next(grads) if w else None for w in wanted), None, None)
