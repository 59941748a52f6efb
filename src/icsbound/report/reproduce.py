"""How to run it again: the command, the setting, the versions."""

from __future__ import annotations

import shlex
from typing import Any

from icsbound.report.runs import Study
from icsbound.report.wording import listed

# Where config.json holds the value of each flag of `icsbound compare` and `icsbound train`.
FLAGS = {
    "--data": ("data",),
    "--data-dir": ("data_dir",),
    "--model": ("model",),
    "--arms": ("arms",),
    "--arm": ("arm",),
    "--seeds": ("seeds",),
    "--seed": ("seed",),
    "--recipe": ("recipe", "name"),
    "--epochs": ("recipe", "epochs"),
    "--batch-size": ("recipe", "batch_size"),
    "--lr": ("recipe", "lr"),
    "--dropout": ("dropout",),
    "--split": ("split",),
    "--probe": ("monitor", "probe"),
    "--captures": ("monitor", "captures"),
    "--every": ("monitor", "every"),
    "--device": ("device",),
    "--threads": ("threads",),
}
MEASURE_FLAGS = {
    "--model": "model",
    "--arm": "arm",
    "--data": "data",
    "--data-dir": "data_dir",
    "--data-b": "data_b",
    "--layers": "layers",
    "--view": "views",
    "--side": "side",
    "--law": "law",
    "--probe": "probe",
    "--batch-size": "batch_size",
    "--seed": "seed",
    "--rate": "rate",
    "--device": "device",
}
SETTING = (
    "dataset",
    "model",
    "parameters",
    "train_size",
    "evaluation_size",
    "split",
    "epochs",
    "steps",
    "batch_size",
    "device",
)


def command(config: dict[str, Any]) -> str:
    """The command that `config`, a run's, comparison's or measurement's, stands for; empty where it is none of these.

    Choices that have no flag are those of config.json, which the page shows whole.
    """
    if "checkpoints" in config:
        words = ["icsbound", "measure", *map(str, config["checkpoints"])]
        for flag, key in MEASURE_FLAGS.items():
            words += _words(flag, config.get(key))
        return shlex.join(words)
    if "arms" in config and "seeds" in config:
        words = ["icsbound", "compare"]
    elif "arm" in config and "seed" in config:
        words = ["icsbound", "train"]
    else:
        return ""
    for flag, place in FLAGS.items():
        value: Any = config
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        words += _words(flag, value)
    if words[1] == "train" and config.get("monitor", {}) is None:
        words.append("--no-monitor")
    return shlex.join(words)


def _words(flag: str, value: Any) -> list[str]:
    return [] if value in (None, []) else [flag, *map(str, value if isinstance(value, list) else [value])]


def setting(study: Study) -> list[tuple[str, str]]:
    """What was run, as pairs of a name and a value: seeds, data, model, device, versions."""
    infos = [run.info for run in study.runs if run.info]
    if not infos:
        return []
    pairs = [("seeds", listed([str(seed) for seed in sorted({info.seed for info in infos})], 20))]
    for name in SETTING:
        values = dict.fromkeys(getattr(info, name) for info in infos)
        shown = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
        pairs.append((name.replace("_", " "), listed(shown)))
    versions = dict.fromkeys(f"{name} {version}" for info in infos for name, version in info.versions.items())
    return [*pairs, ("versions", ", ".join(versions))]
