"""Time the layer against `nn.BatchNorm` and others on this machine's CPU: a table, and JSON with every figure.

    python benchmarks/layer.py                     # float32, all shapes, both memory layouts
    python benchmarks/layer.py --quick --shapes 128x64x8x8 --json layer.json

Every round runs all candidates once, in random order; a ratio is taken within its round, and its median and quartiles
over the rounds are reported, so that a machine whose speed drifts harms all alike. The time to copy a tensor of the
same size is measured in the same rounds: training moves 8 such passes at least (read x, read x, write y; read x and dy,
read x and dy, write dx), the time of 4 copies. Nothing else should run on the cores meanwhile; the load is recorded.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from timing import peak_bytes, processor, start_with_allocator_settings, taken_in_turn
from torch import Tensor, nn
from torch.nn import functional as F

from icsbound import _native
from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, UnitizedBatchNorm3d, reference
from icsbound.norm.kernels import cpu

SHAPES = [
    (128, 16, 32, 32),
    (128, 32, 16, 16),
    (128, 64, 8, 8),
    (128, 64, 32, 32),
    (32, 64, 56, 56),
    (32, 256, 14, 14),
    (32, 512, 7, 7),
    (16, 256, 56, 56),
    (64, 96, 7, 7),
    (256, 1024),
    (4, 32, 16, 32, 32),
    (2, 64, 112, 112),
]
BATCH_NORM = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
UNITIZED = {2: UnitizedBatchNorm1d, 4: UnitizedBatchNorm2d, 5: UnitizedBatchNorm3d}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclasses.dataclass
class Row:
    """One candidate on one problem. Times in seconds; `ratio` is to `nn.BatchNorm`, in the same round."""

    shape: str
    layout: str
    dtype: str
    relu: bool
    mode: str  # "train" (forward and backward) or "eval" (forward without gradients)
    name: str
    rounds: int
    fastest: float
    median: float
    ratio: float
    ratio_low: float  # quartiles
    ratio_high: float
    copies: float  # median time in copies of one tensor of this size
    peak_bytes: int  # most memory that a step held beyond its inputs, as torch's allocator saw it


class Composite(nn.Module):
    """The definition of the layer, differentiated by autograd."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    def forward(self, x: Tensor) -> Tensor:
        m = self.layer
        stored = None if self.training else (m.running_mean, m.running_var)
        return reference.unitize(x, m.weight, m.bias, m.alpha, stored, m.settings)


