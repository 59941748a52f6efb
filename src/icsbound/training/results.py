"""What a run leaves in the table of results: its accuracy, and the choices behind it."""

from __future__ import annotations

from typing import Any

from icsbound.results import PHASES, Line, append, choices, read
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
        config=choices(config.to_dict()),
        **{"split": config.split, **measured},
    )
