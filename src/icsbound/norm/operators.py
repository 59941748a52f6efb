"""The layer as two operators of `torch.library`, which the compilers and exporters of torch keep whole.

`icsbound::unitize` and `icsbound::unitize_backward` are what `torch.compile`, `torch.export` and AOTInductor see of the
layer, so that the native kernels run inside what these make. Eager mode calls the kernels without this detour (`ops`).
Both operators are functions: they change nothing in place, and the running statistics move in plain torch outside of
them. Where the native kernels cannot run, the same closed form runs through ATen.

A program that must run without this package takes them apart into plain torch operations by `decompositions`, which
the ONNX exporter of torch does by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from icsbound._check import InputError
from icsbound.norm import coefficients, interpolation, reference
from icsbound.norm.kernels import aten, cpu, cpu_plan
from icsbound.norm.settings import Settings

_SETTINGS = (
    "float eps, float norm_eps, str interpolation, str scope, str? target, float? norm, float[]? alpha_range, "
    "bool shrink_only, str variance, str? activation"
)
_LAYER = "Tensor? weight, Tensor? bias, Tensor alpha"

_library: Any = torch.library.Library("icsbound", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's
_library.define(
    f"unitize(Tensor x, {_LAYER}, Tensor? mean, Tensor? var, {_SETTINGS}) "
    "-> (Tensor y, Tensor mean, Tensor var, Tensor saved)",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    f"unitize_backward(Tensor dy, Tensor x, {_LAYER}, Tensor saved, bool training, {_SETTINGS}) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dalpha)",
    tags=torch.Tag.pt2_compliant_tag,
)
_forward_op = torch.ops.icsbound.unitize.default
_backward_op = torch.ops.icsbound.unitize_backward.default


def unitize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    stored: aten.Statistics | None,
    settings: Settings,
) -> tuple[Tensor, aten.Statistics | None]:
    """`ops.unitize` as one node of a compiled or exported program."""
    y, mean, var, _ = _forward_op(x, weight, bias, alpha, *(stored or (None, None)), *_flat(settings))
    return y, None if stored is not None else aten.Statistics(mean.detach(), var.detach())


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The layer's operator in plain torch operations, for an exported program that is to run without this package.

    ``torch.export.export(model, ...).run_decompositions(icsbound.norm.decompositions())`` holds the layer as ATen
    operations only: for other runtimes, and for AOTInductor packages that are loaded without Python.
    `torch.onnx.export(..., dynamo=True)` needs no such call.
    """
    return {_forward_op: _decomposed}


def _flat(s: Settings) -> tuple[Any, ...]:
    """Settings as the operators take them: the target as one of `target` (a name) and `norm` (a number)."""
    target, norm = (s.target, None) if isinstance(s.target, str) else (None, s.target)
    bounds = None if s.alpha_range is None else list(s.alpha_range)
    return (s.eps, s.norm_eps, s.interpolation, s.scope, target, norm, bounds, s.shrink_only, s.variance, s.activation)


def _settings(
    eps: float,
    norm_eps: float,
    interpolation: str,
    scope: str,
    target: str | None,
    norm: float | None,
    alpha_range: list[float] | None,
    shrink_only: bool,
    variance: str,
    activation: str | None,
) -> Settings:
    goal = norm if target is None else target
    assert goal is not None
    bounds = None if alpha_range is None else (alpha_range[0], alpha_range[1])
    return Settings(eps, norm_eps, interpolation, scope, goal, bounds, shrink_only, variance, activation)


# --- the operators on real tensors: the native kernels, or the closed form through ATen


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    *s: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    settings = _settings(*s)
    stored = None if mean is None or var is None else aten.Statistics(mean, var)
    if stored is None and x.numel() <= x.shape[1]:  # a program compiled or exported for many sizes did not ask
        raise InputError(f"x must hold more than one value per channel in training, got shape {tuple(x.shape)}")
    if cpu.usable(x):
        # An operator returns the same for the same arguments, whatever lay in memory.
        y, found, saved = cpu.forward(x, cpu.Parameters(weight, bias, alpha), stored, settings, zeroed=True)
        assert found is not None
        statistics = found
    else:
        y, statistics, saved = _forward_by_aten(x, weight, bias, alpha, stored, settings)
    if stored is None:
        return y, *statistics, saved
    return y, saved.new_empty(0), saved.new_empty(0), saved  # and none of its arguments


def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    saved: Tensor,
    training: bool,
    *s: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    settings = _settings(*s)
    if not cpu.usable(x):
        return _backward_by_aten(dy, x, weight, bias, alpha, saved, training, settings)
    dx, dweight, dbias, dalpha = cpu.backward(dy, x, cpu.Parameters(weight, bias, alpha), saved, training, settings)
    assert dx is not None
    return dx, dweight, dbias, dalpha


