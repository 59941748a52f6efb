"""Time the layer on an NVIDIA GPU: its passes against the bandwidth of `torch.clone`, itself against `nn.BatchNorm2d`.

    python benchmarks/layer_gpu.py                              # everything, some minutes
    python benchmarks/layer_gpu.py --parts passes --dtypes bfloat16 --json passes.json

passes    each row primitive: the bytes it must move at least, over its time, as a share of the same for `torch.clone`
          of a tensor of this size. To reach: 0.95 in float32, 0.90 in half precision.
layers    forward and backward of the layer over those of `nn.BatchNorm2d`, both run eagerly and both under
          `torch.compile`. To reach: 1.0 for tensors over 8 MB, 1.3 below.
network   one training step of ResNet-50 (batch 128, bfloat16 autocast, channels last, `torch.compile`, SGD) over that
          of the same network with batch norm. To reach: 1.05.

Passes and layers are captured in one CUDA graph that goes round through as many sets of buffers as fill three times
the L2 cache, so that no launch is waited for and every byte comes from memory, as in a training step; candidates take
turns, and medians over the rounds are compared. Nothing else should run on the GPU meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from layer_gpu_parts import DTYPES, Row, in_graphs, rows_of_layers, rows_of_network, rows_of_passes

from icsbound.norm import ops
from icsbound.training.resnet import NETWORKS

SHAPES = [
    (128, 64, 56, 56),
    (128, 256, 56, 56),
    (128, 512, 28, 28),
    (128, 1024, 14, 14),
    (128, 2048, 7, 7),
    (128, 16, 32, 32),
    (32, 512, 7, 7),
    (2, 64, 112, 112),
]
LAYOUTS = ("contiguous", "channels_last")
PARTS = ("passes", "layers", "network")

HEADER = (
    f"{'part':8} {'name':24} {'shape':16} {'layout':13} {'dtype':9} {'µs':>10} {'GB/s':>7} {'ratio':>6} {'goal':>6}"
)


def line(r: Row) -> str:
    speed = f"{r.bytes / r.seconds / 1e9:7.0f}" if r.bytes else " " * 7
    goal = "" if r.goal is None else f"{r.goal:6.2f} {'met' if r.met else 'missed'}"
    return (
        f"{r.part:8} {r.name:24} {r.shape:16} {r.layout:13} {r.dtype:9} "
        f"{r.seconds * 1e6:10.1f} {speed} {r.ratio:6.2f} {goal}"
    ).rstrip()


def summary(rows: Sequence[Row]) -> list[str]:
    """For each kind of goal how many rows met it, and the worst."""
    lines = []
    for part in PARTS:
        group = [(r.reached, r) for r in rows if r.part == part and r.reached is not None]
        if not group:
            continue
        met = sum(bool(r.met) for _, r in group)
        _, worst = min(group, key=lambda pair: pair[0])
        lines.append(
            f"{part}: {met} of {len(group)} goals met; worst {worst.ratio:.2f} for {worst.goal:.2f}, {worst.name} at "
            f"{worst.shape} {worst.layout} {worst.dtype}"
        )
    return lines


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--shapes", nargs="+", help="such as 128x64x56x56; all of the list by default")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=list(DTYPES))
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--rounds", type=int, default=20, help="how often each candidate is timed")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile'd layers")
    parser.add_argument("--network", default="resnet50", choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=128, help="images in a step of the network")
    parser.add_argument("--json", type=Path, help="where every figure goes")
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        parser.error(f"argument --rounds: must be at least 1, got {arguments.rounds}")
    try:
        arguments.shapes = [tuple(map(int, s.split("x"))) for s in arguments.shapes] if arguments.shapes else SHAPES
        if any(len(shape) != 4 or min(shape) < 1 for shape in arguments.shapes):
            raise ValueError
    except ValueError:
        parser.error("argument --shapes: must be sizes N x C x H x W such as 128x64x56x56")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    arguments = parsed(words)
    if not torch.cuda.is_available():
        print(
            "layer_gpu.py needs an NVIDIA GPU, and torch sees none (torch.cuda.is_available() is False)",
            file=sys.stderr,
        )
        return 2
    backend = ops.backend(torch.zeros(2, 1, device="cuda"))
    if backend.name != "triton":
        print(f"layer_gpu.py times the Triton kernels, which cannot run: {backend.why}", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_properties("cuda")
    about = {
        "device": device.name,
        "cache_bytes": device.L2_cache_size,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "rounds": arguments.rounds,
    }
    print(about, HEADER, sep="\n")
    rows: list[Row] = []

    def show(found: Iterator[Row]) -> None:
        for row in found:
            rows.append(row)
            print(line(row), flush=True)
        torch.cuda.empty_cache()

    for dtype in arguments.dtypes:
        for layout in arguments.layouts:
            for shape in arguments.shapes:
                common = (shape, dtype, layout, "cuda", device.L2_cache_size, in_graphs, arguments.rounds)
                if "passes" in arguments.parts:
                    show(rows_of_passes(*common))
                if "layers" in arguments.parts:
                    show(rows_of_layers(*common, compiled=not arguments.no_compile))
    if "network" in arguments.parts:
        show(rows_of_network(arguments.network, arguments.batch, 224, "cuda", arguments.rounds))
    print(*summary(rows), sep="\n")
    if arguments.json:
        written = [dataclasses.asdict(r) | {"met": r.met} for r in rows]
        arguments.json.write_text(json.dumps({"about": about, "rows": written}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
