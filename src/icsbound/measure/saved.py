"""What a monitor holds between two steps, as plain tensors by name for a checkpoint, and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from icsbound import _check
from icsbound._check import InputError
from icsbound.measure.picture import PLANE

Clouds: TypeAlias = dict[tuple[str, str], torch.Tensor]

_STEPS, _PACE = "steps", "pace"


@dataclass(frozen=True)
class Saved:
    """The captures that others are measured against, the last step, and the pace of the training."""

    past: list[tuple[int, Clouds]]
    last_step: int | None
    interval: int  # of a budget; 0 without one
    pace: list[float]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it by name."""
        steps = [step for step, _ in self.past]
        state = {
            _STEPS: torch.tensor([*steps, -1 if self.last_step is None else self.last_step], device="cpu"),
            _PACE: torch.tensor([self.interval, *self.pace], dtype=torch.float64, device="cpu"),
        }
        for index, (_, clouds) in enumerate(self.past):
            state.update({f"{index}.{view}.{layer}": cloud for (layer, view), cloud in clouds.items()})
        return state


def restored(state: Mapping[str, Any], views: Collection[str], n: int | None) -> Saved:
    """What `state` holds, for a monitor of these views and n inputs (None: of any number).

    Raises InputError for what `Saved.tensors` cannot have given, or another monitor has.
    """
    try:
        *steps, last = map(int, state[_STEPS].tolist())
        interval, *pace = map(float, state[_PACE].tolist())
        past: list[Clouds] = [{} for _ in steps]
        for key in (key for key in state if key not in (_STEPS, _PACE) and not key.startswith(PLANE)):
            index, view, layer = key.split(".", 2)
            past[int(index)][layer, view] = _check.cloud(f"{key!r} in state", state[key])
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        held = sorted(map(str, state)) if isinstance(state, Mapping) else state
        _check.fail("state", f"hold {_STEPS!r}, {_PACE!r} and clouds, as state_dict gives it", held)
    if len(pace) != 6 or not all(map(math.isfinite, (interval, *pace))):
        _check.fail(f"{_PACE!r} in state", "hold 7 finite numbers", [interval, *pace])
    for clouds in past:
        found = {view for _, view in clouds}
        if found != set(views):
            raise InputError(f"state must hold the views {sorted(views)} of this monitor, got {sorted(found)}")
        for (layer, _), cloud in clouds.items():
            if n is not None and len(cloud) != n:
                raise InputError(f"state must be of a probe of {n} inputs, got {len(cloud)} for layer {layer!r}")
    return Saved(list(zip(steps, past, strict=True)), None if last < 0 else last, int(interval), pace)
