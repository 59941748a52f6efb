"""The layer as a function, with running statistics handled as `torch.nn.functional.batch_norm` handles them."""

from __future__ import annotations

import torch
from torch import Tensor

from icsbound._check import InputError
from icsbound.norm import ops, settings
from icsbound.norm.kernels.aten import Statistics


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
) -> Tensor:
    """Batch normalization followed by unitization of each sample; the equation stands in `UnitizedBatchNorm2d`.

    Args:
        x: (N, C, *) floating point.
        running_mean, running_var: (C,), updated in place in training: ``new = (1 - momentum) old + momentum batch``,
            the variance with count / (count - 1) as `torch.nn.functional.batch_norm` does. None: not kept; then the
            batch's statistics are used in evaluation too.
        weight, bias: γ and β, (C,); None for 1 and 0.
        alpha: α, (C,).
        training: normalize by the statistics of the batch; else by the running ones.
        momentum: weight of the new batch in the running statistics.
        eps, interpolation, scope, target, alpha_range, norm_eps, shrink_only, variance, activation: as in
            `UnitizedBatchNorm2d`.

    Raises:
        InputError: a tensor of another shape, device or kind, one value per channel in training, a setting out of
        range.
    """
    chosen = settings.checked(
        eps, norm_eps, interpolation, scope, target, alpha_range, shrink_only, variance, activation
    )
    return apply(x, running_mean, running_var, weight, bias, alpha, training, momentum, chosen)


def apply(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    alpha: Tensor,
    training: bool,
    momentum: float,
    chosen: settings.Settings,
) -> Tensor:
    """`unitized_batch_norm` with its settings already checked."""
    _check_input(x, alpha, (weight, bias, running_mean, running_var))
    if x.numel() == 0:
        return _empty(x, weight, bias, alpha)
    count = x.numel() // x.shape[1]
    batch = training or running_mean is None or running_var is None
    if batch and count == 1:
        raise InputError(
            f"x must hold more than one value per channel in training, got shape {tuple(x.shape)}: "
            "a single value has no variance; use a larger batch, or drop the incomplete last one"
        )
    stored = None if batch else Statistics(running_mean, running_var)  # type: ignore[arg-type]
    y, statistics = ops.unitize(x, weight, bias, alpha, stored, chosen)
    if training and statistics is not None and running_mean is not None and running_var is not None:
        with torch.no_grad():
            bessel = count / (count - 1) if chosen.variance == "biased" else 1.0
            running_mean.lerp_(statistics.mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_((statistics.var_C * bessel).to(running_var.dtype), momentum)
    return y


def _check_input(x: Tensor, alpha: Tensor, others: tuple[Tensor | None, ...]) -> None:
    if not x.is_floating_point():
        raise InputError(f"x must be a floating-point tensor, got dtype {str(x.dtype).removeprefix('torch.')}")
    C = alpha.shape[0]
    if x.ndim < 2 or x.shape[1] != C:
        raise InputError(f"x must have shape (N, {C}, ...) for {C} channels, got {tuple(x.shape)}")
    for tensor in (alpha, *others):
        if tensor is None:
            continue
        if tensor.shape != alpha.shape:
            raise InputError(
                f"weight, bias, alpha and running statistics must have shape ({C},), got {tuple(tensor.shape)}"
            )
        if tensor.device != x.device:
            raise InputError(
                f"x and the layer must be on one device, got x on {x.device} and the layer on {tensor.device}; "
                f"move one with .to()"
            )


def _empty(x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor) -> Tensor:
    """An empty output that still reaches every parameter, whose gradients are then zeros as `nn.BatchNorm` gives."""
    reached = sum((p.sum() * 0 for p in (weight, bias, alpha) if p is not None), start=x.new_zeros(()))
    return x.clone() + reached.to(x.dtype)
