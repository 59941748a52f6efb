"""Batch norms of a whole model into unitized layers and back, with nothing lost and nothing done in silence."""

from __future__ import annotations

import inspect
import warnings
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from icsbound import _check
from icsbound._check import InputError
from icsbound.norm import kinds, variants
from icsbound.norm.modules import UnitizedBatchNorm

_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}

# What each batch norm decides itself, and why a conversion cannot set it.
_TAKEN = ("num_features", "eps", "momentum", "affine", "track_running_stats", "device", "dtype", "bias")
# Attributes that belong to one side only; everything else on the module (hooks, mode, marks of users) moves along.
_OWN = {"_parameters", "_buffers", "_modules", "eps", "settings", "alpha_init", "debias", "process_group"}
_OWN |= {"_converted_from", "_compiled_call_impl"}


@dataclass
class Survey:
    """Which batch norms of a model `convert` takes, by name, and why it leaves the others alone."""

    convertible: dict[str, str] = field(default_factory=dict)  # name → class
    left: dict[str, str] = field(default_factory=dict)  # name → reason


def survey(model: nn.Module) -> Survey:
    """What `convert(model)` would do, without doing it."""
    found = Survey()
    for name, module, reason in kinds.batch_norms(model):
        if reason is None:
            found.convertible[name] = type(module).__name__
        else:
            found.left[name] = reason
    return found


def convert(model: nn.Module, *, strict: bool = False, **settings: Any) -> nn.Module:
    """Replace every batch norm of `model` by a unitized layer, in place; with α = 0 it computes what it did before.

    `nn.BatchNorm1d/2d/3d`, `nn.SyncBatchNorm` (which keeps its process group), lazy ones, torchvision's
    `FrozenBatchNorm2d`, and timm's `BatchNormAct2d`, `SyncBatchNormAct` and `FrozenBatchNormAct2d`. The very same
    parameters and buffers go on being used, so an optimizer that holds them goes on working; mode, `requires_grad`,
    hooks, shared modules and shared parameters are kept. α takes dtype, device and `requires_grad` of the weight.

    One thing is stricter than before: where torch.distributed is not initialised, an `nn.SyncBatchNorm` in training
    falls back to the batch of its own process, and the layer that it becomes raises InputError.

    Args:
        model: changed in place; a batch norm itself cannot be, and is replaced.
        strict: refuse models with batch norms of another kind (any module that keeps a running mean and variance, and
            scripted ones); otherwise these are left alone, and a warning names them. Either way nothing has been
            changed when an error is raised.
        settings: keywords of `UnitizedBatchNorm2d`, for every layer; `alpha_init` defaults to 0. What a batch norm
            has itself (eps, momentum, ...) cannot be given, nor `activation`.

    Returns:
        `model`, or the new layer if it was a batch norm itself.

    Raises:
        InputError: an unknown or impossible setting; a batch norm of another kind with `strict`; a scripted model,
            or one already wrapped for data-parallel training, or sharded for it.
    """
    _check_model(model)
    settings = _checked_settings(settings)
    found = survey(model)
    if found.left:
        listed = _listed([f"{name!r} ({reason})" for name, reason in found.left.items()])
        if strict:
            raise InputError(
                f"model must hold only batch norms of known kinds with strict=True, got {len(found.left)} others: "
                f"{listed}"
            )
        warnings.warn(f"{len(found.left)} batch norms were left as they are: {listed}", UserWarning, stacklevel=2)
    elsewhere = next(model.parameters(), None)
    return _swapped(
        model,
        {id(bn): _unitized(bn, settings, elsewhere) for _, bn, reason in kinds.batch_norms(model) if reason is None},
    )


def revert(model: nn.Module, *, exact: bool = True) -> nn.Module:
    """Replace every unitized layer of `model` by the batch norm it came from, or that of its rank, in place.

    A layer with a fused ReLU becomes a sequence of batch norm and ReLU. The same parameters and buffers go on being
    used; α is dropped.

    Args:
        model: changed in place; a unitized layer itself cannot be, and is replaced.
        exact: refuse where the result would compute something else: α not 0, or running statistics that batch norm
            does not keep (`variance="published"`, `debias`). With False these are dropped, on your word.

    Returns:
        `model`, or the new layer if it was a unitized layer itself.

    Raises:
        InputError: not exact, or a layer of a class unknown here; nothing has been changed then.
    """
    _check_model(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, UnitizedBatchNorm)}
    unknown = [f"{name!r} ({type(m).__name__})" for name, m in layers.items() if kinds.source(m) is None]
    if unknown:
        raise InputError(
            f"model must hold only unitized layers of known classes to be reverted, got {_listed(unknown)}"
        )
    if exact:
        reasons = {name: _reason_inexact(m) for name, m in layers.items()}
        inexact = [f"{name or type(model).__name__!r} ({reason})" for name, reason in reasons.items() if reason]
        if inexact:
            raise InputError(
                f"model must be the same network without unitization to be reverted, got {len(inexact)} layers that "
                f"differ from batch norm: {_listed(inexact)}; pass exact=False to drop the difference"
            )
    return _swapped(model, {id(m): _reverted(m) for m in layers.values()})


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        _check.fail("model", "be a torch.nn.Module", model)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("model must not be scripted, got a torch.jit.ScriptModule: convert it before scripting")
    for module in model.modules():
        # By name, so that nothing of torch.distributed is imported; `fully_shard` makes a class of its own of each.
        if _WRAPPERS & {kind.__name__ for kind in type(module).__mro__}:
            raise InputError(
                f"model must not be wrapped for data-parallel training yet, got a {type(module).__name__}, which has "
                "taken its parameters down already: convert or revert first, then wrap"
            )


