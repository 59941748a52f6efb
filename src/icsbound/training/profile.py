"""Where the time of a step goes: `torch.profiler` over a few steps after a warm-up, and the share of each part.

The first `WARM_UP` steps of the process are left out (allocators, compilation, caches), the next `STEPS` are taken
apart. On an accelerator each part is waited for, so that its time is its own; the steps are slower for it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from icsbound.training import checkpoint

WARM_UP, STEPS = 5, 10
PARTS = ("input", "forward", "backward", "optimizer", "monitor")
T = TypeVar("T")


class Profile:
    """Takes the steps of a loop apart, and writes ``trace.json`` (for Perfetto or chrome://tracing), ``operators.txt``
    and ``shares.json`` into `folder`.

    `step()` comes after each step; while `active`, `part(name)` is put around each of `PARTS`.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.summary = ""  # in words, once it is done
        self._steps = 0
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._began = 0.0
        self._profiler: Any = None

    @property
    def active(self) -> bool:
        return self._profiler is not None

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time spent inside as that of `name`."""
        if not self.active:
            yield
            return
        began = self._now()
        with torch.profiler.record_function(f"icsbound: {name}"):
            yield
            self._seconds[name] += self._now() - began

    def inputs(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`, the wait for each counted as input."""
        iterator = iter(batches)
        while True:
            with self.part("input"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def step(self) -> bool:
        """Count a step; returns whether the profile was finished by it."""
        self._steps += 1
        if self._steps == WARM_UP:
            activities = [torch.profiler.ProfilerActivity.CPU]
            activities += [torch.profiler.ProfilerActivity.CUDA] if self.device.type == "cuda" else []
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.__enter__()
            self._began = self._now()
        elif self._steps == WARM_UP + STEPS:
            self.close()
            return True
        return False

    def close(self) -> None:
        """Write what was taken apart, if anything."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        total, steps = self._now() - self._began, self._steps - WARM_UP
        profiler.__exit__(None, None, None)
        if steps == 0:
            return
        shares = {name: seconds / total for name, seconds in self._seconds.items()}
        shares["rest"] = 1.0 - sum(shares.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        table = profiler.key_averages().table(sort_by=f"self_{self.device.type}_time_total", row_limit=40)
        checkpoint.write(self.folder / "operators.txt", table.encode())
        values = {"steps": steps, "warm_up": WARM_UP, "seconds_per_step": total / steps, "shares": shares}
        checkpoint.write(self.folder / "shares.json", (json.dumps(values, indent=2) + "\n").encode())
        parts = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        self.summary = (
            f"profile of {steps} steps after {WARM_UP}: {parts} of {1000 * total / steps:.1f} ms a step; {self.folder}"
        )

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
