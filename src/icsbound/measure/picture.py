"""What is drawn of one layer: its outputs on a plane at every state, and the best transport between two of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from icsbound import _check
from icsbound.measure.layers import nearest_to
from icsbound.measure.plane import Plane, transported
from icsbound.records import Place, TransportRecord

ROWS = 160  # inputs in the picture: more would be a stain
PLANE = "plane."


def check(layer: object, measured: Collection[str]) -> None:
    """Raise InputError, with the nearest names, unless `layer` is one of the `measured` ones."""
    if layer not in measured:
        near = nearest_to(layer, measured) if isinstance(layer, str) else "True draws the last one"
        _check.fail("picture", "name one of the layers that are measured", layer, f": {near}")


class Picture:
    """Follows `layer`, or the last one where that is None, in one view, on the plane of the first cloud it is shown.

    Clouds are as a capture gives them, by (layer, view). Of a layer with a single value an input nothing is drawn.
    """

    def __init__(self, view: str, layer: str | None = None) -> None:
        self._view, self._layer = view, layer
        self.plane: Plane | None = None

    def key(self, clouds: Mapping[tuple[str, str], Tensor]) -> tuple[str, str]:
        """Layer and view that are followed. Raises InputError where the layer is not among `clouds`."""
        names = [layer for layer, view in clouds if view == self._view]
        if self._layer is None:
            return names[-1], self._view
        check(self._layer, names)
        return self._layer, self._view

    def see(self, clouds: Mapping[tuple[str, str], Tensor]) -> None:
        """Fix the plane by the first clouds that are shown."""
        cloud = clouds[self.key(clouds)]
        if self.plane is None and cloud.shape[1] > 1:
            self.plane = Plane(cloud)

    def state(self) -> dict[str, Tensor]:
        """The plane as tensors, their names beginning with `PLANE`; nothing before there is one."""
        return {} if self.plane is None else {PLANE + name: tensor for name, tensor in self.plane.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the plane in `state`, or with none where it holds none. Raises InputError for a part of one."""
        found = {name.removeprefix(PLANE): tensor for name, tensor in state.items() if name.startswith(PLANE)}
        try:
            self.plane = Plane.restored(found) if found else None
        except (KeyError, RuntimeError, ValueError):
            _check.fail("state", "hold a whole plane to draw on, or none of its parts", sorted(found))

    def of(self, place: Place, a: Tensor, b: Tensor) -> list[TransportRecord]:
        """The transport between two clouds of the layer that is followed, named by `place`; none without a plane."""
        if self.plane is None:
            return []
        rows = torch.linspace(0, len(a) - 1, min(ROWS, len(a)), device="cpu").round().long()
        start = self.plane.place(a[rows.to(a.device)])
        found, end = transported(start, self.plane.place(b[rows.to(b.device)]))
        record = TransportRecord(
            **vars(place),
            n=len(rows),
            d=a.shape[1],
            share=_short(self.plane.share),
            value=_short(found.value),
            x_a=_shorts(start[:, 0]),
            y_a=_shorts(start[:, 1]),
            x_b=_shorts(end[:, 0]),
            y_b=_shorts(end[:, 1]),
        )
        return [record]


def _short(value: float) -> float:
    """Five digits: a picture shows no more."""
    return float(f"{value:.5g}")


def _shorts(values: Tensor) -> list[float]:
    return [_short(value) for value in values.tolist()]
