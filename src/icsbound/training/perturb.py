"""Finished networks with other weights under the same stored statistics: pruned, rounded, averaged with another run or
over their own training, or unitized further than they were trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from icsbound._check import InputError, fail, positive_int, real
from icsbound.norm import convert
from icsbound.norm.modules import UnitizedBatchNorm
from icsbound.training import weights

KINDS = "none, prune:FRACTION, quantize:BITS, average:RUN, average:snapshots, average:snapshots:LAST or alpha:VALUE"


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
    if positive_int("bits", bits, 2) > 24:
        fail("bits", "be at most 24, as many as a float32 has of its own", bits)
    with torch.no_grad():
        for layer in layers(model):
            step = layer.weight.abs().max() / (2 ** (bits - 1) - 1)
            if step > 0:
                layer.weight.div_(step).round_().mul_(step)


def averaged(model: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> None:
    """Replace every floating-point parameter and buffer of `model` by the mean of those in `states`."""
    state = model.state_dict()
    for other in states:
        if state.keys() != other.keys() or any(state[name].shape != other[name].shape for name in state):
            raise InputError(
                "average must name a run of the same network and arm; its tensors have other names or shapes"
            )
    with torch.no_grad():
        for name, value in state.items():
            if value.is_floating_point():
                value.copy_(sum(other[name].double() for other in states) / len(states))


def kept(run: Path, last: int | None = None) -> list[dict[str, Tensor]]:
    """The `last` states, or all, that the training in folder `run` kept with ``--snapshots``."""
    if last is not None:
        positive_int("snapshots", last, 1)
    files = sorted((run / "snapshots").glob("step-*.safetensors"))[-(last or 0) :]
    if len(files) < (last or 1):
        raise InputError(
            f"{run} must hold {last or 'some'} states of its training to average, got {len(files)}; icsbound train "
            "--snapshots 1 keeps one an epoch"
        )
    return [weights.read(file) for file in files]


def unitized(model: nn.Module, alpha: float) -> None:
    """Make each batch norm of `model` a unitized layer with default settings, and set every α to `alpha`."""
    real("alpha", alpha, 0.0, 1.0)
    found = [module for module in convert(model).modules() if isinstance(module, UnitizedBatchNorm)]
    if not found:
        raise InputError("alpha must find batch norms or unitized layers; this network has neither")
    with torch.no_grad():
        for layer in found:
            layer.alpha.fill_(alpha)


def perturb(model: nn.Module, text: str, run: Path | None = None) -> None:
    """Do to `model`, which the run in folder `run` left, what `text` says: ``none``; ``prune:FRACTION``;
    ``quantize:BITS``; ``average:RUN`` with the run in another folder; ``average:snapshots``, the mean of the states
    that `run` kept of its training, or of the last few with ``:LAST``; ``alpha:VALUE``.
    """
    kind, _, value = text.partition(":")
    try:
        if kind == "prune":
            pruned(model, float(value))
        elif kind == "quantize":
            quantized(model, int(value))
        elif kind == "alpha":
            unitized(model, float(value))
        elif kind == "average" and run is not None and value.partition(":")[0] == "snapshots":
            averaged(model, kept(run, int(value.partition(":")[2]) if ":" in value else None))
        elif kind == "average" and value:
            from icsbound.training import evaluate

            averaged(model, [model.state_dict(), evaluate.weights(Path(value))])
        elif text != "none":
            fail("perturb", f"be {KINDS}", text)
    except InputError:
        raise
    except ValueError:
        fail("perturb", f"be {KINDS}", text)