def _forward_by_aten(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    stored: aten.Statistics | None,
    settings: Settings,
) -> tuple[Tensor, aten.Statistics, Tensor]:
    """`cpu.forward` through ATen, which saves the same numbers in the same order."""
    x, _ = cpu.arranged(x)
    parameters = aten.parameters(x, weight, bias, alpha, settings)
    settings = _by_pixel(settings, x)
    y, statistics, saved = aten.forward(x, parameters, stored, settings)
    if saved.by_position is not None:
        mean_C, r_C, nu = saved.by_position
        rest = [nu]
    else:
        assert saved.by_row is not None
        rows = saved.by_row
        mean_C, r_C = rows.mean_C, rows.r_C
        rest = [rows.nu_N1, rows.d_NC, rows.q_NC, rows.a_NC]
    weight_C, bias_C, alpha_C = parameters
    kept = [saved.pivot_C, mean_C, r_C, alpha_C, weight_C * r_C, bias_C, *rest]
    return y, statistics, torch.cat([t.flatten() for t in kept])


def _backward_by_aten(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    saved: Tensor,
    training: bool,
    settings: Settings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, _ = cpu.arranged(x)
    parameters = aten.parameters(x, weight, bias, alpha, settings)
    settings = _by_pixel(settings, x)
    N, C, L = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    channels, rest = saved[: 6 * C].reshape(6, C), saved[6 * C :]
    pivot_C, mean_C, r_C, _, _, bias_C = channels
    if settings.scope == "position":
        found = aten.Saved(pivot_C, None, (mean_C, r_C, rest.reshape(N, 1, *x.shape[2:])))
    else:
        nu_N1 = rest[:N].reshape(N, 1)
        d_NC, q_NC, a_NC = rest[N:].reshape(3, N, C)
        k_NC = interpolation.scale(nu_N1, parameters.alpha_C, settings)
        var_C = settings.variance_factor(N * L) * q_NC.mean(0)
        rows = coefficients.Forward(a_NC, bias_C - a_NC * mean_C, mean_C, var_C, q_NC, d_NC, r_C, nu_N1, k_NC)
        found = aten.Saved(pivot_C, rows, None)
    return aten.backward(dy, x, parameters, found, training, settings)


def _by_pixel(settings: Settings, x: Tensor) -> Settings:
    """Without positions a sample is one pixel, and is kept as such."""
    return settings._replace(scope="position") if cpu_plan.by_pixel(settings, math.prod(x.shape[2:])) else settings


# --- the operators on tensors without values: shapes, dtypes and strides


def _forward_of_fakes(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    *s: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inner, (N, C, *axes) = aten.inner_dtype(x), x.shape
    kept, _ = cpu_plan.sizes(N, C, math.prod(axes), _settings(*s))
    own_mean, own_var = (x.new_empty(C if mean is None else 0, dtype=inner) for _ in range(2))
    return torch.empty_like(_arranged(x)), own_mean, own_var, x.new_empty(kept, dtype=inner)


def _backward_of_fakes(dy: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dweight, dbias, dalpha = (x.new_empty(x.shape[1], dtype=aten.inner_dtype(x)) for _ in range(3))
    return torch.empty_like(_arranged(x)), dweight, dbias, dalpha


def _arranged(x: Tensor) -> Tensor:
    return x if cpu.readable(x) else x.contiguous()


# --- autograd


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, alpha, mean, var, *settings = inputs
    ctx.save_for_backward(x, weight, bias, alpha, mean, var, output[3])
    ctx.flat = settings
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = (None,) * (2 + len(ctx.flat))  # for the stored statistics and the settings
    if dy is None:
        return None, None, None, None, *nothing
    x, weight, bias, alpha, mean, var, saved = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: this backward will be differentiated
        stored = None if mean is None else aten.Statistics(mean, var)
        settings, needed = _settings(*ctx.flat), ctx.needs_input_grad[:4]
        return *reference.gradients(dy, x, weight, bias, alpha, stored, settings, needed), *nothing
    dx, *grads = _backward_op(dy, x, weight, bias, alpha, saved, mean is None, *ctx.flat)
    return dx, *aten.in_own_dtypes(grads, (weight, bias, alpha)), *nothing


def _refuse_to_differentiate(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "icsbound::unitize_backward cannot be differentiated again by itself: differentiate the layer with "
        "create_graph=True, outside of torch.compile"
    )


# --- in plain torch


def _decomposed(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    *s: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    settings = _settings(*s)
    stored = None if mean is None or var is None else aten.Statistics(mean, var)
    y = reference.unitize(x, weight, bias, alpha, stored, settings)
    _, no_mean, no_var, saved = _forward_of_fakes(x, weight, bias, alpha, mean, var, *s)  # never read
    if stored is not None:
        return y, no_mean, no_var, saved
    return y, *reference.statistics_of(x, settings), saved


_library.impl("unitize", _forward, "CompositeExplicitAutograd")
_library.impl("unitize_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake(_forward_op, _forward_of_fakes, lib=_library)
torch.library.register_fake(_backward_op, _backward_of_fakes, lib=_library)
torch.library.register_autograd(_forward_op, _gradients, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(_backward_op, _refuse_to_differentiate, lib=_library)
