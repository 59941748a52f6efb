"""Runs as tasks of a Ray cluster: each goes wherever there is room, and goes on elsewhere when its node is lost.

Every node must have icsbound installed and must see the folder of the runs, and the data, under the same path. The
folder is the only state: a run that is started again goes on from its last checkpoint, and the table is written by the
process that called `run` alone. The shared file system must rename atomically (all do) and keep advisory locks across
nodes (POSIX `flock`; NFS version 4 does): a node that is given up but still at work then holds the run it has until it
ends, and the run's next attempt waits for that. Without such locks it could write into the folder of the new attempt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icsbound import records
from icsbound._check import InputError
from icsbound.training import interrupts, loop, pool
from icsbound.training.config import TrainConfig
from icsbound.training.progress import Event, Progress, quiet

# How often a run is started again because its node or process died; preempted nodes are the rule on some clusters.
RETRIES = 10
_PATIENCE = 120.0  # seconds that an attempt waits for the one before it to let go of the folder
_LOOK = 0.5  # seconds between two looks at what the tasks say


def ray() -> Any:
    """The module `ray`. Raises InputError where it is not installed."""
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("launcher ray must have ray, which is not installed; pip install 'icsbound[ray]'") from None
    return ray


class _Inbox:
    """What the tasks tell the process that started them; an actor on its node."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.notes: list[dict[str, Any]] = []

    def tell(self, event: dict[str, Any]) -> None:
        if event["note"]:
            self.notes.append(event)
        else:
            self.events[event["run"]] = event  # the newest of each run

    def take(self) -> list[dict[str, Any]]:
        taken = [*self.notes, *self.events.values()]
        self.notes, self.events = [], {}
        return taken


def _train(config: dict[str, Any], out: str, snapshots: int | str | None, inbox: Any) -> dict[str, str]:
    """Train one run on the node where this is called."""
    folder, module = Path(out), ray()
    node = f"node {module.get_runtime_context().get_node_id()[:8]} ({module.util.get_node_ip_address()})"
    if not folder.parent.is_dir():
        return {"failed": f"{node} does not see {folder.parent}: all must share it"}

    def tell(event: Event) -> None:
        inbox.tell.remote(dataclasses.asdict(dataclasses.replace(event, run=folder.name)))

    tell(Event(folder.name, 0, 0, note=f"on {node}"))
    try:
        made = TrainConfig.from_dict(config)
        tells = pool.now_and_then(tell)
        result = loop.train(made, folder, progress=tells, snapshots=snapshots, patience=_PATIENCE)
    except loop.EXPECTED as error:
        return {"failed": str(error)}
    return {"result": records.to_line(result)}


def run(
    tasks: Sequence[pool.Task],
    *,
    progress: Progress = quiet,
    again: str = "the same command",
    finished: Callable[[pool.Task, records.ResultRecord], None] = lambda task, result: None,
) -> list[records.ResultRecord]:
    """Train all `tasks` on the cluster that `RAY_ADDRESS` names, or the one of this machine, or else a fresh one here.

    As `pool.run` otherwise. A run takes as many CPUs as it has threads, and a GPU where its device is cuda.
    """
    module = ray()
    started = not module.is_initialized()
    if started:
        module.init(log_to_driver=False, configure_logging=False)
    try:
        return _run(module, tasks, progress, again, finished)
    finally:
        if started:
            module.shutdown()


def _run(
    module: Any,
    tasks: Sequence[pool.Task],
    progress: Progress,
    again: str,
    finished: Callable[[pool.Task, records.ResultRecord], None],
) -> list[records.ResultRecord]:
    here = module.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        module.get_runtime_context().get_node_id(), soft=False
    )
    inbox = module.remote(_Inbox).options(num_cpus=0, scheduling_strategy=here).remote()
    outcomes: dict[int, records.ResultRecord | str] = {}

    def listen() -> None:
        with contextlib.suppress(module.exceptions.RayError):
            for event in module.get(inbox.take.remote()):
                progress(Event(**event))

    with interrupts.Interrupts() as signals:
        waiting = {_submit(module, task, inbox): index for index, task in enumerate(tasks)}
        while waiting and signals.caught is None:
            done, _ = module.wait(list(waiting), timeout=_LOOK)
            listen()
            for reference in done:
                index = waiting.pop(reference)
                outcomes[index] = outcome = _outcome(module, reference)
                if not isinstance(outcome, str):
                    finished(tasks[index], outcome)
        for reference in waiting:  # each saves the run it has, as after Ctrl-C
            module.cancel(reference, force=False)
        if waiting:
            module.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE)
            listen()
    if signals.caught is not None:
        raise pool.stopped(signals.caught, again)
    return pool.all_results(tasks, outcomes)


def _submit(module: Any, task: pool.Task, inbox: Any) -> Any:
    config = task.config
    # What runs is named as the run, for Ray's own views of the cluster.
    options = {"num_cpus": config.threads or 1, "max_retries": RETRIES, "name": task.out.name}
    if config.device == "cuda":
        options["num_gpus"] = 1
    train = module.remote(_train).options(**options)
    return train.remote(config.to_dict(), str(task.out.resolve()), task.snapshots, inbox)


def _outcome(module: Any, reference: Any) -> records.ResultRecord | str:
    """The result of a task that has ended, or why it has none."""
    try:
        told: dict[str, str] = module.get(reference)
    except module.exceptions.RayError as error:
        return str(error).strip().splitlines()[-1]
    if "failed" in told:
        return told["failed"]
    return pool.result_of(json.loads(told["result"]))