class OverAten(nn.Module):
    """The layer without its native kernels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        usable, cpu.usable = cpu.usable, lambda _: False  # type: ignore[assignment]
        try:
            return self.layer(x)
        finally:
            cpu.usable = usable


class ThenReLU(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x))


def candidates(shape: tuple[int, ...], relu: bool, compiled: bool, others: bool) -> dict[str, nn.Module]:
    """All that is timed on this shape; the first is what the others are compared with."""
    C = shape[1]

    def plain(layer: nn.Module) -> nn.Module:
        return ThenReLU(layer) if relu else layer

    def ours(**settings: Any) -> nn.Module:
        return UNITIZED[len(shape)](C, activation="relu" if relu else None, **settings)

    found = {"batch norm": plain(BATCH_NORM[len(shape)](C)), "ours": ours(), "ours, position": ours(scope="position")}
    if compiled:
        found["batch norm, compiled"] = torch.compile(plain(BATCH_NORM[len(shape)](C)))  # type: ignore[assignment]
    if others:
        found["group norm (1)"] = plain(nn.GroupNorm(1, C))
        found["ours over aten"] = OverAten(ours())
        found["composite"] = Composite(ours())
    return found


def arranged(t: Tensor, layout: str) -> Tensor:
    return t.contiguous(memory_format=LAST[t.ndim]) if layout == "channels_last" else t


def steps(layers: dict[str, nn.Module], x: Tensor, dy: Tensor, mode: str) -> dict[str, Callable[[], object]]:
    def train(layer: nn.Module) -> Callable[[], object]:
        def step() -> None:
            layer(x).backward(dy)
            x.grad = None

        return step

    def evaluate(layer: nn.Module) -> Callable[[], object]:
        def step() -> Tensor:
            with torch.no_grad():
                return layer(x)

        return step

    target = torch.empty_like(dy)
    for layer in layers.values():
        layer.train(mode == "train")
    found = {name: (train if mode == "train" else evaluate)(layer) for name, layer in layers.items()}
    return {**found, "copy": lambda: target.copy_(dy)}


def measure(
    shape: tuple[int, ...],
    layout: str,
    dtype: torch.dtype,
    relu: bool,
    mode: str,
    layers: dict[str, nn.Module],
    seconds: float,
) -> Iterator[Row]:
    g = torch.Generator().manual_seed(0)
    x, dy = (arranged(torch.randn(shape, generator=g).to(dtype), layout) for _ in range(2))
    todo = steps(layers, x.requires_grad_(mode == "train"), dy, mode)
    peaks = {name: peak_bytes(step) for name, step in todo.items()}
    for step in todo.values():
        step()
    times = taken_in_turn(todo, seconds)
    base, copy = times[next(iter(layers))], times["copy"]
    for name, taken in times.items():
        low, ratio, high = statistics.quantiles((t / b for t, b in zip(taken, base, strict=True)), n=4)
        yield Row(
            "x".join(map(str, shape)),
            layout,
            str(dtype).removeprefix("torch."),
            relu,
            mode,
            name,
            len(taken),
            min(taken),
            statistics.median(taken),
            ratio,
            low,
            high,
            statistics.median(t / c for t, c in zip(taken, copy, strict=True)),
            peaks[name],
        )


HEADER = (
    f"{'shape':18} {'layout':14} {'dtype':9} {'relu':5} {'mode':6} {'layer':21} "
    f"{'best µs':>9} {'median µs':>10} {'ratio':>6} {'quartiles':>12} {'copies':>7} {'peak MB':>8}"
)


def line(r: Row) -> str:
    return (
        f"{r.shape:18} {r.layout:14} {r.dtype:9} {'yes' if r.relu else 'no':5} {r.mode:6} {r.name:21} "
        f"{r.fastest * 1e6:9.0f} {r.median * 1e6:10.0f} {r.ratio:6.2f} {r.ratio_low:5.2f}-{r.ratio_high:<6.2f} "
        f"{r.copies:7.2f} {r.peak_bytes / 1e6:8.1f}"
    )


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def summary(rows: list[Row]) -> list[str]:
    """Geometric mean and largest ratio to batch norm, group by group."""
    lines = []
    groups = sorted({(r.dtype, r.mode, r.relu, r.layout, r.name) for r in rows if r.name.startswith("ours")})
    for dtype, mode, relu, layout, name in groups:
        group = [r for r in rows if (r.dtype, r.mode, r.relu, r.layout, r.name) == (dtype, mode, relu, layout, name)]
        worst = max(group, key=lambda r: r.ratio)
        lines.append(
            f"{name:15} {dtype:9} {mode:6} {'with relu' if relu else 'no relu':9} {layout:14} "
            f"geometric mean {geometric_mean([r.ratio for r in group]):.2f}, worst {worst.ratio:.2f} at {worst.shape}"
        )
    return lines


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help="such as 128x64x8x8; all by default")
    dtypes = ["float32", "float64", "bfloat16", "float16"]
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=dtypes)
    layouts = ["contiguous", "channels_last"]
    parser.add_argument("--layouts", nargs="+", default=layouts, choices=layouts)
    parser.add_argument("--modes", nargs="+", default=["train", "eval"], choices=["train", "eval"])
    parser.add_argument("--relu", nargs="+", default=["no", "yes"], choices=["no", "yes"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=4.0, help="for each problem, all candidates together")
    parser.add_argument("--others", action="store_true", help="also group norm, the layer over aten, the composite")
    parser.add_argument("--compile", action="store_true", help="also batch norm under torch.compile")
    parser.add_argument("--quick", action="store_true", help="half a second each")
    parser.add_argument("--json", type=Path, help="where every figure goes")
    arguments = parser.parse_args(words)
    known = {"x".join(map(str, shape)): shape for shape in SHAPES}
    for shape in arguments.shapes or ():
        if shape not in known:
            parser.error(f"argument --shapes: must be among {', '.join(known)}, got {shape}")
    arguments.shapes = [shape for name, shape in known.items() if name in (arguments.shapes or known)]
    return arguments


def main() -> None:
    arguments = parsed()
    start_with_allocator_settings()
    torch.set_num_threads(arguments.threads)
    seconds = 0.5 if arguments.quick else arguments.seconds

    about = {
        "processor": processor(),
        "threads": arguments.threads,
        "seconds": seconds,
        "torch": torch.__version__,
        "simd": _native.simd(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "load_before": os.getloadavg(),
    }
    print(about, HEADER, sep="\n")
    rows: list[Row] = []
    for dtype in arguments.dtypes:
        for shape in arguments.shapes:
            for layout in arguments.layouts if len(shape) > 2 else ["contiguous"]:  # dense input has one layout
                for relu in (r == "yes" for r in arguments.relu):
                    layers = candidates(shape, relu, arguments.compile, arguments.others)
                    for mode in arguments.modes:
                        for row in measure(shape, layout, getattr(torch, dtype), relu, mode, layers, seconds):
                            rows.append(row)
                            print(line(row), flush=True)
    print(*summary(rows), sep="\n")
    about["load_after"] = os.getloadavg()
    print("load", about["load_before"], "before,", about["load_after"], "after")
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about, "rows": [dataclasses.asdict(r) for r in rows]}, indent=1))


if __name__ == "__main__":
    main()
