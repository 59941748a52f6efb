"""Distances with their verdicts: every one as a row, and layer by layer, for the page and the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from icsbound._evidence import Estimate, HeldOut, adjusted, answer, farthest
from icsbound.report.runs import Study, load
from icsbound.report.wording import number

VERDICTS = ("moved", "below the floor", "not resolved")
_PLACE = ["run", "layer", "side", "view", "law", "step_a", "step_b"]
_BOUNDS = ("potential", "shift", "norm")  # the held-out lower bounds


def frame(study: Study) -> pd.DataFrame:
    """One row a distance that was measured with its inference; `verdict` and `p` are None and NaN until all are known.

    `bound` is the held-out lower bound that stands farthest above 0 in units of its error, `spreads` the distance over
    the spread of the first cloud. Verdicts are among all rows: where fewer were judged together, as by a monitor at
    each step or in several folders, they are taken anew.
    """
    distances = study.distances[[*_PLACE, "n", "d", "value", "paired", "estimator"]]
    shifts = study.shifts[[*_PLACE, "error", "floor", "disjoint", "spread", *_BOUNDS, *(f"{b}_error" for b in _BOUNDS)]]
    verdicts = study.verdicts[[*_PLACE, "verdict", "p", "among", "rate", "smallest"]]
    rows = distances.merge(shifts, on=_PLACE).merge(verdicts, on=_PLACE, how="left")
    bounds, errors = rows[[*_BOUNDS]].to_numpy(), rows[[f"{bound}_error" for bound in _BOUNDS]].to_numpy()
    best, each = farthest(bounds, errors), np.arange(len(rows))
    rows = rows.assign(spreads=rows["value"] / rows["spread"], bound=bounds[each, best], bound_error=errors[each, best])
    return rows if judged_together(rows) else _judged_anew(rows)


def judged_together(verdicts: pd.DataFrame) -> bool:
    """Whether all of these that have a verdict were judged among so many."""
    return bool((verdicts["among"].dropna() >= verdicts["verdict"].notna().sum()).all())


def _judged_anew(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with every verdict among all that have one, at the rate and for the smallest shift that each names."""
    part = rows[rows["verdict"].notna()]
    least = part["smallest"] * part["spread"]
    ps = adjusted([_p(row, smallest) for row, smallest in zip(part.to_dict("records"), least, strict=True)])
    answers = map(answer, ps, part["rate"], part["value"], part["floor"].clip(lower=least))
    found = {"p": ps, "verdict": list(answers), "among": len(part)}
    return rows.assign(**{column: pd.Series(values, part.index) for column, values in found.items()})


def _p(row: Mapping[Any, Any], least: float) -> float:
    return HeldOut(*(Estimate(row[bound], row[f"{bound}_error"]) for bound in _BOUNDS)).p_above(least)


@dataclass(frozen=True)
class LayerRow:
    """A layer in one view of one run, over all its pairs of steps; the numbers are those of its largest distance."""

    run: str
    layer: str
    view: str
    pairs: int
    moved: int
    below_the_floor: int
    not_resolved: int
    value: float
    spreads: float
    floor: float
    bound: float
    p: float | None


def by_layer(table: pd.DataFrame) -> Iterator[LayerRow]:
    """A row a run, layer and view of what `frame` found, in the order of the network."""
    for (run, layer, view), rows in table.groupby(["run", "layer", "view"], sort=False):
        largest = rows.loc[rows["spreads"].idxmax()]
        tally = rows["verdict"].value_counts()
        yield LayerRow(
            run=run,
            layer=layer,
            view=view,
            pairs=len(rows),
            moved=int(tally.get("moved", 0)),
            below_the_floor=int(tally.get("below the floor", 0)),
            not_resolved=int(tally.get("not resolved", 0)),
            value=float(largest["value"]),
            spreads=float(largest["spreads"]),
            floor=float(largest["floor"]),
            bound=float(largest["bound"]),
            p=None if rows["p"].isna().all() else float(rows["p"].min()),
        )


def steps(row: Any) -> str:
    """The two steps of a distance in words."""
    return f"from step {row['step_a']} to {row['step_b']}"


def rows(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Every distance of the measurement in `folder` as plain values, for JSON."""
    table = frame(load(Path(folder))).drop(columns=[*_BOUNDS, *(f"{b}_error" for b in _BOUNDS)])
    found: list[dict[str, Any]] = []
    for record in table.to_dict("records"):
        found.append({str(key): None if pd.isna(value) else value for key, value in record.items()})
    return found


def lines(folder: str | os.PathLike[str]) -> list[str]:
    """The verdicts of the measurement in `folder` as a table: a line a distance, or a layer where there are pairs."""
    table = frame(load(Path(folder)))
    if table.groupby(["run", "layer", "view"]).size().max() > 1:
        cells = [["layer", "view", "pairs", *VERDICTS, "largest EM", "in spreads", "floor", "W1 at least", "least p"]]
        for layer in by_layer(table):
            tally = (layer.pairs, layer.moved, layer.below_the_floor, layer.not_resolved)
            numbers = (layer.value, layer.spreads, layer.floor, layer.bound)
            cells.append([layer.layer, layer.view, *map(str, tally), *map(number, numbers), probability(layer.p)])
        return _aligned(cells)
    found: list[str] = []
    for run, part in table.groupby("run", sort=False):
        cells = [["layer", "view", "d", "EM", "in spreads", "floor", "W1 at least", "p", "verdict"]]
        for _, r in part.iterrows():
            em = f"{number(r['value'])} ± {number(r['error'], 2)}"
            bound = f"{number(r['bound'])} ± {number(r['bound_error'], 2)}"
            verdict = "–" if pd.isna(r["verdict"]) else r["verdict"]
            start = [r["layer"], r["view"], str(r["d"]), em, number(r["spreads"]), number(r["floor"])]
            cells.append([*start, bound, probability(r["p"]), verdict])
        found += [f"{run}, n = {part['n'].iloc[0]}", *_aligned(cells)]
    return found


def probability(p: float | None) -> str:
    """A p-value as text; beyond one in a thousand million the normal approximation says no more."""
    return "–" if p is None or pd.isna(p) else "< 10⁻⁹" if p < 1e-9 else number(p, 2)


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table]
