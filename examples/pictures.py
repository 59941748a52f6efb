"""The pictures that the examples share, and where they go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from icsbound.records import DistanceRecord

COLOURS = ["#2f6fde", "#e08a00", "#0f9d77", "#c2468f"]
NAMED = {"below the floor": COLOURS[0], "moved": COLOURS[1], "not resolved": COLOURS[2], "floor": "#9aa2af"}


def save(chart: Any, name: str) -> Path:
    """Save the Altair chart as NAME.svg, in the folder that the variable EXAMPLE_PICTURES names or in runs/examples."""
    folder = Path(os.environ.get("EXAMPLE_PICTURES", "runs/examples"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    # Viewers have other fonts, some of them wider: the margin keeps their labels whole.
    chart.configure(background="white", padding=24).save(path)
    print(f"picture: {path.name}")
    return path


def by_layer(
    series: Mapping[str, Mapping[str, float]], name: str, x: str, scale: str = "linear", title: str = ""
) -> Path:
    """A dot for each layer of each series: name of the series -> layer -> value."""
    rows = [{"series": s, "layer": layer, x: v} for s, values in series.items() for layer, v in values.items()]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    colours = [NAMED.get(one, COLOURS[k % len(COLOURS)]) for k, one in enumerate(series)]
    colour = alt.Color("series:N", title=None, scale=alt.Scale(domain=list(series), range=colours))
    chart = (
        alt.Chart(pd.DataFrame(rows), width=420, height=22 * len(layers), title=title)
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=alt.X(x, type="quantitative", scale=alt.Scale(type=scale)),
            y=alt.Y("layer:N", sort=layers, title=None, axis=alt.Axis(grid=True, labelLimit=260)),
            color=colour.legend(None if len(series) == 1 else alt.Legend(orient="top")),
        )
    )
    return save(chart, name)


def over_steps(records: Iterable[object], name: str) -> Path:
    """A line for each layer: the distances of `records` in spreads, by the later of both steps.

    A band where there are records without the exact distance: it lies between the mean shift and the paired coupling.
    """
    rows = [
        {
            "layer": r.layer,
            "step": r.step_b,
            "exact": r.scale_free,
            "low": max(r.mean_shift, r.norms) / r.scale,
            "high": min(r.paired, r.independent) / r.scale,
        }
        for r in records
        if isinstance(r, DistanceRecord)
    ]
    table = pd.DataFrame(rows)
    layers = list(dict.fromkeys(table["layer"]))
    base = alt.Chart(table, width=420, height=280).encode(
        x=alt.X("step:Q", title="step"), color=alt.Color("layer:N", sort=layers, title=None)
    )
    parts = [base.mark_line(point=True).encode(y=alt.Y("exact:Q", title="moved by, in spreads"))]
    if table["exact"].isna().any():
        base = base.transform_filter("isValid(datum.exact)")
        parts = [base.mark_point(filled=True, size=60).encode(y=alt.Y("exact:Q", title="moved by, in spreads"))]
        band = alt.Chart(table).mark_area(opacity=0.25).encode(x="step:Q", y="low:Q", y2="high:Q")
        parts.insert(0, band.encode(color=alt.Color("layer:N", sort=layers, title=None)))
    return save(alt.layer(*parts), name)
