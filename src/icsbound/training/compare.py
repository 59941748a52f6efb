"""Several arms, several seeds, otherwise the same: `compare` trains them all, each by the one loop, in a folder of
its own.

Runs share nothing, so they go side by side in worker processes, each with one thread: small networks gain nothing
from a second thread, and a run's numbers then do not depend on how many there are.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icsbound._check import InputError, fail, positive_int, shown
from icsbound.records import ResultRecord
from icsbound.training import loop, per_arm, pool
from icsbound.training.config import (
    PLACES,
    MonitorConfig,
    TrainConfig,
    check_consent,
    check_fields,
    claim,
    read_json,
    refuse_another,
)
from icsbound.training.progress import Progress, quiet
from icsbound.training.session import try_out


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """`arms` × `seeds`, each trained as `base` says (whose own arm and seed are not used).

    `by_arm` has, for arms that need it, the values of the recipe that are their own (see `per_arm`).
    """

    arms: tuple[str, ...] = ("bn", "published", "unitized", "unitized-1")
    by_arm: per_arm.Changes = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    base: TrainConfig = field(
        default_factory=lambda: TrainConfig(model="resnet8:width=8", threads=1, monitor=MonitorConfig())
    )

    def __post_init__(self) -> None:
        for name in ("arms", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                fail(name, "name at least one, each once", values)

    def runs(self) -> dict[str, TrainConfig]:
        """Folder name -> the run in it, seed by seed, so that an interrupted comparison has whole seeds first."""
        found: dict[str, TrainConfig] = {}
        shared = dataclasses.replace(self.base.shared(), per_arm=per_arm.values_of(self.by_arm))
        for seed in self.seeds:
            # Here, so that weights are not hashed for each arm.
            base = dataclasses.replace(shared, seed=seed).resolved()
            for arm in self.arms:
                recipe = per_arm.changed(base.recipe, self.by_arm.get(arm, {}))
                run = dataclasses.replace(base, arm=arm, recipe=recipe)
                folder = folder_name(run.run)
                if folder in found:
                    raise InputError(f"arms must have different names as folders, got two runs for {folder!r}")
                found[folder] = run
        return found

    def to_dict(self) -> dict[str, Any]:
        """This comparison as plain values of JSON: the shared choices, the arms and the seeds."""
        shared = self.base.shared().to_dict()
        del shared["arm"], shared["seed"], shared["per_arm"]
        return {"arms": list(self.arms), "by_arm": per_arm.plain(self.by_arm), "seeds": list(self.seeds), **shared}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CompareConfig:
        """The comparison that `values` describe."""
        shared = {key: value for key, value in values.items() if key not in ("arms", "by_arm", "seeds")}
        arms, seeds, own = values.get("arms"), values.get("seeds"), values.get("by_arm", {})
        if not isinstance(arms, list) or not isinstance(seeds, list):
            got = f"{shown(arms)} and {shown(seeds)}"
            raise InputError(f"a comparison's config must hold lists of arms and seeds, got {got}")
        check_fields(cls, {"arms": arms, "seeds": seeds}, "config")
        base = TrainConfig.from_dict(shared)
        return cls(arms=tuple(arms), by_arm=per_arm.checked(own), seeds=tuple(seeds), base=base)

    @classmethod
    def load(cls, folder: str | Path, models: Sequence[str | None] = ()) -> CompareConfig:
        """The comparison that the ``config.json`` in `folder` describes; for `models` see `TrainConfig.load`."""
        config = cls.from_dict(read_json(Path(folder) / "config.json"))
        check_consent(folder, config.base.model, models)
        return config


def folder_name(run: str) -> str:
    """`run` as a folder's name: characters that some file systems refuse become underscores."""
    return re.sub(r"[^A-Za-z0-9.=,+-]", "_", run)


def compare(
    config: CompareConfig, out: str | Path, *, jobs: int | None = None, progress: Progress = quiet
) -> dict[str, ResultRecord]:
    """Train every run of `config` in ``out/ARM-seedSEED``, `jobs` side by side; returns folder name -> result.

    Runs that are finished are skipped and runs that were stopped go on, so that a comparison is resumed by calling it
    again. `jobs` defaults to one for each core (one in all on an accelerator). Ctrl-C and SIGTERM end every run with
    a checkpoint.

    Raises InputError where `out` holds another comparison, and `pool.Failed`, after all other runs are done, where
    some failed.
    """
    out = Path(out)
    if jobs is not None:
        positive_int("jobs", jobs)
    runs = config.runs()
    refuse_another(out, config.to_dict(), free=PLACES)
    if not all(loop.finished(out / folder) for folder in runs):
        try_out(runs.values())  # what cannot be trained is refused before anything is written
    claim(out, config.to_dict())
    per_arm.keep(out, config.by_arm)
    tasks = [pool.Task(run, out / folder) for folder, run in runs.items()]
    results = pool.run(tasks, jobs=jobs, progress=progress, again=f"icsbound compare --resume {out}")
    return dict(zip(runs, results, strict=True))