def _checked_settings(settings: dict[str, Any]) -> dict[str, Any]:
    known = [name for name in inspect.signature(UnitizedBatchNorm.__init__).parameters if name != "self"]
    free = [name for name in known if name not in (*_TAKEN, "activation")]
    for name in settings:
        if name in _TAKEN:
            raise InputError(f"settings must leave {name} to each batch norm, got {name}={settings[name]!r}")
        if name == "activation":
            raise InputError(
                "settings must leave activation out, for a converted network computes what it did before, "
                f"got activation={settings[name]!r}"
            )
        if name not in free:
            _check.fail("settings", "be among " + ", ".join(free), name, _check.nearest(name, free))
    return {"alpha_init": 0.0, **settings}


def _listed(items: list[str], shown: int = 5) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def _unitized(bn: nn.Module, settings: dict[str, Any], elsewhere: Tensor | None) -> UnitizedBatchNorm:
    """The unitized layer that takes over everything `bn` has."""
    target: Any = kinds.target(bn)
    old: Any = bn
    frozen = issubclass(target, variants.UnitizedFrozenBatchNorm2d)
    like = next((t for t in (old.weight, old.running_mean, elsewhere) if t is not None), None)
    place = {} if like is None or not like.is_floating_point() else {"device": like.device, "dtype": like.dtype}
    shared = (old.eps,) if frozen else (old.eps, old.momentum, old.affine, old.track_running_stats)
    if isinstance(bn, nn.SyncBatchNorm) and "process_group" not in settings:
        settings = {**settings, "process_group": "world" if bn.process_group is None else bn.process_group}
    channels = () if isinstance(bn, LazyModuleMixin) else (_channels(bn),)
    new: UnitizedBatchNorm = target(*channels, *shared, **settings, **place)
    _move_attributes(bn, new)
    new._converted_from = type(bn)
    if frozen:
        for name in ("weight", "bias"):
            new._parameters[name] = nn.Parameter(old._buffers[name], requires_grad=False)
        new._buffers.update({k: v for k, v in bn._buffers.items() if k.startswith("running")})
        new.training = False
    else:
        new._parameters.update(bn._parameters)
        new._buffers.update(bn._buffers)
    new._modules.update(bn._modules)
    if old.weight is not None:
        new.alpha.requires_grad = old.weight.requires_grad
    return new


def _channels(bn: Any) -> int:
    return int(bn.num_features) if hasattr(bn, "num_features") else len(bn.weight)


def _move_attributes(old: nn.Module, new: nn.Module) -> None:
    new.__dict__.update({k: v for k, v in old.__dict__.items() if k not in _OWN})


def _reason_inexact(layer: UnitizedBatchNorm) -> str | None:
    alpha = layer.clamped_alpha() if not isinstance(layer, LazyModuleMixin) else torch.tensor(layer.alpha_init)
    if not bool((alpha == 0).all()):
        return f"alpha up to {float(alpha.abs().max()):.3g}"
    if layer.settings.variance != "biased":
        return f"variance={layer.settings.variance!r}"
    return "debias=True" if layer.debias else None


def _reverted(layer: UnitizedBatchNorm) -> nn.Module:
    source = kinds.source(layer)
    assert source is not None
    new: Any
    if isinstance(layer, LazyModuleMixin):
        lazy: Any = source
        new = lazy(layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    else:
        new = source.__new__(source)  # its attributes come from the layer, which kept those of the original
        nn.Module.__init__(new)
    _move_attributes(layer, new)
    new.eps = layer.eps
    if issubclass(source, nn.SyncBatchNorm):
        new.process_group = None if layer.process_group == "world" else layer.process_group
    parameters = {k: v for k, v in layer._parameters.items() if k != "alpha"}
    buffers = dict(layer._buffers)
    if isinstance(layer, variants.UnitizedFrozenBatchNorm2d):
        buffers = {k: None if v is None else v.detach() for k, v in parameters.items()} | buffers
        buffers.pop("num_batches_tracked")
        parameters = {}
    new._parameters.update(parameters)
    new._buffers.update(buffers)
    new._modules.update(layer._modules)
    return nn.Sequential(new, nn.ReLU()) if layer.settings.activation == "relu" else new


def _swapped(model: nn.Module, by_id: dict[int, nn.Module]) -> nn.Module:
    """`replaced`, with the hooks that torch binds to the module they were registered on bound to the new one."""
    for module in (inner for new in by_id.values() for inner in new.modules()):
        own: Any = module
        on_loading: Any = module._load_state_dict_pre_hooks
        if hasattr(module, "_initialize_hook"):  # still lazy
            own._forward_pre_hooks[own._initialize_hook.id] = own._infer_parameters
            on_loading[own._load_hook.id].hook = own._lazy_load_hook
        for hook in on_loading.values():
            if hook.with_module:
                hook.module = weakref.ref(module)
    return replaced(model, by_id)


def replaced(model: nn.Module, by_id: dict[int, nn.Module]) -> nn.Module:
    """`model` with the modules of these ids replaced, everywhere they occur."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in by_id:
                parent._modules[name] = by_id[id(child)]
    return by_id.get(id(model), model)
