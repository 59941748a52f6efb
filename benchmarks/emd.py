"""Exact assignment of two clouds against other solvers, on the same float64 cost matrix, by class of problem.

    python benchmarks/emd.py [--n 2048 4096] [--rounds 3] [--only shuffled ...] [--data-dir DIR] [--out emd.json]

Peers (laprust, lapx, POT, scipy) are measured where they are installed. In every round all solvers take their turn on a
case, each in a process of its own that has the matrix already; the figures are medians of CPU time, since wall time
says more about other work on the machine. A peer that takes longer than --once seconds is measured once. One that
takes longer than --limit is ended, and not tried on the case at larger sizes: its time is then what it had used, and
every ratio and mean that such a time is a part of is marked ≤, since the true one is smaller. All values are compared;
a difference beyond 1e-9 is an error. Clouds are described in emd_clouds.py.

The table gives geometric means by class. Its goals: in every class at most half of the time of laprust, and two thirds
of the better of laprust and POT, case by case; no case above 1.2 times that. Before it, clouds of 8192 rows are
measured whole (CPU time, with 5 s as the goal for d = 64, and memory); after it, flattened layers are compared with
the time of their cost matrix.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from emd_clouds import SYNTHETIC, Case, Trained, gaussian, latent, networks, synthetic
from torch import Tensor

from icsbound import _native, emd
from icsbound.measure import cost
from icsbound.measure.assignment import solve

OWN = "icsbound"
RIVALS = ("laprust", "POT")  # whose better one is the mark
BY_DISTANCE = ("identity optimal", "nearly optimal", "far")  # classes
HALF, TWO_THIRDS, WORST = 0.5, 0.67, 1.2
ONCE, LIMIT = 0.5, 6.0  # seconds: see the beginning
LARGE, LARGE_D, LARGE_SECONDS, LARGE_BYTES = 8192, 64, 5.0, 1.5e9
FLAT, FLAT_SHARE = 3136, 1.25
VIEWS = {"sample": "flattened", "pooled": "pooled"}
T = TypeVar("T")


class Problem(NamedTuple):
    """A cost matrix, the potential of the clouds' mean shift, and the clouds."""

    matrix: np.ndarray
    shift: Tensor
    pair: cost.Pair


Solver = Callable[[np.ndarray, Tensor, cost.Pair], float]


def solvers() -> dict[str, Solver]:
    """Name -> function of (cost matrix, shift potential, clouds) that gives the mean cost of the best matching."""
    found: dict[str, Solver] = {OWN: lambda c, shift, pair: solve(torch.from_numpy(c), shift, pair=pair).value}

    def peer(module: str) -> Any:
        try:
            return importlib.import_module(module)
        except ImportError:
            return None

    if laprust := peer("laprust"):
        found["laprust"] = lambda c, shift, pair: laprust.lapjv(c)[0] / len(c)
    if lap := peer("lap"):
        found["lapx"] = lambda c, shift, pair: lap.lapjvh(c)[0] / len(c)
    if ot := peer("ot"):
        found["POT"] = lambda c, shift, pair: float(ot.emd2(np.empty(0), np.empty(0), c, numItermax=10**9))
    if optimize := peer("scipy.optimize"):
        found["scipy"] = lambda c, shift, pair: float(c[optimize.linear_sum_assignment(c)].mean())
    return found


def kind(case: Case, value: float, paired: float) -> str:
    """The class of a case: its own, or by how much the best matching is cheaper than the identity."""
    if case.kind is not None:
        return case.kind
    share = value / paired
    return BY_DISTANCE[0 if share > 1 - 1e-9 else 1 if share > 0.99 else 2]


def prepared(a: Tensor, b: Tensor) -> Problem:
    pair = cost.pair(a, b)
    matrix = cost.matrix(pair)
    matrix.diagonal().copy_(pair.paired())
    shift = pair.y.mean(0) - pair.x.mean(0)
    return Problem(matrix.numpy(), pair.y @ (shift / shift.norm().clamp_min(1e-300)), pair)


def timed(solver: Solver, problem: Problem, limit: float | None = None) -> tuple[float, float | None]:
    """CPU seconds and value of `solver` in a process of its own. After `limit` seconds by the clock that is ended: the
    CPU seconds are then what it had used, and there is no value.
    """
    small = prepared(*gaussian(2)(8))

    def work() -> tuple[float, float]:
        solver(*small)  # the new process copies what it writes to, the counts of references among it
        begin = time.process_time()
        value = solver(*problem)
        return time.process_time() - begin, value

    found, used = apart(work, limit)
    return (used, None) if found is None else found


