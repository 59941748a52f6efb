"""Arms × batch sizes × seeds: many runs, each by the one loop, and a table with a line for each as soon as it is
finished.

Like a comparison, but made to grow: it can be stopped anywhere, spread over the jobs of an array, and called again to
go on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from icsbound._check import InputError, fail, one_of, positive_int
from icsbound.records import ResultRecord
from icsbound.training import cluster, devices, loop, per_arm, pool, results
from icsbound.training.compare import folder_name
from icsbound.training.config import PLACES, TrainConfig, check_consent, check_fields, claim, read_json, refuse_another
from icsbound.training.progress import Progress, quiet
from icsbound.training.session import try_out
from icsbound.training.snapshots import Snapshots

LAUNCHERS = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """`arms` × `batch_sizes` × `seeds`, each otherwise trained as `base` says.

    With `scale_lr` the learning rate is in proportion to the batch (Goyal et al. 2017, arXiv 1706.02677), from that
    of `base`. `by_arm` has, for arms that need it, the values of the recipe that are their own (see `per_arm`).
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    by_arm: per_arm.Changes = field(default_factory=dict)
    base: TrainConfig = field(default_factory=lambda: TrainConfig(threads=1))
    setting: str = "sweep"
    phase: str = "explore"
    scale_lr: bool = True

    def __post_init__(self) -> None:
        for name in ("arms", "seeds", "batch_sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                fail(name, "name at least one, each once", values)
        one_of("phase", self.phase, results.PHASES)
        if self.phase == "confirm" and self.base.split != "test":
            fail("split", "be 'test' in phase confirm", self.base.split)

    def runs(self) -> dict[str, TrainConfig]:
        """Folder name -> the run in it, seed by seed."""
        found: dict[str, TrainConfig] = {}
        shared = dataclasses.replace(self.base.shared(), per_arm=per_arm.values_of(self.by_arm))
        for seed in self.seeds:
            base = dataclasses.replace(shared, seed=seed).resolved()
            for batch_size in self.batch_sizes:
                for arm in self.arms:
                    recipe = per_arm.changed(base.recipe, self.by_arm.get(arm, {}))
                    lr = recipe.lr * batch_size / recipe.batch_size if self.scale_lr else recipe.lr
                    scaled = dataclasses.replace(recipe, batch_size=batch_size, lr=lr)
                    run = dataclasses.replace(base, arm=arm, recipe=scaled)
                    folder = folder_name(f"{arm}-batch{batch_size}-seed{seed}")
                    if folder in found:
                        raise InputError(f"arms must have different names as folders, got two runs for {folder!r}")
                    found[folder] = run
        return found

    def to_dict(self) -> dict[str, Any]:
        """This sweep as plain values of JSON."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "base"}
        own["by_arm"] = per_arm.plain(self.by_arm)
        shared = self.base.shared().to_dict()
        del shared["arm"], shared["seed"], shared["per_arm"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()} | {"base": shared}

    @classmethod
    def load(cls, folder: str | Path, models: Sequence[str | None] = ()) -> SweepConfig:
        """The sweep that the ``config.json`` in `folder` describes; for `models` see `TrainConfig.load`."""
        values = read_json(Path(folder) / "config.json")
        check_fields(cls, values, "config")
        try:
            own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            own["by_arm"] = per_arm.checked(own.get("by_arm", {}))
            config = cls(**{**own, "base": TrainConfig.from_dict(values["base"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder} must hold the config of a sweep: {error}") from None
        check_consent(folder, config.base.model, models)
        return config


def launching(launcher: str, jobs: int | None) -> Callable[..., object]:
    """What trains the runs of a sweep. Raises InputError for an unknown or missing launcher, and for its `jobs`."""
    if one_of("launcher", launcher, LAUNCHERS) == "local":
        if jobs is not None:
            positive_int("jobs", jobs)
        return partial(pool.run, jobs=jobs)
    if jobs is not None:
        fail("jobs", "be left out with launcher ray, which fills the cluster", jobs)
    cluster.ray()
    return cluster.run


def sweep(
    config: SweepConfig,
    out: str | Path,
    *,
    jobs: int | None = None,
    shard: tuple[int, int] = (1, 1),
    launcher: str = "local",
    snapshots: int | str | None = None,
    progress: Progress = quiet,
) -> list[results.Line]:
    """Train every run of `config` below `out` and write a line each into ``out/results.jsonl`` when it is finished.

    `shard` = (i, n) takes every n-th run from the i-th on, for job i of n; the jobs may share `out`. Finished runs
    are not run again, and a line that a killed process had no time for is added. `launcher` "local" trains `jobs` side
    by side here, "ray" on a Ray cluster (see `cluster`). The network is kept every `snapshots` epochs, or with
    "50steps" every 50 steps, as ``RUN/snapshots/step-STEP.safetensors``. Returns the lines of this shard. Raises as
    `compare` does.
    """
    out = Path(out)
    launch = launching(launcher, jobs)
    kept = Snapshots(snapshots).text
    index, count = shard
    if not 1 <= index <= count:
        fail("shard", "be i/n with 1 <= i <= n", f"{index}/{count}")
    runs = dict(list(config.runs().items())[index - 1 :: count])
    refuse_another(out, config.to_dict(), free=tuple(f"base.{place}" for place in PLACES))
    # What cannot be trained is refused before anything is written.
    try_out(run for name, run in runs.items() if loop.finished(out / name) is None)
    claim(out, config.to_dict())
    per_arm.keep(out, config.by_arm)
    table = out / "results.jsonl"
    lines: list[results.Line] = []

    def keep(task: pool.Task, result: ResultRecord) -> None:
        line = results.of_run(
            task.config,
            config.setting,
            config.phase,
            accuracy=result.accuracy,
            images=loop.evaluated(task.out),
            seconds=result.seconds,
            versions=devices.versions(),
        )
        results.append(table, line, once=True)
        lines.append(line)

    tasks = [pool.Task(run, out / name, snapshots) for name, run in runs.items()]
    again = f"icsbound sweep --resume {out}" + (f" --snapshots {kept}" if kept else "")
    launch(tasks, progress=progress, again=again, finished=keep)
    return lines
