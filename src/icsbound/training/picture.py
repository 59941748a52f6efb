"""What a measurement draws: one layer of each run, as `icsbound.measure.picture` follows it."""

from __future__ import annotations

from torch import Tensor

from icsbound.measure import picture
from icsbound.records import Place, Record
from icsbound.training.states import MeasureConfig, Pair


class Picture:
    """Follows the layer that `config` names, or else the last, in the first view, in every run by itself."""

    def __init__(self, config: MeasureConfig) -> None:
        self._config = config
        self._of_run: dict[str, picture.Picture] = {}

    def of(
        self, pair: Pair, before: dict[tuple[str, str], Tensor], after: dict[tuple[str, str], Tensor]
    ) -> list[Record]:
        """The transport between the two states of `pair`; nothing for a layer with a single value an input."""
        drawn = self._of_run.setdefault(pair.run, picture.Picture(self._config.views[0], self._config.picture))
        drawn.see(before)
        layer, view = key = drawn.key(before)
        place = Place(
            run=pair.run,
            layer=layer,
            side=self._config.side,
            view=view,
            law=self._config.law,
            step_a=pair.a.step,
            step_b=pair.b.step,
        )
        return list(drawn.of(place, before[key], after[key]))
