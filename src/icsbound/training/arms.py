"""The arms of a comparison: normalization layers by name, each with the arm it is judged against.

======================  ===========================================================================  ===================
arm                     layer                                                                        control
======================  ===========================================================================  ===================
``bn``                  `torch.nn.BatchNorm2d`
``published``           arithmetic interpolation as the paper's code has it (`as_published`)         ``published-batch``
``published-batch``     the same with one norm a batch: a trained gain, and no unitization           ``bn``
``unitized``            the layer's defaults                                                         ``bn``
``unitized-1``          alpha frozen at 1, where all interpolations coincide                         ``bn``
``unitized-position``   one norm a pixel                                                             ``bn``
``arithmetic``          arithmetic interpolation, alpha from 0.5 in [0, 1]                           ``bn``
``gn``                  `torch.nn.GroupNorm`, 16 channels a group                                    ``bn``
======================  ===========================================================================  ===================

Further settings follow a colon and go to the layer's constructor: ``unitized:alpha_init=0.3,scope=position``.
``frozen=true`` takes alpha out of training, and ``alpha_drawn=(0.2, 0.5, 0.6)`` starts each channel's at one of these.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from icsbound._check import InputError, fail, nearest, positive_int, real, shown
from icsbound.norm.modules import UnitizedBatchNorm, UnitizedBatchNorm2d
from icsbound.training import seeds, spec

# What the comparison decides itself, so that no arm may set it.
_FIXED = {"self", "num_features", "device", "dtype", "process_group"}


def _batch(channels: int, **settings: Any) -> nn.Module:
    return nn.BatchNorm2d(channels, **settings)


def _group(channels: int, *, group_size: int = 16, eps: float = 1e-5) -> nn.Module:
    positive_int("group_size", group_size)
    if channels > group_size and channels % group_size:
        fail("group_size", f"divide the {channels} channels of every normalized layer", group_size)
    return nn.GroupNorm(max(1, channels // group_size), channels, eps=eps)


# Of alpha, which the layer's constructor does not know.
_OF_ALPHA = ("frozen", "alpha_drawn")


def _started(layer: UnitizedBatchNorm2d, frozen: bool, drawn: Any) -> nn.Module:
    low, high = layer.settings.alpha_range or (-math.inf, math.inf)
    if not isinstance(drawn, tuple | list):
        fail("alpha_drawn", "be numbers in parentheses, such as (0.2, 0.5)", drawn)
    for value in drawn:
        real("alpha_drawn", value, low, high)
    layer.alpha.requires_grad_(not frozen)
    return layer


def _unitized(channels: int, *, frozen: bool = False, alpha_drawn: Any = (), **settings: Any) -> nn.Module:
    return _started(UnitizedBatchNorm2d(channels, **settings), frozen, alpha_drawn)


def _published(channels: int, *, frozen: bool = False, alpha_drawn: Any = (), **settings: Any) -> nn.Module:
    return _started(UnitizedBatchNorm2d.as_published(channels, **settings), frozen, alpha_drawn)


# The constructor whose arguments an arm of this kind accepts.
_ACCEPTS: dict[Callable[..., nn.Module], Callable[..., Any]] = {
    _batch: nn.BatchNorm2d.__init__,
    _group: _group,
    _unitized: UnitizedBatchNorm2d.__init__,
    _published: UnitizedBatchNorm2d.__init__,
}


@dataclass(frozen=True)
class Arm:
    """One way to normalize: `make(channels)` builds a layer for (N, channels, H, W); `control` names the arm to judge
    by.
    """

    name: str
    kind: Callable[..., nn.Module] = field(repr=False)
    control: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batch_norm(self) -> bool:
        """Whether it is torch's own batch norm."""
        return self.kind is _batch

    @property
    def group_norm(self) -> bool:
        """Whether it is torch's own group norm."""
        return self.kind is _group

    @property
    def rates(self) -> dict[str, Any]:
        """`eps` and `momentum` where the arm decides them, and not the network that it is put into."""
        names = ("eps", "momentum")
        if self.kind is _published:
            layer: Any = self.make(1)
            return {name: getattr(layer, name) for name in names}
        return {name: self.settings[name] for name in names if name in self.settings}

    def make(self, channels: int) -> nn.Module:
        """A fresh layer for `channels` channels."""
        return self.kind(channels, **self.settings)

    def start(self, model: nn.Module, seed: int) -> nn.Module:
        """`model`, of these layers, with alpha drawn by `seed`, channel by channel, where the arm says from what."""
        if drawn := self.settings.get("alpha_drawn"):
            values, generator = torch.tensor(drawn, device="cpu"), seeds.generator(seed, "alpha")
            for layer in model.modules():
                if isinstance(layer, UnitizedBatchNorm):
                    shape = layer.alpha.shape
                    index = torch.randint(len(values), shape, generator=generator, device="cpu")
                    layer.alpha.data.copy_(values[index])
        return model

    def make_synchronized(self, channels: int) -> nn.Module:
        """The same, sharing its batch statistics over all processes of a group; equal in names and stored tensors."""
        if self.kind in (_unitized, _published):
            return self.kind(channels, **self.settings, process_group="world")
        if self.kind is _batch:
            return nn.SyncBatchNorm(channels, **self.settings)
        return self.make(channels)


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("bn", _batch, None),
        Arm("published", _published, "published-batch"),
        Arm("published-batch", _published, "bn", {"scope": "batch"}),
        Arm("unitized", _unitized, "bn"),
        Arm("unitized-1", _unitized, "bn", {"alpha_init": 1.0, "frozen": True}),
        Arm("unitized-position", _unitized, "bn", {"scope": "position"}),
        Arm("arithmetic", _unitized, "bn", {"interpolation": "arithmetic"}),
        Arm("gn", _group, "bn"),
    )
}


def parse(text: str) -> Arm:
    """The arm that `text`, a name or ``name:key=value,key=value``, stands for; its name is `text`.

    Raises InputError for an unknown arm (with the nearest name), an unknown setting, or a value the layer refuses.
    """
    name, settings = spec.split("arm", text)
    if name not in ARMS:
        fail("arm", "be one of " + ", ".join(ARMS), name, nearest(name, ARMS))
    base = ARMS[name]
    names = [p for p in inspect.signature(_ACCEPTS[base.kind]).parameters if p not in _FIXED | {"channels"}]
    names += _OF_ALPHA if base.kind in (_unitized, _published) else ()
    for key in settings:
        if key not in names:
            fail(f"a setting of arm {name!r}", "be one of " + ", ".join(sorted(names)), key, nearest(key, names))
    arm = Arm(
        text, base.kind, name if settings and base.control is None else base.control, {**base.settings, **settings}
    )
    try:
        arm.make(16)
    except (TypeError, ValueError) as error:
        raise InputError(f"arm {shown(text)} cannot be built: {error}") from None
    return arm
