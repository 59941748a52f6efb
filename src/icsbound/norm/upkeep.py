"""Around training: statistics taken afresh or mixed with an image's own, and parameter groups for an optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from icsbound import _check
from icsbound._check import InputError
from icsbound.norm.modules import UnitizedBatchNorm


@torch.no_grad()
def refresh_statistics(model: nn.Module, batches: Iterable[Any], device: torch.device | str | None = None) -> None:
    """Take the running statistics of every batch norm and unitized layer afresh, as the mean over `batches`.

    As `torch.optim.swa_utils.update_bn`, which does not know unitized layers: the statistics are reset, the whole model
    runs in training mode, every batch counts equally. Unlike there, every module gets its own mode back, and the old
    statistics come back if a batch raises an error or there is none. Useful where weights were averaged, pruned or
    rounded, or where the data changed.

    Args:
        model: its running statistics are changed in place.
        batches: inputs, or tuples and lists that hold the input first.
        device: where to move inputs, if anywhere.

    Raises:
        InputError: `batches` holds nothing, or the model keeps no running statistics.
    """
    layers: list[Any] = [
        m for m in model.modules() if isinstance(m, _BatchNorm | UnitizedBatchNorm) and m.running_mean is not None
    ]
    # What never trains (frozen layers) keeps its statistics.
    modes = {m: m.training for m in model.modules()}
    model.train()
    layers = [m for m in layers if m.training]
    if not layers:
        _restore(modes)
        raise InputError(f"model must keep running statistics to refresh, got a {type(model).__name__} without any")
    before = [(m.momentum, {k: b.clone() for k, b in m._buffers.items() if b is not None}) for m in layers]
    done = False
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # every batch counts equally
        for batch in batches:
            x = batch[0] if isinstance(batch, list | tuple) else batch
            model(x if device is None else x.to(device))
            done = True
        if not done:
            _check.fail("batches", "hold at least one batch", batches)
    except BaseException:
        for layer, (_, buffers) in zip(layers, before, strict=True):
            for name, values in buffers.items():
                layer._buffers[name].copy_(values)
        raise
    finally:
        for layer, (momentum, _) in zip(layers, before, strict=True):
            layer.momentum = momentum
        _restore(modes)


def _restore(modes: dict[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode


@contextlib.contextmanager
def mixed_statistics(model: nn.Module, weight: float) -> Iterator[None]:
    """While entered, layers with running statistics normalize each sample by a mixture of these and its own.

    With μ, σ² stored, m, v the mean and (biased) variance of one channel of one sample over its positions, and w the
    `weight`, a layer normalizes by (1 - w) μ + w m and (1 - w) σ² + w v: a remedy for inputs that moved, which needs no
    other sample and changes no weight (Schneider et al. 2020, arXiv 2006.16971). It is done to the layer's input, so
    that what else the layer does, unitization too, stays as it is. ::

        with mixed_statistics(model.eval(), 0.1):
            logits = model(images)

    Args:
        model: in evaluation mode, with layers of any class that keep ``running_mean`` and ``running_var`` and take
            (N, C, ...) with positions. Its parameters and buffers stay as they are.
        weight: 0 (nothing changes) to 1 (instance normalization).

    Raises:
        InputError: `weight` is no number from 0 to 1, or the model keeps no running statistics. While entered: a layer
            is in training mode, where it normalizes by its batch, or its input has no positions, so that one sample has
            no statistics of its own.
    """
    _check.real("weight", weight, 0.0, 1.0)
    layers: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    if not layers:
        raise InputError(f"model must keep running statistics to mix, got a {type(model).__name__} without any")

    def mix(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        if layer.training:
            raise InputError(
                f"model must be in evaluation mode while statistics are mixed, got a {type(layer).__name__} in "
                "training mode, which normalizes by its batch"
            )
        if x.ndim < 3:
            raise InputError(
                f"model must normalize outputs with positions to mix statistics, got a {type(layer).__name__} with an "
                f"input of shape {tuple(x.shape)}: one sample has no statistics of its own there"
            )
        shape, positions = (1, -1, *[1] * (x.ndim - 2)), tuple(range(2, x.ndim))
        mean, variance = layer.running_mean.view(shape), layer.running_var.view(shape)
        full = x.to(mean.dtype)
        own = full.mean(positions, keepdim=True)
        m = (1 - weight) * mean + weight * own
        # In two passes, not by `var`, which takes four to eight times as long on a CPU.
        v = (1 - weight) * variance + weight * (full - own).square().mean(positions, keepdim=True)
        # Normalized by μ and σ² this becomes (x - m) / √(v + ε).
        scale = torch.sqrt((variance + layer.eps) / (v + layer.eps))
        return (torch.addcmul(mean - m * scale, full, scale).to(x.dtype),)

    handles = [layer.register_forward_pre_hook(mix) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    alpha_lr_factor: float = 1.0,
    alpha_weight_decay: float = 0.0,
    vector_weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """The trainable parameters of `model` as groups for a `torch.optim` optimizer, each once, in the model's order.

    Three groups, left out where empty: weights of two and more axes; vectors (biases, γ and β); and α. Weight decay on
    α pulls it towards 0, that is, the layer towards batch norm, and by default there is none.

    Args:
        model: any model.
        lr: learning rate of weights and vectors.
        weight_decay: of weights.
        alpha_lr_factor: the learning rate of α is `lr` times this.
        alpha_weight_decay: of α.
        vector_weight_decay: of vectors.

    Returns:
        Dictionaries with `params`, `lr`, `weight_decay`, and `name`: "weights", "vectors" or "alpha".
    """
    for name, value in (
        ("lr", lr),
        ("weight_decay", weight_decay),
        ("alpha_lr_factor", alpha_lr_factor),
        ("alpha_weight_decay", alpha_weight_decay),
        ("vector_weight_decay", vector_weight_decay),
    ):
        _check.real(name, value, low=0.0)
    alphas = {id(m.alpha) for m in model.modules() if isinstance(m, UnitizedBatchNorm)}
    groups: dict[str, dict[str, Any]] = {
        "weights": {"params": [], "lr": lr, "weight_decay": weight_decay},
        "vectors": {"params": [], "lr": lr, "weight_decay": vector_weight_decay},
        "alpha": {"params": [], "lr": lr * alpha_lr_factor, "weight_decay": alpha_weight_decay},
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "alpha" if id(parameter) in alphas else "weights" if parameter.ndim > 1 else "vectors"
            groups[kind]["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items() if group["params"]]
