"""An arm's layers in a network that was built elsewhere, with batch norms: what `arms` describes, by `convert`.

Weights, biases and statistics of the network's batch norms stay. So do their eps and momentum, unless the arm sets
them or is the published layer, which has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from icsbound._check import InputError
from icsbound.norm import convert, survey
from icsbound.norm.modules import UnitizedBatchNorm
from icsbound.training.arms import Arm

# Settings of a layer that belong to the network's own batch norms.
_OF_THE_NETWORK = ("affine", "track_running_stats", "activation", "bias")


def apply(arm: Arm, model: nn.Module, *, synchronized: bool = False) -> nn.Module:
    """`model` with every batch norm replaced by the layer of `arm`, in place; `synchronized` over all processes or not.

    Raises InputError, with nothing changed, where the model has no batch norms (and the arm is another than batch
    norm), has some of a kind that cannot be replaced, or the arm has settings that only a new layer can take.
    """
    found = survey(model)
    if found.left:
        name, reason = next(iter(found.left.items()))
        more = f", and {len(found.left) - 1} more" if len(found.left) > 1 else ""
        raise InputError(f"model must have only batch norms that an arm can replace, got {name!r} ({reason}){more}")
    if not found.convertible and not arm.batch_norm:
        raise InputError(
            f"model must have batch norms to become arm {arm.name!r}, got a {type(model).__name__} of none"
        )
    for key in arm.settings:
        if key in _OF_THE_NETWORK:
            raise InputError(f"arm {arm.name!r} must leave {key} to the batch norms of a network that comes with them")
    if arm.group_norm:
        return _grouped(arm, model, list(found.convertible))
    for norm in _named(model, found.convertible):
        for key, value in arm.rates.items():
            setattr(norm, key, value)
    if not arm.batch_norm:
        return _unitized(arm, model, synchronized)
    return _synchronized(model) if synchronized else model


def _named(model: nn.Module, names: Any) -> Iterator[nn.Module]:
    """The modules of these names; the model itself where it is a batch norm."""
    modules = dict(model.named_modules())
    return (modules.get(name, model) for name in names)


def _unitized(arm: Arm, model: nn.Module, synchronized: bool) -> nn.Module:
    # What `convert` is to be told stands in a layer of the arm, whatever constructor gave it.
    layer: Any = arm.make(1)
    told = {name: getattr(layer.settings, name) for name in ("interpolation", "scope", "target", "alpha_range")}
    told |= {name: getattr(layer.settings, name) for name in ("shrink_only", "variance")}
    told |= {"alpha_init": layer.alpha_init, "debias": layer.debias}
    if "norm_eps" in arm.settings or "eps" in arm.rates:
        told["norm_eps"] = layer.settings.norm_eps
    if synchronized:
        told["process_group"] = "world"
    model = convert(model, strict=True, **told)
    if not layer.alpha.requires_grad:
        for module in model.modules():
            if isinstance(module, UnitizedBatchNorm):
                module.alpha.requires_grad_(False)
    return model


def _grouped(arm: Arm, model: nn.Module, names: list[str]) -> nn.Module:
    # Built before anything is changed, since an arm refuses channels that its groups do not divide.
    made = [(name, _group(arm, norm)) for name, norm in zip(names, _named(model, names), strict=True)]
    modules = dict(model.named_modules())
    for name, new in made:
        if name not in modules:
            return new
        above, _, last = name.rpartition(".")
        setattr(modules[above], last, new)
    return model


def _group(arm: Arm, norm: Any) -> nn.Module:
    new = arm.make(norm.num_features)
    new.eps = arm.settings.get("eps", norm.eps)
    new.weight, new.bias = norm.weight, norm.bias
    new.train(norm.training)
    # timm's batch norms are followed by what they hold.
    inside = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    return nn.Sequential(new, *inside) if inside else new


def _synchronized(model: nn.Module) -> nn.Module:
    """torch's own synchronized batch norms; timm's by timm, since torch would lose their activations."""
    if any(type(m).__module__.split(".")[0] == "timm" and hasattr(m, "running_mean") for m in model.modules()):
        from timm.layers import convert_sync_batchnorm

        made: nn.Module = convert_sync_batchnorm(model)
        return made
    torchs: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's
    return torchs
