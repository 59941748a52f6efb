"""Time training: images per second by arm, the share of input pipeline and bookkeeping, and the cost of the monitor.

    python benchmarks/train.py                                            # digits, the network of `icsbound compare`
    python benchmarks/train.py --data cifar10 --data-dir DIR --model resnet20 --threads 2 --json train.json

The arms take turns, a few steps each, in rotating order; a ratio to the first arm is taken within its round, and
medians and quartiles over rounds are printed. A step is what `icsbound train` takes: batch, augmentation,
normalization, forward, backward, optimizer, reading the loss. The monitor is timed on its own steps and set against
the steps of a whole run of the recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from icsbound.training import devices, progress, recipes
from icsbound.training.config import MonitorConfig, TrainConfig
from icsbound.training.journal import Journal
from icsbound.training.loop import _Loop
from icsbound.training.session import Session
from icsbound.training.snapshots import Snapshots

clock = time.perf_counter


class Run:
    """One arm under way: takes steps, and knows how long their batches took to make."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.session = Session(config)
        journal = Journal(self.session, folder, progress.quiet, tracker=None)
        self.loop = _Loop(self.session, folder, journal, keep=1, snapshots=Snapshots(None), profile=None)
        self.session.model.train()
        self.batches = self._endless()
        self.in_pipeline = 0.0

    def _endless(self) -> Iterator[Any]:
        epoch = 0
        while True:
            yield from self.session.batches.epoch(epoch)
            epoch += 1

    def steps(self, count: int) -> tuple[float, float, int]:
        """Take `count` steps; returns seconds in all, seconds outside the network and optimizer, and images."""
        session, images = self.session, 0
        outside = 0.0
        start = clock()
        for _ in range(count):
            before = clock()
            batch = next(self.batches)
            outside += clock() - before
            self.loop._take(*batch)
            self.loop.step += 1
            images += batch[2]
        total = clock() - start
        if session.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
            total = clock() - start
        return total, outside + self._bookkeeping(batch[0], count), images

    def _bookkeeping(self, images: torch.Tensor, count: int) -> float:
        """What a step does besides the network: normalization and the seeding of its dropout, timed by repeating
        them.
        """
        start = clock()
        for _ in range(count):
            self.session.normalize(images, self.session.dtype)
            torch.manual_seed(0)
        return clock() - start


def quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"low": low, "median": median, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--model", default="resnet8:width=8")
    parser.add_argument("--arms", nargs="+", default=["bn", "unitized", "unitized-1", "published"])
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="no")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-first", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="of each arm in a round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU seconds of this process: for cores that are shared"
    )
    args = parser.parse_args()
    if args.cpu_time:
        global clock
        clock = time.process_time

    changes = {} if args.batch_size is None else {"batch_size": args.batch_size}
    base = TrainConfig(
        data=args.data,
        data_dir=args.data_dir,
        model=args.model,
        recipe=recipes.recipe("short", args.data, **changes),
        threads=args.threads,
        device=args.device,
        precision=args.precision,
        compile=args.compile,
        channels_last=not args.channels_first,
        monitor=MonitorConfig(),
    ).resolved()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = {arm: Run(dataclasses.replace(base, arm=arm), Path(folder)) for arm in args.arms}
        for run in runs.values():  # warm-up: allocations, kernel choices, compilation
            run.steps(3)
        rows: dict[str, dict[str, list[float]]] = {a: {"images/s": [], "ratio": [], "pipeline %": []} for a in runs}
        for number in range(args.rounds):
            speed = {}
            order = [*runs][number % len(runs) :] + [*runs][: number % len(runs)]
            for arm in order:
                total, outside, images = runs[arm].steps(args.steps)
                speed[arm] = images / total
                rows[arm]["images/s"].append(speed[arm])
                rows[arm]["pipeline %"].append(100 * outside / total)
            for arm in runs:
                rows[arm]["ratio"].append(speed[arm] / speed[args.arms[0]])
    found: dict[str, Any] = {}
    for arm, run in runs.items():
        monitor = run.session.monitor
        assert monitor is not None
        monitor.step(0)
        run.steps(2)
        start = clock()
        records = monitor.step(run.session.steps)  # always on the schedule: the last step of the run
        seconds = clock() - start
        whole = run.session.steps * base.recipe.batch_size / statistics.median(rows[arm]["images/s"])
        found[arm] = {
            **{name: quartiles(values) for name, values in rows[arm].items()},
            "monitor seconds a capture": seconds,
            "monitor records a capture": len(records),
            "monitor %": 100 * seconds * MonitorConfig().captures / whole,
        }
    load = os.getloadavg()[0]
    clock_name = ", CPU time" if args.cpu_time else ""
    where = f"{base.device}, {args.threads} threads, load {load:.1f}{clock_name}"
    print(f"{base.data}, {base.model}, batch {base.recipe.batch_size}, {where}")
    print(f"{'arm':20}{'images/s':>10}{'ratio to ' + args.arms[0]:>22}{'pipeline':>10}{'monitor':>10}")
    for arm, row in found.items():
        ratio = row["ratio"]
        print(
            f"{arm:20}{row['images/s']['median']:10.0f}{ratio['median']:10.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"
            f"{row['pipeline %']['median']:9.1f}%{row['monitor %']:9.1f}%"
        )
    if args.json:
        about = {
            "versions": devices.versions(),
            "load": load,
            "argv": sys.argv[1:],
            "config": base.to_dict(),
        }
        args.json.write_text(json.dumps({**about, "arms": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
