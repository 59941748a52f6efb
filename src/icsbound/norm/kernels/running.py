"""Running statistics, as the layer keeps them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from icsbound.norm.kernels.aten import Statistics
from icsbound.norm.settings import Count


class Running(NamedTuple):
    """Running mean and variance, (C,) each, that a training step moves by `momentum` towards those of its batch.

    The variance moves towards `bessel` times that which normalized the batch.
    """

    mean_C: Tensor
    var_C: Tensor
    momentum: Count
    bessel: Count

    def move(self, batch: Statistics) -> None:
        """``new = (1 - momentum) old + momentum batch``, in place."""
        with torch.no_grad():
            # Not `lerp_`, for which `torch.vmap` has no rule.
            self.mean_C.mul_(1 - self.momentum).add_(batch.mean_C * self.momentum)
            self.var_C.mul_(1 - self.momentum).add_(batch.var_C * self.bessel * self.momentum)
