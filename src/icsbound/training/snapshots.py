"""How often the network is kept in the course of a training, so that its states can be measured later."""

from __future__ import annotations

import re

from icsbound._check import fail


class Snapshots:
    """After every so many epochs (an integer), or steps ("50steps"); None: never."""

    def __init__(self, every: int | str | None) -> None:
        text = "" if every is None else str(every)
        match = re.fullmatch(r"([1-9]\d*)( ?steps?)?", text)
        if every is not None and (match is None or isinstance(every, bool)):
            fail("snapshots", "be a number of epochs, such as 1, or of steps, such as '50steps'", every)
        self.text = text
        self._number = int(match[1]) if match else 0
        self._steps = bool(match and match[2])

    def due(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the network is kept after `step`."""
        if not self._number:
            return False
        return step % (self._number if self._steps else self._number * steps_per_epoch) == 0
