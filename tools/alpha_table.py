"""Alpha at the end of trainings, layer by layer, as a table: what `docs/results/alpha.csv` holds.

    python tools/alpha_table.py runs/cifar10 > alpha.csv

One line for each unitized layer of each network below the folders: quantiles of alpha over its channels, and shares of
the channels. What all channels of an arm make together goes to the error stream.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from icsbound.report import channels

QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


def row(alphas: np.ndarray) -> dict[str, float]:
    """Quantiles and shares of one layer's channels, or of any others."""
    return {
        "channels": len(alphas),
        **{name: float(np.quantile(alphas, share)) for name, share in QUANTILES.items()},
        "below_0": float((alphas < 0).mean()),
        "within_0.05_of_0": float((abs(alphas) <= 0.05).mean()),
        "within_0.05_of_1": float((abs(alphas - 1) <= 0.05).mean()),
        "above_1": float((alphas > 1).mean()),
    }


def tables(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Layer by layer in the order of their names, and arm by arm."""
    rows, arms = [], dict[str, list[np.ndarray]]()
    for path in sorted(path for folder in folders for path in folder.rglob("model.safetensors")):
        config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        for layer, alphas in sorted(channels.read(path).items()):
            rows.append({"arm": config["arm"], "seed": config["seed"], "layer": layer, **row(alphas)})
            arms.setdefault(config["arm"], []).append(alphas)
    if not rows:
        raise SystemExit(f"no network with unitized layers below {', '.join(map(str, folders))}")
    layers = pd.DataFrame(rows).sort_values(["arm", "seed", "layer"], ascending=[False, True, True])
    return layers, pd.DataFrame([{"arm": arm, **row(np.concatenate(own))} for arm, own in arms.items()])


def main() -> None:
    by_layer, by_arm = tables([Path(word) for word in sys.argv[1:]])
    print(by_layer.to_csv(index=False, float_format="%.4f"), end="")
    print(by_arm.to_string(index=False, float_format="%.3f"), file=sys.stderr)


if __name__ == "__main__":
    main()
