"""Hooks that gather what layers put out, or are given, while a probe runs through a model batch by batch."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from icsbound import _check
from icsbound._check import InputError
from icsbound.measure import views
from icsbound.measure.layers import channel_axis_of
from icsbound.measure.store import Store

if TYPE_CHECKING:
    from icsbound.measure.capture import Settings


@dataclass(frozen=True)
class Snapshot:
    """The clouds (n, d) by layer and view; by layer its module and its number of positions L (None if unknown)."""

    clouds: dict[tuple[str, str], torch.Tensor]
    modules: dict[str, nn.Module]
    positions: dict[str, int | None]


class NeverRan(InputError):
    """A layer that was asked for did not run on the probe, or no layer did."""


class Collector:
    """Takes the clouds of `modules` in each of the `wanted` views: for every batch `begin`, one forward pass, `end`.

    Of the layers that never run, one that is `required` raises NeverRan after the first batch.
    """

    def __init__(
        self, modules: dict[str, nn.Module], wanted: Sequence[str], settings: Settings, n: int, required: set[str]
    ) -> None:
        self._modules, self._wanted, self._settings, self._n = modules, wanted, settings, n
        self._required = required
        self._store = Store(n, settings.dtype, settings.memory, settings.spill)
        self._positions: dict[str, int | None] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """A block in which the hooks are on the modules."""
        with ExitStack() as stack:
            for name, module in self._modules.items():
                if self._settings.side == "outputs":
                    hook = module.register_forward_hook(self._output_hook(name))
                else:
                    hook = module.register_forward_pre_hook(self._input_hook(name), with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def begin(self, rows: slice) -> None:
        """Expect the forward pass of these rows of the probe."""
        self._rows = rows
        self._calls: Counter[str] = Counter()

    def end(self) -> None:
        """The forward pass is over: every layer must have run as often as in the first."""
        if self._rows.start == 0:
            self._expected = self._calls
            idle, said = self._idle()
            if len(idle) == len(self._modules) or self._required & set(idle):
                raise NeverRan(f"layers must run on the probe; {said}")
            self._store.end_first_batch(self._rows)
        for name in self._modules:
            if self._calls[name] != self._expected[name]:
                raise InputError(
                    f"layers must run equally often in every batch of the probe, but {name!r} ran "
                    f"{self._expected[name]} times in the first and {self._calls[name]} times in the batch of inputs "
                    f"{self._rows.start} to {self._rows.stop - 1}"
                )

    def _idle(self) -> tuple[list[str], str]:
        """The layers that did not run, and a sentence about them."""
        idle = [name for name in self._modules if not self._expected[name]]
        return idle, (
            f"{'layer' if len(idle) == 1 else 'layers'} {', '.join(map(repr, idle))} never ran on the probe: "
            "the model skips it there, or uses its parameters without calling it"
        )

    def result(self) -> Snapshot:
        """All clouds, checked to be finite. Warns where a layer never ran."""
        calls = self._expected
        idle, said = self._idle()
        if idle:
            warnings.warn(f"{said}; it is left out", stacklevel=4)
        clouds = {}
        modules: dict[str, nn.Module] = {}
        positions: dict[str, int | None] = {}
        order = list(self._modules)
        for (layer, call, view), cloud in sorted(self._store.clouds.items(), key=lambda item: order.index(item[0][0])):
            label = layer if calls[layer] == 1 else f"{layer}#{call}"
            clouds[label, view] = self._finite(layer, call, view, cloud)
            modules[label], positions[label] = self._modules[layer], self._positions[layer]
        return Snapshot(clouds, modules, positions)

    def _output_hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._take(name, module, output)

        return hook

    def _input_hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._take(name, module, args if _first_tensor(args) is not None else kwargs)

        return hook

    def _take(self, name: str, module: nn.Module, values: Any) -> None:
        settings, call = self._settings, self._calls[name]
        self._calls[name] += 1
        x = _first_tensor(values)
        if x is None or x.dtype not in _check.FLOATS:
            kind = type(values).__name__ if x is None else f"a tensor of dtype {str(x.dtype).removeprefix('torch.')}"
            right = "a tensor of dtype float16, bfloat16, float32 or float64"
            raise InputError(f"{self._named(name, call)} must hold {right} to be measured, got {kind}")
        if x.is_nested or x.layout != torch.strided:
            kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.")
            raise InputError(f"{self._named(name, call)} must be dense to be measured, got a {kind} tensor")
        size, axis = self._rows.stop - self._rows.start, settings.sample_axis
        if not -x.ndim <= axis < x.ndim or x.shape[axis] != size:
            raise InputError(
                f"sample_axis must be the axis of the {size} inputs in the values of layer {name!r}, which have shape "
                f"{tuple(x.shape)}, got {axis}"
            )
        if x.numel() == 0:
            raise InputError(f"{self._named(name, call)} must hold values, got a tensor of shape {tuple(x.shape)}")
        x = x.detach().movedim(axis, 0)
        channels = settings.channel_axis if settings.channel_axis is not None else channel_axis_of(module, x.ndim)
        self._positions[name] = views.positions(x, channels)
        for view in self._wanted:
            part = views.cloud(x, view, channels, name, self._rows, self._n, settings.dimension, settings.seed)
            # Copied at once: what follows in the model may write into its input (ReLU in place).
            self._store.write((name, call, view), self._rows, part, self._named(name, call))

    def _finite(self, layer: str, call: int, view: str, cloud: torch.Tensor) -> torch.Tensor:
        kept = cloud.dtype
        hint = ", or beyond the range of dtype float16" if kept == self._settings.dtype == torch.float16 else ""
        return _check.finite_rows(f"{self._named(layer, call)} (view {view!r}{hint})", cloud)

    def _named(self, layer: str, call: int) -> str:
        return f"{self._settings.side} of layer {layer!r}" + (f" in its call {call + 1}" if call else "")


def _first_tensor(values: Any) -> torch.Tensor | None:
    """The first tensor in `values`, looked for in tuples, lists, mappings and dataclasses, depth first."""
    if isinstance(values, torch.Tensor):
        return values
    if dataclasses.is_dataclass(values) and not isinstance(values, Mapping):
        values = vars(values)
    inner = values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple | list) else ()
    return next((found for value in inner if (found := _first_tensor(value)) is not None), None)
