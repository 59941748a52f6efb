"""Finished networks with other weights under the same stored statistics: pruned, rounded, or averaged with another
run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from icsbound._check import InputError, fail, positive_int, real


def layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The layers whose weights are changed: convolutions and linear ones."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def pruned(model: nn.Module, fraction: float) -> None:
    """Set the `fraction` of all weights with the smallest magnitudes to 0, over all `layers` together."""
    real("fraction", fraction, 0.0, 1.0)
    chosen = [(layer, "weight") for layer in layers(model)]
    prune.global_unstructured(chosen, prune.L1Unstructured, amount=float(fraction))
    for layer, name in chosen:
        prune.remove(layer, name)  # type: ignore[no-untyped-call]


def quantized(model: nn.Module, bits: int) -> None:
    """Round each weight to the nearest of 2^bits - 1 levels, evenly spaced and symmetric about 0 up to the layer's
    largest magnitude.
    """
    positive_int("bits", bits, 2)
    with torch.no_grad():
        for layer in layers(model):
            step = layer.weight.abs().max() / (2 ** (bits - 1) - 1)
            if step > 0:
                layer.weight.div_(step).round_().mul_(step)


def averaged(model: nn.Module, other: Mapping[str, Tensor]) -> None:
    """Replace every floating-point parameter and buffer of `model` by the mean of it and that in the state `other`."""
    state = model.state_dict()
    if state.keys() != other.keys() or any(state[name].shape != other[name].shape for name in state):
        raise InputError("average must name a run of the same network and arm; its tensors have other names or shapes")
    with torch.no_grad():
        for name, value in state.items():
            if value.is_floating_point():
                value.add_(other[name].to(value)).div_(2)


def perturb(model: nn.Module, text: str) -> None:
    """Do to `model` what `text` says: ``none``, ``prune:FRACTION``, ``quantize:BITS`` or ``average:RUN`` (a run's
    folder).
    """
    kind, _, value = text.partition(":")
    try:
        if kind == "prune":
            pruned(model, float(value))
        elif kind == "quantize":
            quantized(model, int(value))
        elif kind == "average" and value:
            from icsbound.training.evaluate import weights

            averaged(model, weights(Path(value)))
        elif text != "none":
            fail("perturb", "be none, prune:FRACTION, quantize:BITS or average:RUN", text)
    except InputError:
        raise
    except ValueError:
        fail("perturb", "be none, prune:FRACTION, quantize:BITS or average:RUN", text)
