"""How the benchmarks on the CPU measure: candidates in turn, peak memory, and a process that is set up for it."""

from __future__ import annotations

import os
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

# Fresh pages for every large tensor would be most of what is timed. glibc reads these when a process starts; the last
# keeps the profiler, which finds the peak of memory, from talking.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "KINETO_LOG_LEVEL": "99",
}


def timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def taken_in_turn(todo: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """The times of every candidate, one a round and at least five, in random order within a round."""
    names: list[str] = list(todo)
    times: dict[str, list[float]] = {name: [] for name in todo}
    order, end = random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[names[0]]) < 5:
        order.shuffle(names)  # so that none always finds the cache as one other left it
        for name in names:
            times[name].append(timed(todo[name]))
    return times


def peak_bytes(step: Callable[[], object]) -> int:
    """The most that one step held, from the profiler's record of allocations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def start_with_allocator_settings() -> None:
    """Start this script anew where the process has no `ENVIRONMENT`."""
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(s.split(":", 1)[1].strip() for s in lines if s.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
