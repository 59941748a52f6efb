"""Loss and accuracy of a model on a data set, with stored statistics."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from icsbound.training.data import Dataset, Normalize


def score(
    model: nn.Module, dataset: Dataset, normalize: Normalize, dtype: torch.dtype = torch.float32, batch_size: int = 250
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `model` in evaluation mode on all of `dataset`; leaves the model's mode as
    it was.
    """
    was_training = model.training
    model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(dataset), batch_size):
            labels = dataset.labels[start : start + batch_size]
            logits = model(normalize(dataset.images[start : start + batch_size], dtype)).double()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
    model.train(was_training)
    return loss / len(dataset), right / len(dataset)
