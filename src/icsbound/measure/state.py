"""Running a model without leaving a trace: whatever the run changes is put back, also when the run raises."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

_ABSENT = object()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """A block after which `model` and torch are as they were before it.

    Put back: the attributes of every submodule (training mode, hooks), what lists, dictionaries, sets and queues held
    directly hold, the contents of buffers and of other tensors and arrays there that are not parameters, of parameters
    whether they need gradients and which they have, every random state (torch on all devices, generators held by the
    model, NumPy, Python), autocast, and the switches set here for the block: gradients off;
    compiled code run as plain Python, so that hooks see every layer and nothing is compiled anew; fused transformer
    kernels off, which would pass over the layers inside and hand on nested tensors; the cache of autocast off, which
    would still hold the weights as they were before an optimizer's step in the same autocast block.
    """
    modules = [_Module(module) for module in model.modules()]
    with ExitStack() as stack:
        stack.enter_context(_random_states(model))
        for module in modules:
            stack.callback(module.restore)
        stack.enter_context(_switches())
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # else nothing was compiled, and the import would cost a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


class _Module:
    """What one module itself holds: attributes, containers one level deep, copies of tensors other than parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.attributes = vars(module)
        self.saved = dict(self.attributes)
        values = list(self.saved.values())
        self.dicts = [(held, dict(held)) for held in values if isinstance(held, dict)]
        self.others = [(held, list(held)) for held in values if isinstance(held, list | set | deque)]
        inside = [*values, *(z for held in values if isinstance(held, list | tuple | deque) for z in held)]
        inside += [z for held, _ in self.dicts for z in held.values()]
        self.tensors = [
            (held, held.detach().clone())
            for held in inside
            if isinstance(held, torch.Tensor) and not isinstance(held, nn.Parameter)
        ]
        self.arrays = [(held, held.copy()) for held in inside if isinstance(held, np.ndarray)]
        self.parameters = [(p, p.requires_grad, p.grad) for p in module._parameters.values() if p is not None]

    def restore(self) -> None:
        for mapping, saved in [(self.attributes, self.saved), *self.dicts]:
            _restore(mapping, saved)
        for held, content in self.others:
            held.clear()
            (held.update if isinstance(held, set) else held.extend)(content)
        for tensor, values in self.tensors:
            tensor.data.copy_(values)  # through .data: autograd's version counter stays where it is
        for array, values in self.arrays:
            array[...] = values
        for parameter, needed, gradient in self.parameters:
            if parameter.requires_grad != needed:
                parameter.requires_grad_(needed)
            if parameter.grad is not gradient:
                parameter.grad = gradient


def _restore(mapping: MutableMapping[Any, Any], saved: dict[Any, Any]) -> None:
    for key in [key for key in mapping if key not in saved]:
        del mapping[key]
    for key, value in saved.items():
        if mapping.get(key, _ABSENT) is not value:
            mapping[key] = value


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    generators = [torch.default_generator]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators += torch.cuda.default_generators
    held = [value for module in model.modules() for value in vars(module).values()]
    generators += [value for value in held if isinstance(value, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    arrays = [
        (value.bit_generator, value.bit_generator.state) for value in held if isinstance(value, np.random.Generator)
    ]
    plain = [(value, value.getstate()) for value in held if isinstance(value, random.Random)]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (the global state is what models use)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        for bits, drawn in arrays:
            bits.state = drawn
        for one, before in plain:
            one.setstate(before)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _switches() -> Iterator[None]:
    devices = ("cpu", "cuda", "mps")
    autocast = [(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices]
    cached, fast = torch.is_autocast_cache_enabled(), torch.backends.mha.get_fastpath_enabled()
    torch.set_autocast_cache_enabled(False)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        for device, enabled, dtype in autocast:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(cached)
        torch.backends.mha.set_fastpath_enabled(fast)
