"""How to run it again: the command, the setting, the versions."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from icsbound.report.runs import Study
from icsbound.report.wording import listed

# Flags of `icsbound compare` and `icsbound train` that do not bear the name of the value in config.json.
NAMED: dict[tuple[str, ...], str] = {("recipe", "name"): "--recipe", ("pretrained", "file"): "--weights"}
# Values of config.json that no flag sets; the page shows them all.
UNNAMED: set[tuple[str, ...]] = {
    ("hold_out",),
    ("dtype",),
    ("per_arm",),
    ("pretrained", "sha256"),
    ("pretrained", "by_seed"),
    ("monitor", "views"),
    ("monitor", "against"),
    ("monitor", "law"),
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
    "--smallest": "smallest",
    "--picture": "picture",
    "--dtype": "dtype",
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
    """The command that `config`, of a run, comparison, sweep or measurement, stands for; empty where it is of none.

    Choices that have no flag are those of config.json, which the page shows whole.
    """
    if "checkpoints" in config:
        words = ["icsbound", "measure", *map(str, config["checkpoints"])]
        for flag, key in MEASURE_FLAGS.items():
            words += _words(flag, config.get(key))
        return shlex.join(words)
    if "batch_sizes" in config and isinstance(config.get("base"), dict):
        words = ["icsbound", "sweep", *([] if config.get("scale_lr", True) else ["--constant-lr"])]
        words += ["--monitor"] if config["base"].get("monitor") is not None else []
        config = {k: v for k, v in config.items() if k not in ("base", "scale_lr")} | config["base"]
    elif "arms" in config and "seeds" in config:
        words = ["icsbound", "compare"]
    elif "arm" in config and "seed" in config:
        words = ["icsbound", "train"]
    else:
        return ""
    if any(config.get("by_arm", {}).values()):
        words += ["--arms-file", "arms.toml"]  # which lies in the folder
    for place, value in _leaves({k: v for k, v in config.items() if k != "by_arm"}):
        if place not in UNNAMED:
            words += _words(NAMED.get(place, "--" + place[-1].replace("_", "-")), value)
    if words[1] == "train" and config.get("monitor", {}) is None:
        words.append("--no-monitor")
    return shlex.join(words)


def _leaves(config: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
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
