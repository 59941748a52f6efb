"""Folding unitized layers with α = 0 into the convolution or linear layer before them, for inference.

With α = 0 an evaluated layer is the affine map ``y = γ (x - mean) / sqrt(var + eps) + β`` of each channel, which a
convolution before it absorbs. With α > 0 it depends on the norm of each sample and cannot be folded.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.nn.utils import fusion

from icsbound._check import InputError
from icsbound.norm.convert import replaced
from icsbound.norm.modules import UnitizedBatchNorm
from icsbound.norm.variants import UnitizedBatchNormAct2d

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Tracer(torch.fx.Tracer):
    """Does not look into unitized layers, nor into `leaves`."""

    def __init__(self, leaves: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.leaves = set(leaves)

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return isinstance(m, UnitizedBatchNorm) or m in self.leaves or super().is_leaf_module(m, qualified_name)


class _Dense(nn.Module):
    """Stands where a layer was folded into a linear one, which holds for input of shape (N, C) only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise InputError(
                f"the input of a folded model must be (N, C) after this linear layer, got shape {tuple(x.shape)}: "
                "the layer that was folded normalized axis 1"
            )
        return x


def fold(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference, with every unitized layer that allows it folded into what precedes it.

    Foldable is a layer in evaluation mode with running statistics and α = 0 (after clamping), fed by a convolution, a
    transposed convolution of one group or a linear layer whose output goes nowhere else; each of the two is called
    once, under whichever of its names. A fused ReLU, and the modules of `UnitizedBatchNormAct2d`, stay in its place.
    Layers that cannot be folded stay as they are, and a warning says which and why.

    The order of layers is found by `torch.fx`.

    Raises:
        InputError: the model is in training mode, `torch.fx` cannot trace it, or it calls a folded layer by a
            reference that is no name in the model (a plain list of layers, say).
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, UnitizedBatchNorm)}
    training = [name or type(model).__name__ for name, layer in layers.items() if layer.training]
    if training:
        raise InputError(
            f"model must be in evaluation mode to be folded (model.eval()), got {training[0]!r} in training mode"
        )
    folded = copy.deepcopy(model)
    reasons = dict.fromkeys(layers, "its place in the model is not a plain call of the layer")
    instead: dict[int, nn.Module] = {}
    for name, before in _calls(folded).items():
        layer: Any = folded.get_submodule(name)
        source = None if before is None else folded.get_submodule(before)
        reason = _reason_against(layer, source)
        if reason is not None:
            reasons[name] = reason
            continue
        assert source is not None
        instead[id(source)] = _fused(source, layer)
        instead[id(layer)] = _rest(source, layer)
        del reasons[name]
    folded = replaced(folded, instead)
    _check_calls(folded, instead)
    if reasons:
        listed = ", ".join(f"{name!r} ({reason})" for name, reason in list(reasons.items())[:5])
        more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        warnings.warn(f"{len(reasons)} unitized layers were not folded: {listed}{more}", UserWarning, stacklevel=2)
    return folded


def _calls(model: nn.Module) -> dict[str, str | None]:
    """Each unitized layer that `model` calls once, and the module that feeds it alone and is called once, if any."""
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise InputError(
            f"model must be traceable by torch.fx to be folded, got {type(error).__name__}: {error}"
        ) from None
    calls = {node: model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    # What is inside of a module that the trace does not look into may be called there, and a tensor that is read by
    # itself is used apart from the call of its module.
    times = Counter(id(inner) for module in calls.values() for inner in module.modules())
    read = {id(attrgetter(str(node.target))(model)) for node in graph.nodes if node.op == "get_attr"}
    for module in model.modules():
        times[id(module)] += any(id(t) in read for t in (*module._parameters.values(), *module._buffers.values()))

    def once(node: Any) -> bool:
        return isinstance(node, torch.fx.Node) and node in calls and times[id(calls[node])] == 1

    found: dict[str, str | None] = {}
    for node, module in calls.items():
        if isinstance(module, UnitizedBatchNorm) and once(node):
            source: Any = node.args[0] if node.args else None
            found[str(node.target)] = str(source.target) if once(source) and len(source.users) == 1 else None
    return found


def _check_calls(model: nn.Module, instead: dict[int, nn.Module]) -> None:
    """Raise InputError if `model` still calls a module that was replaced."""
    try:
        _Tracer(instead.values()).trace(model)
    except Exception:
        raise InputError(
            "model must call its layers as the submodules that it holds, got one that it keeps elsewhere too "
            "(a plain list or tuple, say), where folding does not reach"
        ) from None


def _reason_against(layer: UnitizedBatchNorm, source: Any) -> str | None:
    """Why `layer` cannot be folded into `source`; None if it can."""
    alpha, kind = layer.clamped_alpha(), type(source)
    if not bool((alpha == 0).all()):
        return f"alpha up to {float(alpha.abs().max()):.3g}"
    if layer.running_mean is None:
        return "it has no running statistics"
    if source is None:
        return "no layer feeds it alone"
    if kind not in (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear):
        return f"a {kind.__name__} feeds it"
    if kind in _TRANSPOSED and source.groups > 1:
        return "a transposed convolution of several groups feeds it"
    if set(source._parameters) != {"weight", "bias"} or source._forward_pre_hooks or source._forward_hooks:
        return "the layer that feeds it is reparametrized or has hooks"
    if layer._forward_pre_hooks or layer._forward_hooks:
        return "it has hooks"
    out = source.out_features if kind is nn.Linear else source.out_channels
    return None if out == layer.num_features else "its channels are not those of the layer that feeds it"


def _fused(source: Any, layer: Any) -> nn.Module:
    """`source` with the layer's affine map in its weight and bias."""
    statistics = (layer.running_mean, layer.running_var, layer.eps, layer.weight, layer.bias)
    fused: nn.Module = copy.deepcopy(source)
    if isinstance(source, nn.Linear):
        fused.weight, fused.bias = fusion.fuse_linear_bn_weights(source.weight, source.bias, *statistics)
    else:
        transposed = isinstance(source, _TRANSPOSED)
        fused.weight, fused.bias = fusion.fuse_conv_bn_weights(
            source.weight, source.bias, *statistics, transpose=transposed
        )
    return fused


def _rest(source: nn.Module, layer: UnitizedBatchNorm) -> nn.Module:
    """What remains in the layer's place."""
    parts: list[nn.Module] = [_Dense()] if isinstance(source, nn.Linear) else []
    parts += [nn.ReLU()] if layer.settings.activation == "relu" else []
    parts += [layer.drop, layer.act] if isinstance(layer, UnitizedBatchNormAct2d) else []
    if len(parts) == 1:
        return parts[0]
    return nn.Sequential(*parts) if parts else nn.Identity()
