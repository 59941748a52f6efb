"""Where a monitor's records may go besides a file (`icsbound.records.Writer(path).write`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from icsbound.records import CostRecord, DistanceRecord, LayerRecord, Record

_DISTANCES = ("value", "lower", "paired", "independent", "mean_shift", "norms", "scale", "scale_free")


class ScalarWriter(Protocol):
    """What TensorBoard's `SummaryWriter` offers, and loggers that follow it."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Note one number at a step."""


def scalars(writer: ScalarWriter) -> Callable[[Record], None]:
    """A sink that sends numbers to `writer`, such as ``torch.utils.tensorboard.SummaryWriter(folder)``.

    Tags: ``VIEW FIELD/LAYER`` at the later step of a distance (``pooled scale_free/layer1.bn1``), ``FIELD/LAYER`` for
    the parameters of a layer: one group of charts for each quantity, one chart for each layer; ``cost/FIELD`` for what
    measuring took. What a record leaves open is left out, and so are all other records: what a distance says (errors,
    floor, held-out bounds) and its verdict go to a file, or to a sink of your own.
    """

    def sink(record: Record) -> None:
        if isinstance(record, CostRecord):
            for field in ("capture", "distances", "training", "share"):
                if (number := getattr(record, field)) is not None:
                    writer.add_scalar(f"cost/{field}", number, record.step)
            return
        if isinstance(record, DistanceRecord):
            numbers = {f"{record.view} {field}": getattr(record, field) for field in _DISTANCES}
            layer, step = record.layer, record.step_b
        elif isinstance(record, LayerRecord):
            own = [field.name for field in dataclasses.fields(record) if field.name not in ("run", "layer", "step")]
            numbers = {field: getattr(record, field) for field in own}
            layer, step = record.layer, record.step
        else:
            return
        for field, number in numbers.items():
            if number is not None:
                writer.add_scalar(f"{field}/{layer}", number, step)

    return sink
