"""What is done, after training, against statistics that no longer fit: known remedies, as controls.

They act on any layer that keeps ``running_mean`` and ``running_var``, whatever its class, and on nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from icsbound._check import InputError, positive_int, real
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
    dtype = next(model.parameters()).dtype
    momenta = [layer.momentum for layer in chosen]
    was_training = model.training
    model.eval()
    order = torch.randperm(len(dataset), generator=seeds.generator(seed, "recalibrate"))[:count]
    for layer in chosen:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
        layer.train()
    with torch.no_grad():
        # Batches of nearly equal size, so that each counts alike in the mean.
        even = -(-count // -(-count // batch_size))
        for images, _, _ in Batches(dataset.take(order), even, seed, augment).epoch(0):
            model(normalize(images, dtype))
    model.train(was_training)
    for layer, momentum in zip(chosen, momenta, strict=True):
        layer.momentum = momentum


@contextlib.contextmanager
def mixed(model: nn.Module, weight: float) -> Iterator[None]:
    """While entered, `layers` normalize by (1 - weight)·stored + weight·the image's own mean and variance.

    One image at a time, as in Schneider et al. 2020 (arXiv 2006.16971). Done to the layer's input: with mean m,
    variance v mixed and μ, σ² stored, (x - m)·√((σ² + ε) / (v + ε)) + μ is normalized by μ, σ² to (x - m) / √(v + ε),
    and what else the layer does stays as it is. Raises InputError where a layer's input has no positions: one sample
    then has no statistics of its own.
    """
    real("mix", weight, 0.0, 1.0)

    def shift(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        if x.ndim < 3:
            raise InputError(
                f"mix must be 0 for a network that normalizes dense outputs, got {weight} and an input of shape "
                f"{tuple(x.shape)}: a sample without positions has no statistics of its own"
            )
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, variance = layer.running_mean.view(shape), layer.running_var.view(shape)
        positions = tuple(range(2, x.ndim))
        own_mean = x.mean(positions, keepdim=True)
        own_variance = x.var(positions, correction=0, keepdim=True)
        m = (1 - weight) * mean + weight * own_mean
        v = (1 - weight) * variance + weight * own_variance
        return ((x - m) * torch.sqrt((variance + layer.eps) / (v + layer.eps)) + mean,)

    handles = [layer.register_forward_pre_hook(shift) for layer in layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