def apart(work: Callable[[], T], limit: float | None = None) -> tuple[T | None, float]:
    """What `work` returns in a process of its own, or None where that was ended after `limit` seconds by the clock; and
    the CPU seconds of that process.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sender.send(work())
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)  # nothing of the parent is to be run here
    sender.close()
    late = not receiver.poll(limit)
    if late:
        os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    if status and not late:
        raise SystemExit(f"a solver ended with status {status}")
    return None if late else receiver.recv(), used.ru_utime + used.ru_stime


def measure(
    case: Case,
    n: int,
    rounds: int,
    names: dict[str, Solver],
    once: float = ONCE,
    limit: float = LIMIT,
    tired: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """Times of all solvers on `case`. Those that are `tired` take longer than so many seconds and are left out."""
    a, b = case.make(n)
    begin = time.process_time()
    problem = prepared(a, b)
    building = time.process_time() - begin
    values = dict[str, float]()
    times = defaultdict[str, list[float]](list)
    over = {name: seconds for name, seconds in tired.items() if name in names}
    for _ in range(rounds):
        for name, solver in names.items():
            if name in over or (times[name] and max(times[name]) > once):
                continue
            seconds, value = timed(solver, problem, None if name == OWN else limit)
            if value is None:
                over[name] = max(seconds, *times[name], 0.0)
            else:
                times[name].append(seconds)
                values[name] = value
    for name, value in values.items():
        if abs(value - values[OWN]) > 1e-9 * values[OWN] + 1e-15 * float(problem.matrix.max()):
            raise SystemExit(f"{case.name}, n = {n}: {name} found {value!r}, {OWN} {values[OWN]!r}")
    return {
        "kind": kind(case, values[OWN], float(problem.matrix.diagonal().mean())),
        "source": case.source,
        "case": case.name,
        "n": n,
        "d": a.shape[1],
        "matrix_seconds": building,
        "seconds": {name: over[name] if name in over else statistics.median(times[name]) for name in names},
        "over": sorted(over),
    }


def geometric(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def mark(value: float, goal: float, bound: bool = False) -> str:
    """`value` against its goal; as a `bound` from above it may meet a goal, and miss none."""
    verdict = "met" if value <= goal else "OPEN" if bound else "MISSED"
    return f"{'≤' if bound else ''}{value:.3f} {verdict}"


def table(rows: list[dict[str, Any]], names: Iterable[str]) -> str:
    """Geometric means of CPU time by class and n: own time in ms, and own time as a share of each peer's."""
    others = [name for name in names if name not in (OWN, *RIVALS)]
    lines = [
        f"{'class':17} {'n':>5} {'cases':>5} {'ms':>7}  {'/laprust':13} {'/POT':7} {'/better':13} {'worst':13} "
        + " ".join(f"{'/' + name:8}" for name in others)
        + " worst case"
    ]
    groups = defaultdict(list)
    for row in rows:
        for name in {row["kind"], row["source"], "all"} - {SYNTHETIC}:
            groups[row["n"], name].append(row)
    for (n, name), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] == "all", item[0][1])):
        line = f"{name:17} {n:5} {len(group):5} {1e3 * geometric(row['seconds'][OWN] for row in group):7.1f}  "
        if all(shares(group, peer) for peer in RIVALS):
            better = shares(group, *RIVALS)
            last = max(range(len(group)), key=better.__getitem__)
            line += f"{mark(geometric(shares(group, 'laprust')), HALF, bounded(group, 'laprust')):13} "
            line += f"{at_most(group, 'POT'):7} "
            line += f"{mark(geometric(better), TWO_THIRDS, bounded(group, *RIVALS)):13} "
            line += f"{mark(better[last], WORST, bounded([group[last]], *RIVALS)):13} "
            line += " ".join(f"{at_most(group, name):8}" for name in others) + f" {group[last]['case']}"
        else:
            line += " ".join(f"{at_most(group, name):8}" for name in others)
        lines.append(line)
    return "\n".join(lines)


def shares(group: list[dict[str, Any]], *peers: str) -> list[float]:
    """Own time as a share of that of the best of `peers`, for every case that has all of them."""
    times = [row["seconds"] for row in group]
    return [t[OWN] / min(t[p] for p in peers) for t in times if all(p in t for p in peers)]


def bounded(group: list[dict[str, Any]], *peers: str) -> bool:
    """Whether some case had the best of `peers` beyond the limit, so that their shares are bounds from above."""
    return any(set(peers) <= set(row["over"]) for row in group)


def at_most(group: list[dict[str, Any]], peer: str) -> str:
    """The geometric mean of the shares of one peer."""
    found = shares(group, peer)
    return f"{'≤' if bounded(group, peer) else ''}{geometric(found):.3f}" if found else "-"


