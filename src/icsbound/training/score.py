"""Loss and accuracy of a model on a data set, with stored statistics."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from icsbound.training.data import Dataset, Normalize


def score(
    model: nn.Module,
    dataset: Dataset,
    normalize: Normalize,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 250,
    *,
    keep_mode: bool = False,
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `model`, on its own device, on all of `dataset`, in batches of `batch_size`.

    The model is in evaluation mode meanwhile, and in its own again afterwards; with `keep_mode` it is taken as it is.
    """
    was_training = model.training
    if not keep_mode:
        model.eval()
    loss, right, device = 0.0, 0, next(model.parameters()).device
    with torch.no_grad():
        for images, labels in dataset.portions(batch_size):
            images, labels = images.to(device), labels.to(device)
            logits = model(normalize(images, dtype)).double()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
    if not keep_mode:
        model.train(was_training)
    return loss / len(dataset), right / len(dataset)
