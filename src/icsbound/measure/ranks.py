"""One capture by all ranks of a data-parallel training together: each runs its part of the probe, the first has all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch
import torch.distributed as dist

from icsbound._check import InputError
from icsbound.measure.collector import Snapshot

Shapes: TypeAlias = dict[tuple[str, str], tuple[int, int]]  # rows and columns of a cloud, by layer and view
T = TypeVar("T")
R = TypeVar("R")


def require_group() -> None:
    """Raise InputError where there is no group of processes to measure together with."""
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError("gather must be False where torch.distributed is not initialized, got True")


def agreed(what: str, work: Callable[[], T], said: Callable[[T], R]) -> tuple[T, list[R]]:
    """What `work` gives on this rank, and what is `said` of it on every rank, in their order.

    Every rank must call it. Where the work, called `what`, raises on one rank it raises on all, so that none waits for
    ever.
    """
    done: list[T] = []
    error: BaseException | None = None
    try:
        done.append(work())
    except (Exception, SystemExit) as raised:  # by the latter an alert may end a training
        error = raised
    report = None if error is None else f"{type(error).__name__}: {error}"
    reports: list[tuple[str | None, list[R]]] = [(None, [])] * int(dist.get_world_size())
    dist.all_gather_object(reports, (report, [said(one) for one in done]))
    if error is not None:
        raise error
    for rank, (failure, _) in enumerate(reports):
        if failure is not None:
            raise RuntimeError(f"{what} failed on rank {rank}: {failure}")
    return done[0], [one for _, told in reports for one in told]


def gathered(capture: Callable[[], Snapshot]) -> Snapshot:
    """What `capture` gives on all ranks, row after row in their order, on the first rank; elsewhere without clouds.

    Every rank must call it, and a capture that raises on one raises on all.
    """
    taken, parts = agreed("the capture", capture, _shapes)
    shapes = _shapes(taken)
    for rank, part in enumerate(parts):
        if [(key, shape[1]) for key, shape in part.items()] != [(key, shape[1]) for key, shape in shapes.items()]:
            raise InputError(
                f"layers must give values of one size on all ranks, got {_listed(shapes)} on rank {dist.get_rank()} "
                f"and {_listed(part)} on rank {rank}"
            )
    clouds = {key: _joined(cloud, [part[key][0] for part in parts]) for key, cloud in taken.clouds.items()}
    first = {key: cloud for key, cloud in clouds.items() if cloud is not None}
    return Snapshot(first, taken.modules, taken.positions)


def _shapes(taken: Snapshot) -> Shapes:
    return {key: (cloud.shape[0], cloud.shape[1]) for key, cloud in taken.clouds.items()}


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{layer} ({view}: {shape[1]})" for (layer, view), shape in shapes.items())


def _joined(cloud: torch.Tensor, rows: list[int]) -> torch.Tensor | None:
    """The clouds of all ranks, of `rows` rows each, one under the other on the first rank; None on the others."""
    # As bytes, for which every backend has a gather, and padded to one length, which gathering asks for.
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    sent = cloud.new_zeros((max(rows), cloud.shape[1]), device=device)
    sent[: len(cloud)] = cloud
    first = dist.get_rank() == 0
    received = [torch.empty_like(sent).view(torch.uint8) for _ in rows] if first else None
    dist.gather(sent.view(torch.uint8), received, dst=0)
    if received is None:
        return None
    parts = [part.view(cloud.dtype)[:n] for part, n in zip(received, rows, strict=True)]
    return torch.cat(parts).to(cloud.device)
