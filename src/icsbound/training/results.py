"""What a run leaves in the table of results: its accuracy, and the choices behind it."""

from __future__ import annotations

from typing import Any

from icsbound.results import PHASES, Line, append, read
from icsbound.training.config import TrainConfig

__all__ = ["PHASES", "Line", "append", "of_run", "read"]


def of_run(config: TrainConfig, setting: str, phase: str, **measured: Any) -> Line:
    """The line of a run trained as `config` says; `measured` are the fields that come from its result."""
    return Line(
        setting=setting,
        phase=phase,
        dataset=config.data,
        model=config.model,
        arm=config.arm,
        seed=config.seed,
        batch_size=config.recipe.batch_size,
        epochs=config.recipe.epochs,
        device=config.device,
        config=_choices(config),
        **{"split": config.split, **measured},
    )


def _choices(config: TrainConfig) -> dict[str, Any]:
    """What of `config` changes numbers: not where files lie, who decodes them and how the layers were watched."""
    found = {k: v for k, v in config.to_dict().items() if k not in ("data_dir", "monitor", "workers")}
    if "pretrained" in found:
        del found["pretrained"]["file"]
    return found
