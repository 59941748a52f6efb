"""The kinds of batch norm: those that a model holds, the unitized layer that each becomes, and the way back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from icsbound.norm import modules, variants
from icsbound.norm.modules import UnitizedBatchNorm

# torch's own classes, exactly; and those of other libraries by the name of library and class, without importing them.
_TORCH: dict[type[nn.Module], type[UnitizedBatchNorm]] = {
    nn.BatchNorm1d: modules.UnitizedBatchNorm1d,
    nn.BatchNorm2d: modules.UnitizedBatchNorm2d,
    nn.BatchNorm3d: modules.UnitizedBatchNorm3d,
    nn.SyncBatchNorm: variants.UnitizedSyncBatchNorm,
    nn.LazyBatchNorm1d: variants.LazyUnitizedBatchNorm1d,
    nn.LazyBatchNorm2d: variants.LazyUnitizedBatchNorm2d,
    nn.LazyBatchNorm3d: variants.LazyUnitizedBatchNorm3d,
}
_OTHERS: dict[tuple[str, str], type[UnitizedBatchNorm]] = {
    ("torchvision", "FrozenBatchNorm2d"): variants.UnitizedFrozenBatchNorm2d,
    ("timm", "BatchNormAct2d"): variants.UnitizedBatchNormAct2d,
    ("timm", "SyncBatchNormAct"): variants.UnitizedBatchNormAct2d,
    ("timm", "FrozenBatchNormAct2d"): variants.UnitizedFrozenBatchNormAct2d,
}
_BACK: dict[type[UnitizedBatchNorm], type[nn.Module]] = {ours: theirs for theirs, ours in _TORCH.items()}

_TENSORS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module, str | None]]:
    """(name, batch norm, why it cannot be replaced) of all in `model`; nothing inside of one that is left alone."""
    left: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if not path.startswith(left) and _is_one(module):
            reason = _reason_against(module)
            if reason is not None:
                left += (path and path + ".",)
            yield path or type(module).__name__, module, reason


def _is_one(module: nn.Module) -> bool:
    """Whether `module` is a batch norm, whatever its class, or a scripted module with one inside."""
    if isinstance(module, torch.jit.ScriptModule):
        kept = any(name.rpartition(".")[2] == "running_mean" for name, _ in module.named_buffers())
        return kept or any("BatchNorm" in getattr(m, "original_name", "") for m in module.modules())
    if isinstance(module, UnitizedBatchNorm | _InstanceNorm):
        return False
    return isinstance(module, _BatchNorm) or module._buffers.keys() >= {"running_mean", "running_var"}


def target(module: nn.Module) -> type[UnitizedBatchNorm] | None:
    """The class that `module` becomes; None where it is of a kind unknown here."""
    kind = type(module)
    return _TORCH.get(kind) or _OTHERS.get((kind.__module__.split(".")[0], kind.__name__))


def _reason_against(module: nn.Module) -> str | None:
    """Why this batch norm cannot be replaced; None if it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted: convert the model before it is scripted"
    if target(module) is None:
        kind = type(module)
        return f"a {kind.__module__}.{kind.__qualname__}, which may do more than batch norm"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    foreign = sorted((set(module._parameters) | set(module._buffers)) - _TENSORS)
    if foreign:
        return f"it holds {', '.join(foreign)}: a reparametrization that would be lost"
    return None


def source(layer: UnitizedBatchNorm) -> type[nn.Module] | None:
    """The class that `layer` becomes again; None where it is of a kind unknown here."""
    known: type[nn.Module] | None = layer._converted_from
    if isinstance(layer, LazyModuleMixin) or known is None or issubclass(known, LazyModuleMixin):
        known = _BACK.get(type(layer))
    if known in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and layer.process_group is not None:
        return nn.SyncBatchNorm
    return known
