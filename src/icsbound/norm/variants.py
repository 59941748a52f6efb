"""The layer in the shapes that batch norm comes in elsewhere: synchronized, frozen, lazy, and with an activation.

They exist so that a network converted by `convert` keeps its behaviour and the names of its parameters and modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from icsbound.norm import functional
from icsbound.norm.modules import (
    UnitizedBatchNorm,
    UnitizedBatchNorm1d,
    UnitizedBatchNorm2d,
    UnitizedBatchNorm3d,
)


class UnitizedSyncBatchNorm(UnitizedBatchNorm):
    """`UnitizedBatchNorm2d` for input of any rank from (N, C) to (N, C, D, H, W), as `nn.SyncBatchNorm`.

    `process_group` defaults to "world": all processes share their statistics in training.
    """

    _ranks = (2, 3, 4, 5)

    def __init__(self, num_features: int, *args: Any, process_group: Any = "world", **settings: Any) -> None:
        super().__init__(num_features, *args, process_group=process_group, **settings)


class UnitizedFrozenBatchNorm2d(UnitizedBatchNorm2d):
    """`UnitizedBatchNorm2d` with everything fixed, as torchvision's `FrozenBatchNorm2d`.

    It is always in evaluation mode, and no parameter requires a gradient, α neither.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.train(False)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Any:
        """Stay in evaluation mode, whatever is asked for; modules inside follow."""
        super().train(mode)
        self.training = False
        return self


class UnitizedBatchNormAct2d(UnitizedBatchNorm2d):
    """`UnitizedBatchNorm2d` followed by modules `drop` and `act`, as timm's `BatchNormAct2d`."""

    drop: nn.Module
    act: nn.Module

    def __init__(
        self, *args: Any, drop: nn.Module | None = None, act: nn.Module | None = None, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.drop = nn.Identity() if drop is None else drop
        self.act = nn.Identity() if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        if isinstance(x, torch.fx.Proxy) and type(self).forward is UnitizedBatchNormAct2d.forward:
            traced: Tensor = self._traced(x)
            return traced
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


class UnitizedFrozenBatchNormAct2d(UnitizedBatchNormAct2d, UnitizedFrozenBatchNorm2d):
    """`UnitizedFrozenBatchNorm2d` followed by modules `drop` and `act`, as timm's `FrozenBatchNormAct2d`."""


class _Lazy(LazyModuleMixin, UnitizedBatchNorm):
    """C is taken from the first input."""

    def __init__(self, eps: float = 1e-5, momentum: float | None = 0.1, *args: Any, **settings: Any) -> None:
        super().__init__(1, eps, momentum, *args, **settings)
        self.num_features = 0
        lazy_parameter: Any = UninitializedParameter
        lazy_buffer: Any = UninitializedBuffer
        for name, parameter in self._parameters.items():
            if parameter is not None:
                self._parameters[name] = lazy_parameter(parameter.requires_grad, parameter.device, parameter.dtype)
        for name in ("running_mean", "running_var"):
            buffer = self._buffers[name]
            if buffer is not None:
                self._buffers[name] = lazy_buffer(False, buffer.device, buffer.dtype)

    def initialize_parameters(self, x: Tensor) -> None:
        """Give every parameter and buffer the channels of x, and its initial value; what was loaded keeps its own.

        A batch that `forward` would refuse is refused here, and leaves the layer lazy.
        """
        self._check_rank(x)
        tensors: tuple[Any, ...] = self._tensors()
        mean, var, weight, bias, alpha = (
            torch.empty(x.shape[1], device=t.device) if is_lazy(t) else t for t in tensors
        )
        group = functional.exchanging(self.process_group, self.training)
        functional.check_input(x, mean, var, weight, bias, alpha, self.training, group)
        self.num_features = x.shape[1]
        hollow = [t for t in tensors if is_lazy(t)]
        with torch.no_grad():
            for tensor in hollow:
                tensor.materialize((self.num_features,))
        if len(hollow) > 1:
            self.reset_parameters()
        elif hollow:  # α alone: `convert` found a batch norm that had loaded a checkpoint before its first input
            nn.init.constant_(self.alpha, self.alpha_init)

    def reset_parameters(self) -> None:
        """Initial values, once the channels are known."""
        if not self._lazy():
            super().reset_parameters()

    def _lazy(self) -> bool:
        return any(t is not None and is_lazy(t) for t in (*self._parameters.values(), *self._buffers.values()))


class LazyUnitizedBatchNorm1d(_Lazy, UnitizedBatchNorm1d):
    """`UnitizedBatchNorm1d` that takes its channels from the first input, as `nn.LazyBatchNorm1d`."""

    cls_to_become = UnitizedBatchNorm1d


class LazyUnitizedBatchNorm2d(_Lazy, UnitizedBatchNorm2d):
    """`UnitizedBatchNorm2d` that takes its channels from the first input, as `nn.LazyBatchNorm2d`."""

    cls_to_become = UnitizedBatchNorm2d


class LazyUnitizedBatchNorm3d(_Lazy, UnitizedBatchNorm3d):
    """`UnitizedBatchNorm3d` that takes its channels from the first input, as `nn.LazyBatchNorm3d`."""

    cls_to_become = UnitizedBatchNorm3d
