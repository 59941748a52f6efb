"""What a measurement writes down: records of distances, of what they say, of verdicts, and of layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields

import torch
from torch import nn

from icsbound._check import InputError, fail
from icsbound.measure.cheap import CheapBracket
from icsbound.measure.emd import EMDResult
from icsbound.measure.floor import LEVEL, Estimate, HeldOut, Shift, Verdict, control
from icsbound.records import DistanceRecord, LayerRecord, Record, ShiftRecord, VerdictRecord
from icsbound.records import Place as Place


def place_of(record: Place) -> Place:
    """Where a distance was taken that a record is about."""
    return Place(**{field.name: getattr(record, field.name) for field in fields(Place)})


def distance_record(
    place: Place, n: int, d: int, bracket: CheapBracket, em: EMDResult | None, seconds: float
) -> DistanceRecord:
    """The bracket of two clouds (n, d) and, unless it is None, their exact distance."""
    value = None if em is None else em.value
    return DistanceRecord(
        **vars(place),
        n=n,
        d=d,
        value=value,
        lower=None if em is None else em.lower,
        paired=bracket.paired if em is None or em.paired is None else em.paired,
        independent=bracket.independent,
        mean_shift=bracket.mean_shift,
        norms=bracket.norms,
        scale=bracket.scale,
        scale_free=None if value is None else _ratio(value, bracket.scale),
        estimator="bracket" if em is None else em.estimator,
        seconds=seconds,
    )


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 0 else math.inf if value > 0 else 0.0


def shift_record(place: Place, shift: Shift, seconds: float) -> ShiftRecord:
    """What a distance says about the laws behind its clouds."""
    held = shift.held_out
    return ShiftRecord(
        **vars(place),
        error=shift.error,
        floor=shift.floor,
        disjoint=shift.disjoint,
        spread=shift.spread,
        potential=held.potential.value,
        potential_error=held.potential.error,
        shift=held.shift.value,
        shift_error=held.shift.error,
        norm=held.norm.value,
        norm_error=held.norm.error,
        p=held.p,
        seconds=seconds,
    )


def verdict_record(place: Place, verdict: Verdict, among: int) -> VerdictRecord:
    """The judgement on a distance among so many that were judged together."""
    return VerdictRecord(
        **vars(place), verdict=verdict.text, p=verdict.p, among=among, rate=verdict.level, smallest=verdict.smallest
    )


def shift_of(distance: DistanceRecord, said: ShiftRecord) -> Shift:
    """The shift that two records tell of, without the matching and the potentials, which no record holds.

    Raises InputError for a distance of which there is the bracket alone.
    """
    if distance.value is None or distance.lower is None:
        fail("distance", "be exact to be judged", distance.estimator)
    none = torch.empty(0, dtype=torch.float64, device="cpu")
    em = EMDResult(
        value=distance.value,
        lower=distance.lower,
        gap=distance.value - distance.lower,
        paired=distance.paired,
        matching=None,
        n=distance.n,
        d=distance.d,
        estimator=distance.estimator,
        u=none,
        v=none,
        scale=0.0,
    )
    held = HeldOut(
        potential=Estimate(said.potential, said.potential_error),
        shift=Estimate(said.shift, said.shift_error),
        norm=Estimate(said.norm, said.norm_error),
    )
    return Shift(em=em, error=said.error, floor=said.floor, disjoint=said.disjoint, held_out=held, spread=said.spread)


def judged(lines: Iterable[Record], rate: float = LEVEL, smallest: float = 0.0) -> list[VerdictRecord]:
    """New verdicts on all distances in `lines` together, such as a monitor's records of a whole training.

    What the monitor said while it ran was judged step by step; here the false discovery rate is kept over layers,
    views and steps at once (`icsbound.control`). Of the records, those with a `ShiftRecord` are judged.
    """
    found = shifts_in(lines)
    verdicts = control([shift for _, shift in found], rate, smallest)
    places = [place_of(distance) for distance, _ in found]
    return [verdict_record(place, one, len(found)) for place, one in zip(places, verdicts, strict=True)]


def shifts_in(lines: Iterable[Record]) -> list[tuple[DistanceRecord, Shift]]:
    """Every distance in `lines` that has a `ShiftRecord`, and what both tell of its shift.

    Raises InputError for a `ShiftRecord` without its distance, or of which there is the bracket alone.
    """
    lines = list(lines)
    distances = {place_of(line): line for line in lines if isinstance(line, DistanceRecord)}
    told = {place_of(line): line for line in lines if isinstance(line, ShiftRecord)}
    for place in told.keys() - distances.keys():
        raise InputError(
            f"lines must hold the distance of every shift, got a shift alone for layer {place.layer!r}, {place.view} "
            f"view, of run {place.run!r} from step {place.step_a} to {place.step_b}"
        )
    return [(distances[place], shift_of(distances[place], line)) for place, line in told.items()]


def layer_record(run: str, layer: str, step: int, module: nn.Module, positions: int | None) -> LayerRecord | None:
    """The state of a normalization layer, or None for a module with none of: `alpha`, a `weight` per channel, `bound`.

    `bound(positions)` is asked for the whole sample's output, of `positions` positions.
    """
    alpha, weight = getattr(module, "alpha", None), getattr(module, "weight", None)
    if callable(clamped := getattr(module, "clamped_alpha", None)):
        alpha = clamped()  # what the layer uses, where an optimizer's step left its range
    alpha = alpha.detach() if isinstance(alpha, torch.Tensor) else None
    weight = weight.detach().abs() if isinstance(weight, torch.Tensor) and weight.ndim == 1 else None
    bound = getattr(module, "bound", None)
    limit = float(bound(positions)) if callable(bound) and positions is not None else None
    if alpha is None and weight is None and limit is None:
        return None
    return LayerRecord(
        run=run,
        layer=layer,
        step=step,
        alpha_mean=None if alpha is None else float(alpha.mean()),
        alpha_min=None if alpha is None else float(alpha.min()),
        alpha_max=None if alpha is None else float(alpha.max()),
        weight_mean=None if weight is None else float(weight.mean()),
        weight_max=None if weight is None else float(weight.max()),
        bound=limit,
    )
