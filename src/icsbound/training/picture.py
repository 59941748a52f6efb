"""What a measurement draws of one layer: its outputs on a plane at every state, and the transport between them."""

from __future__ import annotations

import torch
from torch import Tensor

from icsbound.measure.plane import Plane, transported
from icsbound.records import Record, TransportRecord
from icsbound.training.states import MeasureConfig, Pair

ROWS = 160  # inputs in the picture: more would be a stain


class Picture:
    """Follows the last of the layers that are measured, in the first view, on a plane fixed by the first state."""

    def __init__(self, config: MeasureConfig) -> None:
        self._config = config
        self._planes: dict[str, Plane] = {}

    def of(
        self, pair: Pair, before: dict[tuple[str, str], Tensor], after: dict[tuple[str, str], Tensor]
    ) -> list[Record]:
        """The transport between the two states of `pair`; nothing for a layer with a single value an input."""
        key = [(layer, view) for layer, view in before if view == self._config.views[0]][-1]
        a, b = before[key], after[key]
        if a.shape[1] < 2:
            return []
        if pair.run not in self._planes:
            self._planes[pair.run] = Plane(a)
        plane = self._planes[pair.run]
        rows = torch.linspace(0, len(a) - 1, min(ROWS, len(a))).round().long().to(a.device)
        start = plane.place(a[rows])
        found, end = transported(start, plane.place(b[rows]))
        return [
            TransportRecord(
                run=pair.run,
                layer=key[0],
                side=self._config.side,
                view=key[1],
                law=self._config.law,
                step_a=pair.a.step,
                step_b=pair.b.step,
                n=len(rows),
                d=a.shape[1],
                share=_short(plane.share),
                value=_short(found.value),
                x_a=_shorts(start[:, 0]),
                y_a=_shorts(start[:, 1]),
                x_b=_shorts(end[:, 0]),
                y_b=_shorts(end[:, 1]),
            )
        ]


def _short(value: float) -> float:
    """Five digits: a picture shows no more."""
    return float(f"{value:.5g}")


def _shorts(values: Tensor) -> list[float]:
    return [_short(value) for value in values.tolist()]
