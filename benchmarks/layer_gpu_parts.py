"""What `layer_gpu` times: the candidates of each part, the buffers that they go round through, and the CUDA graphs."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from layer import ThenReLU, arranged
from torch import Tensor, nn
from torch.nn import functional as F

from icsbound.norm import UnitizedBatchNorm2d
from icsbound.norm.kernels import triton_primitives as primitives
from icsbound.training.resnet import NETWORKS, ResNet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LARGE = 8e6  # bytes of a tensor from which on launches no longer count
GOAL_OF_PASSES = {"float32": 0.95, "bfloat16": 0.90, "float16": 0.90}
GOAL_OF_NETWORK = 1.05

Call = Callable[[], object]
Timer = Callable[[Mapping[str, Sequence[Call]], int], dict[str, list[float]]]


@dataclasses.dataclass
class Row:
    """One candidate on one problem. Seconds are those of one call; `ratio` is what `goal` is about."""

    part: str
    name: str
    shape: str
    layout: str
    dtype: str
    seconds: float
    ratio: float
    goal: float | None  # None: shown only
    bytes: int | None = None  # that have to be moved at least

    @property
    def reached(self) -> float | None:
        """The share of the goal that is reached: 1 or more where it is met."""
        if self.goal is None:
            return None
        return self.ratio / self.goal if self.part == "passes" else self.goal / self.ratio

    @property
    def met(self) -> bool | None:
        return None if self.reached is None else self.reached >= 1


def in_graphs(candidates: Mapping[str, Sequence[Call]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call, `rounds` times for each candidate, in random order within a round.

    A candidate is one call for each set of buffers; its CUDA graph holds all of them, several times over.
    """
    graphs = {}
    for name, calls in candidates.items():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles kernels, which a capture cannot
            for _ in range(3):
                for call in calls:
                    call()
        torch.cuda.current_stream().wait_stream(side)
        repeats = max(1, 50 // len(calls))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                for call in calls:
                    call()
        graph.replay()
        graphs[name] = graph, repeats * len(calls)
    times: dict[str, list[float]] = {name: [] for name in graphs}
    names, order = list(graphs), random.Random(0)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            graph, count = graphs[name]
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / 1e3 / count)
    return times


def sets_of_buffers(tensor_bytes: int, tensors: int, cache_bytes: int) -> int:
    """How many sets of that many tensors fill the cache three times over."""
    return max(2, math.ceil(3 * cache_bytes / (tensor_bytes * tensors)))


def tensors(shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str, count: int) -> list[Tensor]:
    return [arranged(torch.randn(shape, device=device).to(dtype), layout) for _ in range(count)]


def passes(shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str, sets: int) -> dict[str, list[Call]]:
    """The row primitives and `torch.clone`, one call for each set of buffers."""
    N, C = shape[:2]
    found: dict[str, list[Call]] = {"clone": [], "moments": [], "affine": [], "dots": [], "affine2": []}
    K, (a, b, c) = torch.randn(C, device=device), torch.randn(3, N, C, device=device)
    for _ in range(sets):
        x, dy = tensors(shape, dtype, layout, device, 2)
        found["clone"].append(partial(torch.clone, x))
        found["moments"].append(partial(primitives.group_moments, x, K))
        found["affine"].append(partial(primitives.row_affine, x, K, a, b, relu=True))
        found["dots"].append(partial(primitives.group_dots, dy, x, K))
        found["affine2"].append(partial(primitives.row_affine2, dy, x, K, a, b, c))
    return found


TENSORS_MOVED = {"clone": 2, "moments": 1, "affine": 2, "dots": 2, "affine2": 3}


def rows_of_passes(
    shape: tuple[int, ...], dtype: str, layout: str, device: str, cache_bytes: int, timer: Timer, rounds: int
) -> Iterator[Row]:
    size = math.prod(shape) * DTYPES[dtype].itemsize
    candidates = passes(shape, DTYPES[dtype], layout, device, sets_of_buffers(size, 2, cache_bytes))
    seconds = {name: statistics.median(taken) for name, taken in timer(candidates, rounds).items()}
    copied = TENSORS_MOVED["clone"] * size / seconds["clone"]
    for name, taken in seconds.items():
        moved = TENSORS_MOVED[name] * size
        goal = None if name == "clone" or size < LARGE else GOAL_OF_PASSES[dtype]
        yield Row("passes", name, "x".join(map(str, shape)), layout, dtype, taken, moved / taken / copied, goal, moved)


