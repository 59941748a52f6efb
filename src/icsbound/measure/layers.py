"""Choosing layers of a model by name, pattern, type or predicate, and knowing which axis holds their channels.

Names are those of the plain model: the wrappers of `torch.compile` and of data-parallel training leave no mark on
them, so a record means the same layer before and after either.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from torch import nn

from icsbound._check import InputError, fail, shown

Selector: TypeAlias = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Layers: TypeAlias = Selector | Sequence[Selector] | None

_CHANNELS_SECOND = re.compile(r"[123]d$|_ConvNd|BatchNorm|GroupNorm|InstanceNorm")
_CHANNELS_LAST = re.compile(
    r"LayerNorm|RMSNorm|Linear|Embedding|MultiheadAttention|Transformer(En|De)coder|RNN|^Conv1D$"
)
_ATTENTION = re.compile(r"Attention\d*$")  # over tokens; over images it may have its channels anywhere


def unwrap(model: nn.Module) -> nn.Module:
    """The plain module inside `torch.compile(model)`, `DistributedDataParallel(model)` and `DataParallel(model)`.

    The plain module shares every parameter and buffer with its wrapper. It is what a measurement runs: a wrapper of
    data-parallel training would wait for the other ranks.
    """
    while True:
        if "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.get_submodule("module")
        else:
            return model


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every module of the unwrapped `model` under its plain name; the model itself under the name of its class."""
    found = {}
    for name, module in unwrap(model).named_modules():
        if "_orig_mod" not in module._modules:  # a compiled part: the module inside bears the name
            parts = [part for part in name.split(".") if part != "_orig_mod"]
            found[".".join(parts) or type(module).__name__] = module
    return found


def is_normalization(name: str, module: nn.Module) -> bool:
    """Whether `module` is a normalization layer: its class says so (BatchNorm2d, RMSNorm) and no part of it does.

    A norm with an activation or dropout inside (timm's BatchNormAct2d) counts, a block around a norm (ConvNormAct) not.
    """
    says = [child for child in module.modules() if child is not module and "Norm" in type(child).__name__]
    return "Norm" in type(module).__name__ and not says and "parametrizations." not in name


def choose(model: nn.Module, layers: Layers = None) -> dict[str, nn.Module]:
    """The layers of `model` that `layers` selects, by name, in the order of the model.

    layers: None (every normalization layer), a name, a pattern with ``*``, ``?`` or ``[``, a module type, a predicate
        ``(name, module) -> bool``, or a sequence of these.

    Raises InputError where a selector matches nothing, with the nearest names.
    """
    found = named_layers(model)
    if layers is None:
        matched = {name for name, module in found.items() if is_normalization(name, module)}
        if not matched:
            raise InputError(
                f"layers must be given for a {type(unwrap(model)).__name__}, which has no normalization layer; "
                f"its layers are {_listed(list(found))}"
            )
    else:
        selectors = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
        if not selectors:
            fail("layers", "select at least one layer", layers)
        matched = {name for selector in selectors for name in _matches(selector, found)}
    return {name: module for name, module in found.items() if name in matched}


def named_in_full(layers: Layers) -> set[str]:
    """The selectors of `layers` that are names or patterns: what a caller asked for by name must run."""
    selectors = [layers] if isinstance(layers, str) else layers if isinstance(layers, Sequence) else []
    return {selector for selector in selectors if isinstance(selector, str)}


def nearest_to(name: str, names: Iterable[str]) -> str:
    """Which of `names` are near to `name`, or else which there are, in words."""
    close = difflib.get_close_matches(name, list(names), n=5, cutoff=0.5)
    return f"the nearest are {', '.join(map(repr, close))}" if close else f"there are {_listed(list(names))}"


def channel_axis_of(module: nn.Module, ndim: int) -> int | None:
    """1 for convolutions, batch and group norms, -1 for linear layers, layer norms and attention over tokens, None if
    unknown. `ndim` is the number of axes of the module's values.
    """
    for kind in type(module).__mro__:  # so that a subclass with a name of its own is what its base is
        if _CHANNELS_SECOND.search(kind.__name__):
            return 1
        if _CHANNELS_LAST.search(kind.__name__) or (ndim == 3 and _ATTENTION.search(kind.__name__)):
            return -1
    return None


def _matches(selector: Selector, found: dict[str, nn.Module]) -> list[str]:
    if isinstance(selector, str):
        if selector in found:
            return [selector]
        names = fnmatch.filter(found, selector) if any(sign in selector for sign in "*?[") else []
        if not names and selector and (first := _first_name(selector, found)):
            raise InputError(f"layers must name a shared module by the first of its names, {first!r}, got {selector!r}")
        if not names:
            near = nearest_to(selector.strip("*?"), found)
            raise InputError(f"layers must match layers of the model, got {selector!r}, which matches none: {near}")
        # A pattern takes in lists and dicts of modules, which hold layers and are never called themselves.
        return [name for name in names if type(found[name]).forward is not nn.Module.forward] or names
    if isinstance(selector, type):
        if not issubclass(selector, nn.Module):
            fail("layers", "hold names, patterns, module types or predicates", selector)
        names = [name for name, module in found.items() if isinstance(module, selector)]
        if not names:
            kinds = sorted({type(module).__name__ for module in found.values()})
            raise InputError(
                f"layers must match layers of the model, got {selector.__name__}, which matches none: "
                f"there are {', '.join(kinds)}"
            )
        return names
    if callable(selector):
        names = [name for name, module in found.items() if selector(name, module)]
        if not names:
            raise InputError(
                f"layers must match layers of the model, got {shown(selector)}, which matches none of "
                f"{_listed(list(found))}"
            )
        return names
    return fail("layers", "hold names, patterns, module types or predicates", selector)


def _first_name(other: str, found: dict[str, nn.Module]) -> str | None:
    """The name in `found` of the module that the model also holds as `other`."""
    held = dict(next(iter(found.values())).named_modules(remove_duplicate=False))
    return next((name for name, module in found.items() if module is held.get(other)), None)


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
