"""What a monitor with the default schedule takes of a training: the same training with and without it, in turn.

    python benchmarks/monitor.py [--model resnet20] [--steps 600] [--every STEPS] [--threads 1] [--json FILE]

Two copies of one network train on the same batches, a few steps each in rotating order; one of them has an
`ICSMonitor` with 256 probe images. Printed are the time of the training with and without it, the share that the
monitor says of itself in its records, at which steps it measured, and whether the training took at most 5 % more time
with it, which is what the schedule promises. The images are drawn at random, since time does
not depend on what is in them; their size is that of CIFAR. With --cpu-time, seconds are those that this process had
the processor: for cores that are shared.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icsbound import ICSMonitor, records
from icsbound.training import devices, models


class Training:
    """A network under SGD, and what watches it."""

    def __init__(self, network: nn.Module, monitor: ICSMonitor | None) -> None:
        self.network, self.monitor = network, monitor
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        self.found = [] if monitor is None else monitor.step(0)

    def take(self, step: int, images: Tensor, labels: Tensor) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(images), labels).backward()
        self.optimizer.step()
        if self.monitor is not None:
            self.found += self.monitor.step(step)


GOAL = 5.0  # % more time


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Print what was found, and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--turn", type=int, default=10, help="steps of one copy before the other's turn")
    parser.add_argument("--probe", type=int, default=256)
    parser.add_argument("--every", type=int, help="measure every so many steps (default: the monitor's own schedule)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.cpu_time:
        time.perf_counter = time.process_time  # the monitor's schedule follows the same clock
    clock = time.perf_counter

    generator = torch.Generator().manual_seed(0)
    network = models.build(options.model, classes=10, channels=3, norm=nn.BatchNorm2d)
    probe = torch.randn(options.probe, 3, 32, 32, generator=generator)
    images = torch.randn(options.batch_size, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (options.batch_size,), generator=generator)
    for _ in range(3):  # warm-up: allocations, kernel choices
        nn.functional.cross_entropy(network(images), labels).backward()
    plain = Training(copy.deepcopy(network), None)
    schedule: Any = {} if options.every is None else {"every": options.every}
    start = clock()
    watched = Training(network, ICSMonitor(network, probe, **schedule))
    assert watched.monitor is not None
    seconds = {"off": 0.0, "on": clock() - start}  # the first capture is a part of what it takes
    arms = {"off": plain, "on": watched}
    turns: dict[str, list[float]] = {"off": [], "on": []}
    for number, first in enumerate(range(1, options.steps + 1, options.turn)):
        for arm in ("off", "on") if number % 2 else ("on", "off"):
            # The clock of the pace stops while it is the other's turn.
            watched.monitor.pace.leave(first - 1)
            start = clock()
            for step in range(first, min(first + options.turn, options.steps + 1)):
                arms[arm].take(step, images, labels)
            turns[arm].append(clock() - start)
            seconds[arm] += turns[arm][-1]
    costs = [record for record in watched.found if isinstance(record, records.CostRecord)]
    same = all(
        torch.equal(a, b) for a, b in zip(*(t.network.state_dict().values() for t in arms.values()), strict=True)
    )
    step = statistics.median(turns["off"]) / options.turn
    more = 100 * (seconds["on"] / seconds["off"] - 1)
    found = {
        "model": options.model,
        "batch_size": options.batch_size,
        "steps": options.steps,
        "probe": options.probe,
        "seconds a step, median": step,
        "seconds without": seconds["off"],
        "seconds with": seconds["on"],
        "more, %": more,
        f"at most {GOAL:g} % more": "met" if more <= GOAL else "MISSED",
        "own account, %": 100 * watched.monitor.seconds / watched.monitor.pace.training,
        "a measurement in steps, median": statistics.median(c.capture + c.distances for c in costs) / step,
        "measured at": [cost.step for cost in costs],
        "same weights": same,
        "load": os.getloadavg()[0],
        "versions": devices.versions(),
    }
    print("\n".join(f"{name}: {value}" for name, value in found.items()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    main()
