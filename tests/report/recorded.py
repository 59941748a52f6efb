"""Folders of records with known contents: what a page must say of them is known before it is built."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from icsbound import records
from icsbound.records import (
    DistanceRecord,
    EpochRecord,
    LayerRecord,
    Place,
    Record,
    ResultRecord,
    RunRecord,
    ShiftRecord,
    VerdictRecord,
)

LAYERS = ("stem.norm", "block.norm1", "block.norm2")
STEPS = (0, 1, 4, 9, 16, 25, 36)
ACCURACY = {"bn": 0.965, "unitized": 0.972, "published": 0.961, "gn": 0.90}
MOVES = {"unitized": 0.5, "published": 1.5, "gn": 2.0}  # scale-free ICS as a multiple of that of bn
ALPHA = {"unitized": (0.5, 0.4), "unitized-1": (1.0, 1.0), "published": (0.0, 0.2)}  # at the first and the last step


def of_run(
    arm: str,
    seed: int,
    *,
    layers: Sequence[str] = LAYERS,
    steps: Sequence[int] = STEPS,
    views: Sequence[str] = ("pooled", "sample"),
    dataset: str = "digits",
    noise: float = 0.02,
) -> list[Record]:
    """The records of a finished run. Everything is drawn from the seed alone, so arms of one seed share their noise."""
    g = np.random.default_rng(seed)
    run = f"{arm}-seed{seed}"
    base = arm.partition(":")[0]
    first, last = ALPHA.get(base, (None, None))
    found: list[Record] = [
        RunRecord(
            run=run,
            arm=arm,
            seed=seed,
            dataset=dataset,
            model="resnet8:width=8",
            parameters=19_714,
            train_size=4000,
            evaluation_size=1000,
            split="test",
            epochs=3,
            steps=steps[-1],
            batch_size=64,
            device="cpu",
            versions={"torch": "2.13.0"},
        )
    ]
    for k, step in enumerate(steps):
        for layer in layers:
            if k:
                found += [distance(g, run, layer, v, (steps[k - 1], step), MOVES.get(base, 1.0), noise) for v in views]
            mean = None if first is None else first + (last - first) * k / (len(steps) - 1)
            spread = 0.0 if first == last else 0.1 * k / len(steps)
            found.append(
                LayerRecord(
                    run=run,
                    layer=layer,
                    step=step,
                    alpha_mean=mean,
                    alpha_min=None if mean is None else mean - spread,
                    alpha_max=None if mean is None else mean + spread,
                    weight_mean=1.0,
                    weight_max=1.5,
                    bound=math.inf if base in ("bn", "published") else 200.0,
                )
            )
    shared = float(g.normal(0, 0.002))  # what the seed does to every arm, which pairing removes
    for epoch in range(1, 4):
        accuracy = ACCURACY.get(base, 0.97) + shared + float(g.normal(0, 0.0002)) - 0.1 * (3 - epoch)
        found.append(
            EpochRecord(
                run=run,
                epoch=epoch,
                step=steps[-1] * epoch // 3,
                train_loss=1 / epoch,
                loss=1.5 / epoch,
                accuracy=accuracy,
                seconds=1.0,
                images_per_second=4000.0,
            )
        )
    found.append(
        ResultRecord(
            run=run, step=steps[-1], split="test", accuracy=accuracy, loss=0.5, seconds=3.0, peak_memory=500 << 20
        )
    )
    return found


def distance(
    g: np.random.Generator, run: str, layer: str, view: str, steps: tuple[int, int], factor: float, noise: float
) -> DistanceRecord:
    """A distance inside its bracket: 1 on average times `factor`, EM 10 % below the paired displacement when pooled."""
    scale = float(g.uniform(1, 3))
    value = scale * factor * float(np.exp(noise * g.normal()))
    return DistanceRecord(
        run=run,
        layer=layer,
        side="outputs",
        view=view,
        law="eval",
        step_a=steps[0],
        step_b=steps[1],
        n=256,
        d=16 if view == "pooled" else 1024,
        value=value,
        lower=value * (1 - 1e-12),
        paired=value / 0.9 if view == "pooled" else value,
        independent=value + scale,
        mean_shift=0.6 * value,
        norms=0.4 * value,
        scale=scale,
        scale_free=value / scale,
        estimator="exact assignment",
        seconds=0.01,
    )


def judged(lines: Sequence[Record], verdicts: Sequence[str] = ("moved",), among: int | None = None) -> list[Record]:
    """`lines` with what each distance says about its laws and then, in turn, one of `verdicts` on it, given `among` so
    many or (None) among all: as a measurement leaves them.
    """
    distances = [line for line in lines if isinstance(line, DistanceRecord)]
    found = list(lines)
    for k, one in enumerate(distances):
        place = {field.name: getattr(one, field.name) for field in dataclasses.fields(Place)}
        verdict = verdicts[k % len(verdicts)]
        share = {"moved": 0.5, "below the floor": 0.0, "not resolved": 0.05}[verdict]
        found.append(
            ShiftRecord(
                **place,
                error=0.1 * one.scale,
                floor=0.3 * one.scale,
                disjoint=0.4 * one.scale,
                spread=one.scale,
                potential=share * one.value,
                potential_error=0.1 * one.scale,
                shift=0.9 * share * one.value,
                shift_error=0.1 * one.scale,
                norm=0.5 * share * one.value,
                norm_error=0.1 * one.scale,
                p=1e-6,
                seconds=0.1,
            )
        )
        found.append(
            VerdictRecord(
                **place,
                verdict=verdict,
                p=0.049 * 0.86**k if verdict == "moved" else 0.2,
                among=among or len(distances),
                rate=0.05,
                smallest=0.0,
            )
        )
    return found


def save(path: Path, lines: Sequence[Record]) -> None:
    """Write a run's folder: its records.jsonl."""
    path.mkdir(parents=True, exist_ok=True)
    with records.Writer(path / "records.jsonl") as writer:
        for line in lines:
            writer.write(line)


def keep(path: Path, alpha: Mapping[str, Sequence[float]]) -> None:
    """Beside a run's records, a network with these alphas by layer, as a training leaves it."""
    vectors = {layer: np.asarray(values, dtype=np.float32) for layer, values in alpha.items()}
    tensors = {f"{layer}.alpha": values for layer, values in vectors.items()}
    save_file(
        tensors | {f"{layer}.running_mean": values for layer, values in vectors.items()}, path / "model.safetensors"
    )


def comparison(
    folder: Path, arms: Sequence[str] = ("bn", "unitized"), seeds: Sequence[int] = (0, 1, 2), **k: Any
) -> Path:
    """A folder as `icsbound compare` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "arms": list(arms),
        "seeds": list(seeds),
        "data": "digits",
        "model": "resnet8:width=8",
        "recipe": {"name": "short", "epochs": 3, "batch_size": 64, "lr": 0.1},
        "monitor": {"probe": 256, "captures": 6, "every": None},
        "device": "cpu",
        "threads": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for arm in arms:
        for seed in seeds:
            save(folder / f"{arm}-seed{seed}".replace(":", "_"), of_run(arm, seed, **k))
    return folder


def changed(lines: Sequence[Record], kind: type[Record], **values: Any) -> list[Record]:
    """`lines` with other values in every record of one kind."""
    return [dataclasses.replace(line, **values) if isinstance(line, kind) else line for line in lines]
