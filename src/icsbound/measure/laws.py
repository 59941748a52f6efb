"""Which statistics normalize the probe: the three laws of a network that contains batch norms.

=======  =====================================================================================================
law      a layer that keeps running statistics normalizes by
=======  =====================================================================================================
eval     its running statistics
train    the statistics of the probe batch at hand: the mini-batch is part of what is random
frozen   the statistics of one batch of other inputs, the same for the whole probe: a fixed noisy draw, as the
         layer would store it (nn.BatchNorm: the unbiased variance)
=======  =====================================================================================================

Everything else (dropout, stochastic depth) is in evaluation mode under every law: a law speaks of statistics alone.
"""

from __future__ import annotations

import torch
from torch import nn

from icsbound._check import InputError
from icsbound.measure.layers import named_layers

LAWS = ("eval", "train", "frozen")


def check_law(model: nn.Module, law: str) -> None:
    """Raise InputError where `model` cannot be run under `law`."""
    for name, module in named_layers(model).items():
        if law != "train" and "BatchNorm" in type(module).__name__ and _keeps_none(module):
            raise InputError(
                f"law must be 'train' for this model, got {law!r}: layer {name!r} keeps no running statistics and "
                "normalizes every batch by its own"
            )
        if law != "eval" and _synchronized(module):
            raise InputError(
                f"law must be 'eval' while {torch.distributed.get_world_size()} ranks train together, got {law!r}: "
                f"layer {name!r} would wait for the statistics of the other ranks"
            )


def apply_law(model: nn.Module, law: str) -> None:
    """Set the mode of every submodule for `law`; `untouched` puts it back."""
    for module in model.modules():
        module.training = False
    if law == "train":
        for module in _with_statistics(model):
            module.training = True


def prepare_draw(model: nn.Module) -> None:
    """Make the next forward pass replace every running statistic by that of its batch (momentum 1, training mode)."""
    for module in _with_statistics(model):
        module.training = True
        module.momentum = 1.0  # type: ignore[assignment]


def _with_statistics(model: nn.Module) -> list[nn.Module]:
    return [
        module for module in model.modules() if module._buffers.get("running_mean") is not None or _keeps_none(module)
    ]


def _keeps_none(module: nn.Module) -> bool:
    return "BatchNorm" in type(module).__name__ and module._buffers.get("running_mean", module) is None


def _synchronized(module: nn.Module) -> bool:
    if "BatchNorm" not in type(module).__name__ or not hasattr(module, "process_group"):
        return False
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    alone = "Sync" not in type(module).__name__ and module.process_group is None
    return ready and not alone and torch.distributed.get_world_size() > 1
