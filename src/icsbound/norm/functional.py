"""The layer as a function, with running statistics handled as `torch.nn.functional.batch_norm` handles them."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from icsbound import _check
from icsbound._check import InputError
from icsbound.norm import ops, settings, synchronized
from icsbound.norm.kernels.aten import Statistics
from icsbound.norm.kernels.running import Running

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def unitized_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    interpolation: str = "harmonic",
    scope: str = "sample",
    target: str | float = "rms",
    alpha_range: tuple[float, float] | None = (0.0, 1.0),
    norm_eps: float | None = None,
    shrink_only: bool = False,
    variance: str = "biased",
    activation: str | None = None,
    process_group: Any = None,
) -> Tensor:
    """Batch normalization followed by unitization of each sample; the equation stands in `UnitizedBatchNorm2d`.

    Nothing is counted here: where batches are averaged cumulatively (`momentum=None` of the layer) or zero-debiased,
    the caller gives each call the momentum that this batch is to have.

    Args:
        x: (N, C, *), float64, float32, bfloat16 or float16.
        running_mean, running_var: (C,), updated in place in training: ``new = (1 - momentum) old + momentum batch``,
            the variance with count / (count - 1) as `torch.nn.functional.batch_norm` does, but not by a forward pass
            that activation checkpointing repeats. None: not kept; then the batch's statistics are used in evaluation
            too.
        weight, bias: γ and β, (C,); None for 1 and 0.
        alpha: α, (C,). What lies outside of `alpha_range` is taken for its nearer end.
        training: normalize by the statistics of the batch; else by the running ones.
        momentum: weight of the new batch in the running statistics, a number: None is for the layer, which counts.
        eps, interpolation, scope, target, alpha_range, norm_eps, shrink_only, variance, activation, process_group: as
            in `UnitizedBatchNorm2d`.

    Returns:
        y, (N, C, *), in the dtype and memory format of x.

    Raises:
        InputError: a tensor of another shape, device or kind, one value per channel where the batch's statistics are
            used, a setting out of range.
    """
    if isinstance(x, torch.fx.Proxy):  # one call in the graph that torch.fx traces
        return x.tracer.create_proxy("call_function", unitized_batch_norm, (), locals())
    check_tensor(x)
    chosen = settings.checked(
        eps, norm_eps, interpolation, scope, target, alpha_range, shrink_only, variance, activation
    )
    if training and running_mean is not None:
        _check.real("momentum", momentum, 0.0, 1.0)
    group = exchanging(synchronized.checked_group(process_group), training)
    check_input(x, running_mean, running_var, weight, bias, alpha, training, group)
    if training and recomputing():
        running_mean = running_var = None
    return apply(x, running_mean, running_var, weight, bias, alpha, training, momentum, chosen, group)


def apply(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    training: bool,
    momentum: settings.Count,
    chosen: settings.Settings,
    group: Any = None,
) -> Tensor:
    """`unitized_batch_norm` with its settings and its input (`check_input`) already checked.

    `group` is that of `exchanging`. In training the running statistics move, if given, also where the pass repeats
    another (`recomputing`).
    """
    kept = None if running_mean is None or running_var is None else Statistics(running_mean, running_var)
    if group is not None:
        return _synchronized(x, kept, weight, bias, alpha, momentum, chosen, group)
    if x.numel() == 0:
        return _empty(x, weight, bias, alpha)
    if not training:
        return ops.unitize(x, weight, bias, alpha, kept, chosen)[0]
    moved = None if kept is None else _running(kept, momentum, x.numel() // x.shape[1], chosen)
    return ops.unitize(x, weight, bias, alpha, None, chosen, moved)[0]


def exchanging(process_group: Any, training: bool) -> Any:
    """The group whose batches share their statistics in this pass; None where it is this process alone."""
    return synchronized.resolved(process_group) if training and process_group is not None else None


def _running(kept: Statistics, momentum: settings.Count, count: settings.Count, chosen: settings.Settings) -> Running:
    bessel = count / (count - 1) if chosen.variance == "biased" else 1.0
    return Running(kept.mean_C, kept.var_C, momentum, bessel)


def _synchronized(
    x: Tensor,
    kept: Statistics | None,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    momentum: settings.Count,
    chosen: settings.Settings,
    group: Any,
) -> Tensor:
    part = x if x.numel() else x.new_zeros(0, x.shape[1])
    y, statistics, count = synchronized.unitize(part, weight, bias, alpha, group, chosen)
    if kept is not None:
        _running(kept, momentum, count, chosen).move(statistics)
    # With nothing to return, the other processes still wait for this one's backward.
    return y if x.numel() else _empty(x, weight, bias, alpha) + y.sum()


def recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass, where activation checkpointing repeats it.

    The batch has been counted then: `nn.BatchNorm` moves its running statistics a second time, this layer does not.
    What else runs forward inside a backward pass cannot be told from that: a layer that a hook on a gradient calls for
    the first time, or the solver of an implicit layer, moves no statistics in training either.
    """
    return not torch.compiler.is_compiling() and bool(torch._C._current_graph_task_id() != -1)


def check_tensor(x: Any) -> None:
    """Raise InputError if `x` is no tensor. What traces has words of its own for what it cannot follow."""
    if not isinstance(x, (Tensor, torch.fx.Proxy)):
        kind = type(x)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        raise InputError(f"x must be a torch tensor, got a {name}; torch.as_tensor(x) makes one of numbers")


def check_input(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    training: bool,
    group: Any = None,
) -> None:
    """Raise InputError, naming the argument, if these tensors cannot be normalized together.

    With a `group` to exchange with, how many values there are is known only afterwards.
    """
    if x.dtype not in DTYPES:
        _check.fail("x", "be float64, float32, bfloat16 or float16", x)
    if alpha.ndim != 1:
        raise InputError(f"alpha must have shape (C,), one value per channel, got {tuple(alpha.shape)}")
    C = alpha.shape[0]
    if x.ndim < 2 or x.shape[1] != C:
        raise InputError(f"x must have shape (N, {C}, ...) for {C} channels, got {tuple(x.shape)}")
    if (running_mean is None) != (running_var is None):
        raise InputError("running_mean and running_var must be given together, got only one of them")
    device, per_channel = x.device, alpha.shape
    for tensor in (alpha, weight, bias, running_mean, running_var):
        if tensor is not None and (tensor.shape != per_channel or tensor.device != device):
            _name_misfit(x, alpha=alpha, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if group is None and (training or running_mean is None) and x.numel() == C:
        raise InputError(
            f"x must hold more than one value per channel in training, got shape {tuple(x.shape)}: "
            "a single value has no variance; use a larger batch, or drop the incomplete last one"
        )


def _name_misfit(x: Tensor, **tensors: Tensor | None) -> NoReturn:
    C = x.shape[1]
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != (C,):
            raise InputError(f"{name} must have shape ({C},) for {C} channels, got {tuple(tensor.shape)}")
        if tensor is not None and tensor.device != x.device:
            raise InputError(
                f"x and {name} must be on one device, got x of shape {tuple(x.shape)} on {x.device} and {name} on "
                f"{tensor.device}; move one with .to()"
            )
    raise AssertionError("called with tensors that fit")


def _empty(x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor) -> Tensor:
    """An empty output that still reaches every parameter, whose gradients are then zeros as `nn.BatchNorm` gives."""
    reached = sum((p.sum() * 0 for p in (weight, bias, alpha) if p is not None), start=x.new_zeros(()))
    return x.clone() + reached.to(x.dtype)
