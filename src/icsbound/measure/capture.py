"""What chosen layers of a model put out on a fixed probe, as clouds of vectors, without a trace left in the model."""

from __future__ import annotations

import dataclasses
import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from icsbound import _check
from icsbound._check import InputError
from icsbound.measure import laws, views
from icsbound.measure.collector import Collector, Snapshot
from icsbound.measure.layers import Layers, choose, named_in_full, unwrap
from icsbound.measure.state import untouched
from icsbound.measure.store import refuse_too_much

FEW = 2  # inputs that tell the width of every cloud; of one, batch norm could have no statistics

Probe: TypeAlias = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a cloud is taken: the keyword arguments of `capture`, which documents them, other than the view."""

    side: str = "outputs"
    law: str = "eval"
    batch_size: int = 256
    statistics: Probe | None = None
    channel_axis: int | None = None
    sample_axis: int = 0
    dimension: int = 64
    seed: int = 0
    dtype: torch.dtype | None = None
    memory: int | None = None
    spill: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        _check.one_of("side", self.side, ("outputs", "inputs"))
        _check.one_of("law", self.law, laws.LAWS)
        _check.positive_int("batch_size", self.batch_size)
        _check.positive_int("dimension", self.dimension)
        _check.positive_int("seed", self.seed, least=0)
        for name, axis in (("sample_axis", self.sample_axis), ("channel_axis", self.channel_axis or 0)):
            if not isinstance(axis, int):
                _check.fail(name, "be the number of an axis", axis)
        if self.memory is not None:
            _check.positive_int("memory", self.memory)
        if (self.law == "frozen") != (self.statistics is not None):
            _check.fail(
                "statistics",
                "be the batch of inputs whose statistics law 'frozen' holds fixed (and None under other laws)",
                self.statistics,
            )


def capture(
    model: nn.Module,
    probe: Probe,
    layers: Layers = None,
    *,
    side: str = "outputs",
    view: str = "sample",
    law: str = "eval",
    batch_size: int = 256,
    statistics: Probe | None = None,
    channel_axis: int | None = None,
    sample_axis: int = 0,
    dimension: int = 64,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    memory: int | None = None,
    spill: str | os.PathLike[str] | None = None,
) -> dict[str, torch.Tensor]:
    """The cloud of every chosen layer on `probe`: by layer a tensor (n, d), row i from input i, in the layer's units.

    The model is left as it was: modes, buffers, random states, gradients, hooks (see `icsbound.measure.state`),
    whether it was compiled by `torch.compile` before or is after. A layer that runs several times in one forward
    pass gives ``name#0``, ``name#1`` ...; of a tuple or dictionary the first tensor counts. The surrounding autocast
    applies.

    model: any module; under data-parallel training every rank may call this alone, and has the clouds of its own
        probe then (`icsbound.ICSMonitor` can gather those of all ranks).
    probe: n inputs, on axis 0 of a tensor, of each tensor of a sequence (positional arguments), or of a mapping
        (keyword arguments; what is no tensor is passed as it is).
    layers: None (every normalization layer), a name, a pattern, a module type, a predicate ``(name, module) ->
        bool``, or a sequence of these. A layer named in full that does not run raises InputError, one found
        otherwise is left out with a warning.
    side: "outputs", or "inputs": the first tensor that the layer is given.
    view: "sample" (flattened, d = C * L), "pooled" (mean over the L positions, d = C), "position" (one random
        position an input, d = C) or "projection" (onto `dimension` random orthonormal directions); `seed` fixes both
        draws.
    law: which statistics batch norms use: "eval" (running), "train" (those of each batch of the probe) or "frozen"
        (those of the batch `statistics`, inputs of the form of `probe`). Dropout is off under every law.
    batch_size: the probe runs in batches of nearly equal size, none larger than this.
    channel_axis: where the channels are; None: 1 for convolutions, batch, group and instance norms, -1 for linear
        layers, layer and RMS norms, embeddings and attention over tokens (by the end of its class's name). Not needed
        for views "sample" and "projection".
    sample_axis: where the layers have the sample (1 for transformers with the sequence first).
    dtype: how clouds are kept: a float dtype, or None: as the layer gives them (means in float32 at least).
    memory: the most bytes that all clouds together may take; what would be more raises InputError before the probe
        runs: two of its inputs tell how large the clouds are. (Where the model does not run on two, the first batch
        tells, before it holds more than the limit.)
    spill: a folder whose unnamed files take the clouds beyond `memory` (all of them where `memory` is None); the rows
        of the first batch are held in memory until it ends.

    Raises InputError for what cannot be measured (named), and RuntimeError, with the rows at hand, where the model
    raises.
    """
    settings = Settings(
        side=side,
        law=law,
        batch_size=batch_size,
        statistics=statistics,
        channel_axis=channel_axis,
        sample_axis=sample_axis,
        dimension=dimension,
        seed=seed,
        dtype=dtype,
        memory=memory,
        spill=spill,
    )
    taken = snapshot(model, probe, layers, (view,), settings)
    return {layer: cloud for (layer, _), cloud in taken.clouds.items()}


def snapshot(model: nn.Module, probe: Probe, layers: Layers, wanted: Sequence[str], settings: Settings) -> Snapshot:
    """What `capture` gives, in each of the `wanted` views from one pass over the probe."""
    n, chosen = prepare(model, probe, layers, wanted, settings)
    model = unwrap(model)
    collector = Collector(chosen, wanted, settings, n, required=named_in_full(layers))
    with untouched(model):
        if settings.statistics is not None:
            laws.apply_law(model, "eval")
            laws.prepare_draw(model)
            _run(model, _sliced(settings.statistics, slice(None)), "the inputs that give the statistics")
        laws.apply_law(model, settings.law)
        with collector.attached():
            for rows in _batches(n, settings.batch_size):
                collector.begin(rows)
                _run(model, _sliced(probe, rows), f"inputs {rows.start} to {rows.stop - 1} of the probe")
                collector.end()
    return collector.result()


def prepare(
    model: nn.Module, probe: Probe, layers: Layers, wanted: Sequence[str], settings: Settings
) -> tuple[int, dict[str, nn.Module]]:
    """The size of the probe and the chosen layers; raises InputError for all that can be named before work starts."""
    if not isinstance(model, nn.Module):
        _check.fail("model", "be a torch.nn.Module", model)
    if not wanted:
        _check.fail("views", "name at least one view", wanted)
    for view in wanted:
        _check.one_of("view", view, views.VIEWS)
    model = unwrap(model)
    if any(nn.parameter.is_lazy(held) for held in [*model.parameters(), *model.buffers()]):
        raise InputError("model must have its parameters: run one forward pass first, which gives lazy modules theirs")
    laws.check_law(model, settings.law)
    chosen = choose(model, layers)
    if settings.statistics is not None:
        _size("statistics", settings.statistics, model)
    n = _size("probe", probe, model)
    if settings.memory is not None and settings.spill is None:
        few = trial(model, probe, layers, wanted, settings)
        refuse_too_much({} if few is None else {k: n * c[0].nbytes for k, c in few.clouds.items()}, n, settings.memory)
    return n, chosen


def trial(model: nn.Module, probe: Probe, layers: Layers, wanted: Sequence[str], settings: Settings) -> Snapshot | None:
    """What `snapshot` gives for the first inputs of the probe alone, which tells the width of every cloud.

    None where that cannot be had, such as for a model that runs on batches of one size: the pass itself then tells.
    """
    law = "eval" if settings.law == "frozen" else settings.law  # which changes no width, and takes no other inputs
    few = dataclasses.replace(settings, law=law, statistics=None, memory=None, spill=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all is said again where all inputs run
        try:
            return snapshot(model, _sliced(probe, slice(0, FEW)), layers, wanted, few)
        except (InputError, RuntimeError):  # nor is a layer idle for all inputs that is for these, such as an expert's
            return None


def _run(model: nn.Module, batch: Probe, what: str) -> None:
    try:
        if isinstance(batch, torch.Tensor):
            model(batch)
        elif isinstance(batch, Mapping):
            model(**batch)
        else:
            model(*batch)
    except InputError:
        raise
    except Exception as error:
        raise RuntimeError(f"the model raised {type(error).__name__} on {what}: {error}") from error


def _tensors(argument: str, probe: Probe) -> dict[str, torch.Tensor]:
    """The tensors that `probe` holds, by what a message calls them."""
    if isinstance(probe, torch.Tensor):
        return {argument: probe}
    held = probe.items() if isinstance(probe, Mapping) else enumerate(probe)
    return {f"{argument}[{key!r}]": value for key, value in held if isinstance(value, torch.Tensor)}


def _size(argument: str, probe: Probe, model: nn.Module) -> int:
    """The number of inputs in `probe`; raises InputError if it has none, or lies on another device than the model."""
    usable = isinstance(probe, torch.Tensor | Sequence | Mapping) and not isinstance(probe, str)
    tensors = _tensors(argument, probe) if usable else {}
    if not tensors:
        _check.fail(argument, "be a tensor, a sequence of tensors or a mapping that holds tensors", probe)
    sizes = sorted({len(tensor) if tensor.ndim else 0 for tensor in tensors.values()})
    if len(sizes) != 1 or sizes[0] == 0:
        shapes = [tensor.shape for tensor in tensors.values()]
        _check.fail(argument, "hold tensors of one length of at least 1 (inputs on axis 0)", shapes)
    devices = {parameter.device for parameter in [*model.parameters(), *model.buffers()]}
    for name, tensor in tensors.items():
        if len(devices) == 1 and tensor.device not in devices:
            raise InputError(f"{name} must be on {devices.pop()}, where the model is, got a tensor on {tensor.device}")
        if tensor.dtype in _check.FLOATS:
            _check.finite_rows(name, tensor)
    return sizes[0]


def _batches(n: int, batch_size: int) -> list[slice]:
    """The fewest batches of at most `batch_size` rows whose sizes differ by no more than one, so that no batch of a
    few rows has statistics far noisier than the others."""
    count = -(-n // batch_size)
    edges = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _sliced(probe: Probe, rows: slice) -> Probe:
    """The `rows` of every tensor of the probe, copied: a model may write into what it is given."""
    if isinstance(probe, torch.Tensor):
        return probe[rows].clone()
    if isinstance(probe, Mapping):
        return {key: _sliced(value, rows) if isinstance(value, torch.Tensor) else value for key, value in probe.items()}
    return [_sliced(value, rows) if isinstance(value, torch.Tensor) else value for value in probe]  # type: ignore[misc]
