"""Networks of a user's own module, as ``--model nets:tiny`` names them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def tiny(num_classes: int, in_chans: int, width: int = 4) -> nn.Module:
    """A convolution, a batch norm, and a batch norm of vectors before the last layer."""
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3, 2),
        nn.BatchNorm2d(width, eps=1e-4, momentum=0.2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(width),
        nn.Linear(width, num_classes),
    )


def strided(classes: int) -> nn.Module:
    """With a strided 1x1 convolution of few channels; not to be trained in channels_last on a CPU."""
    body = nn.Sequential(nn.Conv2d(1, 4, 1, 2), nn.BatchNorm2d(4))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def fixed() -> nn.Module:
    """For ten classes, whatever is asked."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def features(classes: int) -> nn.Module:
    """Without a last layer."""
    return nn.Conv2d(3, classes, 1)


class Own(nn.BatchNorm2d):
    """A batch norm that may do more."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


def special(classes: int) -> nn.Module:
    """With a batch norm of another kind."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), Own(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


not_a_function = 3


def no_module(classes: int) -> int:
    """Returns no network."""
    return classes