def layers(C: int, device: str, compiled: bool) -> dict[str, nn.Module]:
    """What is timed; each candidate is compared with the batch norm that is run as it is."""
    found: dict[str, nn.Module] = {
        "batch norm": nn.BatchNorm2d(C),
        "ours": UnitizedBatchNorm2d(C),
        "ours, position": UnitizedBatchNorm2d(C, scope="position"),
        "batch norm, relu": ThenReLU(nn.BatchNorm2d(C)),
        "ours, relu": UnitizedBatchNorm2d(C, activation="relu"),
    }
    if compiled:
        for name in ("batch norm", "ours"):
            found[f"{name}, compiled"] = torch.compile(layers(C, device, False)[name])  # type: ignore[assignment]  # declared a function, is a module
    return {name: layer.to(device) for name, layer in found.items()}


def peer(name: str) -> str:
    """The batch norm that a candidate is compared with; position scope has none of its own."""
    return next("batch norm" + end for end in (", relu", ", compiled", "") if name.endswith(end))


def steps(layer: nn.Module, buffers: Sequence[tuple[Tensor, Tensor]]) -> list[Call]:
    parameters = list(layer.parameters())

    def step(x: Tensor, dy: Tensor) -> object:
        return torch.autograd.grad(layer(x), [x, *parameters], dy)

    return [partial(step, x, dy) for x, dy in buffers]


def rows_of_layers(
    shape: tuple[int, ...],
    dtype: str,
    layout: str,
    device: str,
    cache_bytes: int,
    timer: Timer,
    rounds: int,
    compiled: bool,
) -> Iterator[Row]:
    size = math.prod(shape) * DTYPES[dtype].itemsize
    buffers = []
    for _ in range(sets_of_buffers(size, 2, cache_bytes)):
        x, dy = tensors(shape, DTYPES[dtype], layout, device, 2)
        buffers.append((x.requires_grad_(), dy))
    found = layers(shape[1], device, compiled)
    times = timer({name: steps(layer, buffers) for name, layer in found.items()}, rounds)
    for name, taken in times.items():
        ratio = statistics.median(t / b for t, b in zip(taken, times[peer(name)], strict=True))
        goal = None if name == peer(name) or "position" in name else 1.0 if size > LARGE else 1.3
        yield Row(
            "layers", name, "x".join(map(str, shape)), layout, dtype, statistics.median(taken), ratio, goal, 8 * size
        )


def training_step(network: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype) -> Call:
    """One compiled step of SGD."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    compiled = torch.compile(network)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype):
            loss = F.cross_entropy(compiled(images).float(), labels)
        loss.backward()
        optimizer.step()

    return step


def rows_of_network(name: str, batch: int, side: int, device: str, rounds: int) -> Iterator[Row]:
    """Seconds of whole steps, the two networks in turn."""
    blocks, bottleneck = NETWORKS[name]
    images = arranged(torch.randn(batch, 3, side, side, device=device), "channels_last")
    labels = torch.randint(1000, (batch,), device=device)
    todo = {}
    for norm in (nn.BatchNorm2d, UnitizedBatchNorm2d):
        network = ResNet(blocks, 1000, norm=norm, bottleneck=bottleneck).to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not declare it
        todo["batch norm" if norm is nn.BatchNorm2d else "ours"] = training_step(
            network, images, labels, torch.bfloat16
        )
    times: dict[str, list[float]] = {kind: [] for kind in todo}
    for i in range(rounds + 3):
        for kind, step in todo.items():
            synchronize(device)
            began = time.perf_counter()
            step()
            synchronize(device)
            if i >= 3:  # the first compile
                times[kind].append(time.perf_counter() - began)
    for kind, taken in times.items():
        ratio = statistics.median(t / b for t, b in zip(taken, times["batch norm"], strict=True))
        goal = None if kind == "batch norm" else GOAL_OF_NETWORK
        seconds = statistics.median(taken)
        yield Row(
            "network", f"{name}, {kind}", f"{batch}x3x{side}x{side}", "channels_last", "bfloat16", seconds, ratio, goal
        )


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
