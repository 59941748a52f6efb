"""What is done, after training, against statistics that no longer fit: known remedies, as controls.

They act on any layer that keeps ``running_mean`` and ``running_var``, whatever its class, and on nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from icsbound._check import InputError, positive_int
from icsbound.training import seeds
from icsbound.training.batches import Augment, Batches
from icsbound.training.data import Dataset, Normalize

AS_THEY_ARE = Augment()


def layers(model: nn.Module) -> list[Any]:
    """The layers of `model` that normalize by stored statistics. Raises InputError where there are none."""
    found = [module for module in model.modules() if isinstance(getattr(module, "running_mean", None), Tensor)]
    if not found:
        raise InputError("the remedy must find layers with stored statistics; this network has none")
    return found


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """While entered, `layers` normalize by the statistics of their batch; stored statistics and all modes are as
    before afterwards.
    """
    chosen = layers(model)
    modes = [layer.training for layer in chosen]
    kept = [{name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)} for layer in chosen]
    try:
        for layer in chosen:
            layer.train()
        yield
    finally:
        for layer, mode, buffers in zip(chosen, modes, kept, strict=True):
            layer.train(mode)
            for name, value in buffers.items():
                layer.get_buffer(name).copy_(value)


def recalibrate(
    model: nn.Module,
    dataset: Dataset,
    normalize: Normalize,
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 128,
    augment: Augment = AS_THEY_ARE,
) -> None:
    """Estimate the stored statistics of `layers` anew, as means over batches of `count` images drawn from `dataset`,
    each changed at random as `augment` says.

    Dropout stays off. Each layer sees what the layers before it make of the same batch with that batch's statistics.
    """
    positive_int("recalibrate", count, 2)
    if count > len(dataset):
        raise InputError(f"recalibrate must be at most the {len(dataset)} training images, got {count}")
    chosen = layers(model)
    first = next(model.parameters())
    momenta = [layer.momentum for layer in chosen]
    was_training = model.training
    model.eval()
    order = seeds.permutation(len(dataset), seed, "recalibrate")[:count]
    for layer in chosen:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
        layer.train()
    with torch.no_grad():
        # Batches of nearly equal size, so that each counts alike in the mean.
        even = -(-count // -(-count // batch_size))
        for images, _, _ in Batches(dataset.take(order), even, seed, augment).epoch(0):
            model(normalize(images.to(first.device), first.dtype))
    model.train(was_training)
    for layer, momentum in zip(chosen, momenta, strict=True):
        layer.momentum = momentum
