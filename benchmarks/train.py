"""Time training: images per second by arm, the share of input pipeline and bookkeeping, and the cost of the monitor.

    python benchmarks/train.py                                            # digits, the network of `icsbound compare`
    python benchmarks/train.py --data cifar10 --data-dir DIR --model resnet20 --threads 2 --json train.json

The arms take turns, a few steps each, in rotating order; a ratio to the first arm is taken within its round, and
medians and quartiles over rounds are printed. A step is what `icsbound train` takes: batch, augmentation,
normalization, forward, backward, optimizer, reading the loss, and what is told to a tracker. "pipeline" is the share of
it that is neither forward, backward nor optimizer. A checkpoint is set against an epoch, or the 15 seconds that lie
between two at least; three captures of the monitor, with a few steps between, against a whole run of the recipe.
"""

from __future__ import annotations

import argparse
import contextlib
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

from icsbound.training import devices, progress, recipes, tracking
from icsbound.training.compare import CompareConfig
from icsbound.training.config import MonitorConfig, TrainConfig
from icsbound.training.journal import Journal
from icsbound.training.loop import _SAVE_AFTER, _Loop
from icsbound.training.session import Session
from icsbound.training.snapshots import Snapshots

clock = time.perf_counter
COMPARED = CompareConfig().base


class Stopwatch:
    """Stands where the loop has its profile, and adds up the time that the network and its optimizer take."""

    def __init__(self, cuda: bool) -> None:
        self.seconds = 0.0
        self._cuda = cuda

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside, unless it is the input."""
        before = self.now()
        yield
        if name != "input":
            self.seconds += self.now() - before

    def now(self) -> float:
        """The time, when the device has done what it was given."""
        if self._cuda:
            torch.cuda.synchronize()
        return clock()


class Run:
    """One arm under way: takes steps as the loop does, and knows how long the network took of them."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.session = Session(config)
        folder.mkdir()
        self.watch = Stopwatch(self.session.accelerator.device.type == "cuda")
        self.journal = Journal(self.session, folder, progress.quiet, tracking.chosen("auto"))
        profile: Any = self.watch
        self.loop = _Loop(self.session, folder, self.journal, keep=1, snapshots=Snapshots(None), profile=profile)
        self.journal.open(0, 0)
        self.session.model.train()
        self.batches = self._endless()

    def _endless(self) -> Iterator[Any]:
        epoch = 0
        while True:
            yield from self.session.batches.epoch(epoch)
            epoch += 1

    def steps(self, count: int) -> tuple[float, float, int]:
        """Take `count` steps; returns seconds in all, seconds outside the network and optimizer, and images."""
        loop, images, before = self.loop, 0, self.watch.seconds
        start = self.watch.now()
        for _ in range(count):
            batch = next(self.batches)
            loss = loop._take(*batch)
            loop.step += 1
            self.journal.track(loop.step, loss)
            loop._keep_network()
            loop._agreed(None, stop=False)
            self.journal.step(loop.step, loss, None)
            images += batch[2]
        total = self.watch.now() - start
        return total, total - (self.watch.seconds - before), images

    def checkpoint(self) -> float:
        """Seconds that writing a checkpoint takes, by the clock on the wall: it waits for the disk."""
        start = time.perf_counter()
        self.loop._save()
        return time.perf_counter() - start

    def captures(self, count: int) -> tuple[list[float], int]:
        """Seconds of each of `count` captures of the monitor with a few steps between, and the records of the last."""
        monitor, schedule = self.session.monitor, MonitorConfig().schedule(self.session.steps)
        assert monitor is not None
        monitor.step(0)
        seconds, found = [], 0
        for step in [step for step in range(1, self.session.steps + 1) if schedule(step)][:count]:
            self.steps(4)
            start = self.watch.now()
            found = len(monitor.step(step))
            seconds.append(self.watch.now() - start)
        return seconds, found

    def close(self) -> None:
        """Close the files."""
        self.journal.close()


def quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values if len(values) > 1 else values * 2, n=4)
    return {"low": low, "median": median, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--model", default=COMPARED.model)
    parser.add_argument("--arms", nargs="+", default=["bn", "unitized", "unitized-1", "published"])
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="no")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
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
        channels_last=args.channels_last,
        monitor=MonitorConfig(),
    ).resolved()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            arm: Run(dataclasses.replace(base, arm=arm), Path(folder) / str(number))
            for number, arm in enumerate(args.arms)
        }
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
            saved, (seconds, records) = run.checkpoint(), run.captures(3)
            speed_of_arm = statistics.median(rows[arm]["images/s"])
            epoch = run.session.steps_per_epoch * base.recipe.batch_size / speed_of_arm
            found[arm] = {
                **{name: quartiles(values) for name, values in rows[arm].items()},
                "checkpoint seconds": saved,
                "checkpoint %": 100 * saved / max(epoch, _SAVE_AFTER),
                "monitor seconds a capture": statistics.median(seconds),
                "monitor records a capture": records,
                "monitor %": 100 * statistics.median(seconds) * MonitorConfig().captures / (base.recipe.epochs * epoch),
            }
            run.close()
    load = os.getloadavg()[0]
    clock_name = ", CPU time" if args.cpu_time else ""
    where = f"{base.device}, {args.threads} threads, load {load:.1f}{clock_name}"
    print(f"{base.data}, {base.model}, batch {base.recipe.batch_size}, {where}")
    title = f"{'arm':20}{'images/s':>10}{'ratio to ' + args.arms[0]:>22}"
    print(f"{title}{'pipeline':>10}{'checkpoint':>12}{'monitor':>10}")
    for arm, row in found.items():
        ratio = row["ratio"]
        print(
            f"{arm:20}{row['images/s']['median']:10.0f}{ratio['median']:10.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"
            f"{row['pipeline %']['median']:9.1f}%{row['checkpoint %']:11.1f}%{row['monitor %']:9.1f}%"
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