def flat(rows: list[dict[str, Any]]) -> str:
    """The whole distance of wide clouds as a multiple of the time of their cost matrix."""
    shares = [(r["seconds"][OWN] / r["matrix_seconds"] + 1, r["case"], r["n"]) for r in rows if r["d"] >= FLAT]
    if not shares:
        return ""
    worst, case, n = max(shares)
    return f"d >= {FLAT}: at most {mark(worst, FLAT_SHARE)} times the cost matrix ({case}, n = {n})"


def large(trained: Callable[[], list[Trained]]) -> list[dict[str, Any]]:
    """Whole distances of large clouds: CPU seconds, and what they add to the peak of resident memory, each in a process
    of its own, whose peak begins with what is resident when it is started.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    cases = [
        Case(None, "", "independent Gaussian, d 64", gaussian(64)),
        Case(None, "", "latent dimension 12, d 64, move 3", latent(12, 64, 3.0)),
        Case(None, "", "latent dimension 3, d 64, move 3", latent(3, 64, 3.0)),
    ]
    for network in trained():
        cases += [case for case in network.cases({"pooled": "pooled"}) if case.name.endswith(", 10 steps")]

    def whole(a: Tensor, b: Tensor) -> tuple[float, int, str | None]:
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        found = emd(a, b)
        seconds = time.process_time() - begin
        memory = unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        return seconds, memory, None if found.certified else found.estimator

    rows = list[dict[str, Any]]()
    for case in cases:
        a, b = case.make(LARGE)
        found, _ = apart(functools.partial(whole, a, b))
        assert found is not None
        seconds, memory, stopped = found
        if stopped is not None:
            raise SystemExit(f"{case.name}, n = {LARGE}: {stopped}")
        rows.append({"case": case.name, "n": LARGE, "d": a.shape[1], "seconds": seconds, "bytes": memory})
        print(f"{LARGE} {case.name}: {seconds:.2f} s, {memory / 1e9:.2f} GB more", flush=True)
    aimed, others = ([row["seconds"] for row in rows if (row["d"] == LARGE_D) is wide] for wide in (True, False))
    print(f"{LARGE} rows: d = {LARGE_D} {mark(max(aimed), LARGE_SECONDS)} ({LARGE_SECONDS} s)", end=", ")
    if others:
        print(f"other d, without a goal, {max(others):.3g} s", end=", ")
    print(f"{mark(max(row['bytes'] for row in rows) / 1e9, LARGE_BYTES / 1e9)} ({LARGE_BYTES / 1e9} GB)\n", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", type=float, default=ONCE, help="seconds beyond which a peer is measured once (0.5)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which a peer is ended (6)")
    parser.add_argument("--only", nargs="+", help="classes, or sources such as 'layers, digits'")
    parser.add_argument("--data-dir", type=Path, help="parquet files of CIFAR-10: layers of a training on it as well")
    parser.add_argument("--without", nargs="+", default=[], help="peers to leave out")
    parser.add_argument("--no-large", action="store_true", help=f"leave out the clouds of {LARGE} rows")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    trained = functools.cache(lambda: list(networks(max(LARGE, *options.n), options.data_dir)))
    big = [] if options.no_large else large(trained)
    cases = synthetic()
    for network in trained():
        cases += network.cases(VIEWS)
    names = {name: function for name, function in solvers().items() if name not in options.without}
    measure(cases[0], 64, 1, names)  # what libraries load or start when they are first called, no figure holds
    only = set(options.only or [])
    rows: list[dict[str, Any]] = []
    tired = defaultdict[str, dict[str, float]](dict)
    for n in sorted(options.n):
        for case in cases:
            if only and only.isdisjoint((case.source, *BY_DISTANCE) if case.kind is None else (case.kind,)):
                continue
            row = measure(case, n, options.rounds, names, options.once, options.limit, tired[case.name])
            tired[case.name] |= {name: row["seconds"][name] for name in row["over"]}
            if only and only.isdisjoint((row["kind"], row["source"])):
                continue
            rows.append(row)
            figures = "  ".join(
                f"{name} {'>' if name in row['over'] else ''}{1e3 * s:.1f}" for name, s in row["seconds"].items()
            )
            print(f"{n} {row['kind']}: {case.name}: {figures} ms; matrix {1e3 * row['matrix_seconds']:.1f}", flush=True)
    print(f"\nCPU time, one thread; ≤: a peer was ended after {options.limit:g} s\n{table(rows, names)}\n{flat(rows)}")
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes")
    if options.out:
        about = {
            "processor": platform.processor() or platform.machine(),
            "limit": options.limit,
            "native": _native.library() is not None,
            "versions": {
                p: importlib.metadata.version(p)
                for p in ("torch", "numpy", "laprust", "lapx", "pot", "scipy")
                if importlib.util.find_spec({"pot": "ot", "lapx": "lap"}.get(p, p))
            },
        }
        options.out.write_text(json.dumps({"about": about, "rows": rows, "large": big}, indent=1) + "\n")


if __name__ == "__main__":
    main()
