"""Weights from files, and networks and probes by name: whatever a measurement of finished networks starts from.

Files are data here: safetensors, or torch files read with ``weights_only=True``, which refuses every object but
tensors and plain values. Code comes from one place alone, the ``pkg.module:name`` that the user gives.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icsbound._check import InputError, fail
from icsbound.training import checkpoint

# Where training scripts keep the weights inside a file that holds more, in the order in which they are looked for.
_INSIDE = ("model", "state_dict", "model_state_dict", "net")
# What wrappers put in front of every name.
_WRAPPERS = ("module.", "_orig_mod.")
# What stands before a colon in the names of networks and data sets that are no functions.
_NO_MODULES = ("timm", "torchvision", "hub")
_OWN_CHECKPOINT = re.compile(r"step-\d{9}\.pt")


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors in the file at `path` by their names in the plain network, on the CPU.

    A name that ends in ``.safetensors`` is read as that, any other as a file of `torch.save` that holds a state or,
    under "model", "state_dict", "model_state_dict" or "net", has one inside. Raises InputError for any other content;
    code in the file is never run.
    """
    path = Path(path)
    if not path.is_file():
        fail("a checkpoint", "be a file of weights or the folder of a run", str(path))
    if path.suffix == ".safetensors":
        import safetensors.torch

        try:
            found: Any = safetensors.torch.load_file(path)
        except Exception as error:  # safetensors raises an exception of its own for a damaged file
            raise InputError(f"{path} is not a file of safetensors: {_first_line(error)}") from None
    elif _OWN_CHECKPOINT.fullmatch(path.name):
        found = checkpoint.load(path)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an unusual format, about which the error says enough
                found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises whatever a hostile file makes it meet
            # Torch's first line would have the reader try again and run what is in the file.
            met = re.search(r"[Uu]nsupported [^\n]*", str(error))
            reason = met[0] if met else f"{type(error).__name__}: {_first_line(error)}"
            raise InputError(
                f"{path} must hold tensors and plain values alone, and nothing in it was run: {reason}"
            ) from None
    for name in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    tensors = {n: v for n, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        inside = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise InputError(f"{path} must hold the tensors of a network by name, got {inside or 'nothing'}")
    return _unwrapped(tensors)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what data-parallel training and `torch.compile` put in front of them."""
    for prefix in _WRAPPERS * 2:  # either may be outside
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def digest(path: str | Path) -> str:
    """SHA-256 of the file at `path`."""
    with open(path, "rb") as file:
        sha = hashlib.sha256()
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def fill(model: nn.Module, state: dict[str, Tensor], where: str | Path) -> nn.Module:
    """`model` with the weights `state` of the file `where`, in evaluation mode.

    Where all floating-point tensors of the file have one dtype, the model takes it: a network that was saved in
    bfloat16 is also run in it. Otherwise the model keeps its own dtypes. Raises InputError where names or shapes do
    not fit.
    """
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(dtypes) == 1:
        model = model.to(dtypes.pop())
    own = model.state_dict()
    missing, unknown = [n for n in own if n not in state], [n for n in state if n not in own]
    other = [n for n, value in own.items() if n in state and state[n].shape != value.shape]
    for names, what in ((missing, "lacks"), (unknown, "holds the unknown"), (other, "has another shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            hint = f": {tuple(state[names[0]].shape)} for {tuple(own[names[0]].shape)}" if names is other else ""
            raise InputError(f"{where} must fit the network, but {what} {names[0]!r}{more}{hint}")
    model.load_state_dict(state)
    return model.eval()


def is_import(text: str) -> bool:
    """Whether `text` reads ``pkg.module:name`` (and not ``name:key=value``, nor a library's or the hub's name)."""
    return (
        text.partition(":")[0] not in _NO_MODULES and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text) is not None
    )


def imported(argument: str, text: str) -> Callable[..., Any]:
    """The callable that ``pkg.module:name`` stands for; modules in the working directory are found too.

    Raises InputError where there is none; what a module raises while it is imported passes through.
    """
    module_name, _, name = text.partition(":")
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not (module_name + ".").startswith(error.name + "."):
            raise  # a module that the user's own module needs
        fail(argument, "name a function as pkg.module:name", text, f": there is no module {error.name}")
    finally:
        sys.path.remove("")
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        fail(argument, "name a function as pkg.module:name", text, f": {module_name} has no function {name}")
    made: Callable[..., Any] = found
    return made


def called(argument: str, text: str, *values: Any) -> Any:
    """What the function that ``pkg.module:name`` stands for makes of `values`.

    Raises InputError where there is none, and where it takes other arguments; what it raises itself passes through.
    """
    function = imported(argument, text)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are not written in Python have none
        return function(*values)
    try:
        signature.bind(*values)
    except TypeError as error:
        takes = "one argument, a number of inputs" if values else "no argument"
        fail(argument, f"name a function that can be called with {takes}", text, f": {error}")
    return function(*values)
