"""Time a whole ResNet-20 (He et al. 2016, batch 128 of 32×32): a training step, and evaluation with batch norm folded.

    python benchmarks/network.py --json network.json [--threads 2] [--seconds 30] [--compile]

As in `benchmarks/layer.py`, all candidates take turns in random order within a round, a ratio to batch norm is taken
within its round, and allocator settings are the same for all. A training step is forward, loss, backward, SGD.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from layer import Composite, OverAten, ThenReLU
from timing import peak_bytes, processor, start_with_allocator_settings, taken_in_turn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from icsbound import _native
from icsbound.norm import UnitizedBatchNorm2d

Norm = Callable[[int, bool], nn.Module]  # of channels, and whether a ReLU follows


@dataclasses.dataclass
class Row:
    """One candidate. Seconds; `ratio` is to batch norm in the same round, with its quartiles."""

    layout: str
    mode: str
    name: str
    rounds: int
    fastest: float
    median: float
    ratio: float
    ratio_low: float
    ratio_high: float
    peak_bytes: int  # most memory that a step held beyond what there was before it, as torch's allocator saw it


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs, True)
        self.body = nn.Sequential(*first, nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs, False))
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return F.relu(x + y)


def resnet20(norm: Norm) -> nn.Sequential:
    """With equal weights, whatever the norm."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), norm(16, True)]
    inputs = 16
    for outputs in (16, 32, 64):
        for block in range(3):
            layers.append(Block(inputs, outputs, 2 if outputs > 16 and not block else 1, norm))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def plain(layer: Callable[[int], nn.Module]) -> Norm:
    return lambda channels, relu: ThenReLU(layer(channels)) if relu else layer(channels)


def ours(wrapped: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> Norm:
    return lambda channels, relu: wrapped(UnitizedBatchNorm2d(channels, activation="relu" if relu else None))


def folded(model: nn.Sequential) -> nn.Sequential:
    """`model` for evaluation, every batch norm folded into the convolution before it."""
    parts = [m for m in model.modules() if isinstance(m, nn.Sequential)]
    for part in parts:
        for i in range(len(part) - 1):
            conv, norm = part[i], part[i + 1]
            inner = norm.layer if isinstance(norm, ThenReLU) else norm
            if isinstance(conv, nn.Conv2d) and isinstance(inner, nn.BatchNorm2d):
                part[i] = fuse_conv_bn_eval(conv.eval(), inner.eval())
                part[i + 1] = nn.ReLU() if norm is not inner else nn.Identity()
    return model


def candidates(mode: str, compiled: bool) -> dict[str, nn.Module]:
    """The first is what the others are compared with."""
    found: dict[str, nn.Module] = {"batch norm": resnet20(plain(nn.BatchNorm2d))}
    if mode == "eval":
        found["batch norm, folded"] = folded(resnet20(plain(nn.BatchNorm2d)))
    if compiled:
        found["batch norm, compiled"] = torch.compile(resnet20(plain(nn.BatchNorm2d)))  # type: ignore[assignment]  # declared a function, is a module
    found["group norm (1)"] = resnet20(plain(lambda channels: nn.GroupNorm(1, channels)))
    found["ours"] = resnet20(ours())
    found["ours over aten"] = resnet20(ours(OverAten))
    found["composite"] = resnet20(ours(Composite))
    return found


def step_of(model: nn.Module, x: Tensor, labels: Tensor, mode: str) -> Callable[[], object]:
    model.train(mode == "train")
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def train() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    def evaluate() -> object:
        with torch.no_grad():
            return model(x)

    return train if mode == "train" else evaluate


def measure(layout: str, mode: str, batch: int, compiled: bool, seconds: float) -> list[Row]:
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    torch.manual_seed(1)
    x, labels = torch.randn(batch, 3, 32, 32).contiguous(memory_format=form), torch.randint(10, (batch,))
    models = candidates(mode, compiled)
    for model in models.values():
        model.to(memory_format=form)  # type: ignore[call-overload]  # torch leaves it out of the types
    steps = {name: step_of(model, x, labels, mode) for name, model in models.items()}
    for step in steps.values():
        step()
    peaks = {name: peak_bytes(step) for name, step in steps.items()}
    times = taken_in_turn(steps, seconds)
    base = times["batch norm"]
    rows = []
    for name, taken in times.items():
        low, ratio, high = statistics.quantiles((t / b for t, b in zip(taken, base, strict=True)), n=4)
        middle = statistics.median(taken)
        rows.append(Row(layout, mode, name, len(taken), min(taken), middle, ratio, low, high, peaks[name]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", nargs="*", default=["contiguous", "channels_last"])
    parser.add_argument("--modes", nargs="*", default=["train", "eval"], choices=["train", "eval"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=30.0, help="for each layout and mode, all candidates together")
    parser.add_argument("--compile", action="store_true", help="also batch norm under torch.compile")
    parser.add_argument("--json", type=Path, help="where every figure goes")
    arguments = parser.parse_args()
    start_with_allocator_settings()
    torch.set_num_threads(arguments.threads)
    about = {
        "processor": processor(),
        "threads": arguments.threads,
        "batch": arguments.batch,
        "seconds": arguments.seconds,
        "torch": torch.__version__,
        "simd": _native.simd(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "load_before": os.getloadavg(),
    }
    print(about)
    print(
        f"{'layout':14} {'mode':6} {'norm':21} {'best ms':>9} {'median ms':>10} {'ratio':>6} "
        f"{'quartiles':>12} {'peak MB':>8}"
    )
    rows: list[Row] = []
    for layout in arguments.layouts:
        for mode in arguments.modes:
            for r in measure(layout, mode, arguments.batch, arguments.compile, arguments.seconds):
                rows.append(r)
                print(
                    f"{r.layout:14} {r.mode:6} {r.name:21} {r.fastest * 1e3:9.1f} {r.median * 1e3:10.1f} "
                    f"{r.ratio:6.2f} {r.ratio_low:5.2f}-{r.ratio_high:<6.2f} {r.peak_bytes / 1e6:8.1f}",
                    flush=True,
                )
    about["load_after"] = os.getloadavg()
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about, "rows": [dataclasses.asdict(r) for r in rows]}, indent=1))


if __name__ == "__main__":
    main()
