"""Draws the figures of studies: measured points, their intervals over seeds, and the predicted curves under them."""

from __future__ import annotations

import re
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from icsbound.report.figure import PALETTE, PANEL, TABLE, WIDTH, Figure, tips
from icsbound.report.studies.panel import Panel
from icsbound.report.studies.panels import PANELS
from icsbound.report.studies.points import CONTRADICTS, Studies
from icsbound.report.studies.thinned import drawn
from icsbound.report.wording import count, listed, number

LONG = 28  # letters of a curve's name, of which two do not stand side by side in half of the page


def all_figures(studies: Studies) -> list[Figure]:
    """Every figure that the points allow, in reading order."""
    found = []
    for study in studies.begun:
        for panel in PANELS:
            rows = studies.panel(study, panel.name)
            if panel.study == study and not rows.empty:
                found.append(_figure(panel, rows, *drawn(studies, panel)))
    return found


def _figure(panel: Panel, rows: pd.DataFrame, shown: pd.DataFrame, which: str) -> Figure:
    data = _drawn(panel, shown)
    curves = list(dict.fromkeys(data["curve"]))
    make = {"lines": _lines, "dots": _dots, "scatter": _scatter}[panel.kind]
    several = panel.split and panel.kind != "scatter"
    contradicting = int((rows["verdict"] == CONTRADICTS).sum())
    judged = int((rows["relation"] != "").sum())
    text = f"{panel.title}: {count(len(rows), 'point')} on {listed(curves, 4)}, {number(data['mean'].min())} to "
    text += f"{number(data['mean'].max())}."
    if judged:
        text += f" {contradicting} of {judged} contradict the prediction."
    return Figure(
        name=re.sub(r"[^a-z0-9]+", "-", f"{panel.study}-{panel.name}"),
        section=panel.study,
        title=panel.title,
        reading=panel.reading,
        basis=_basis(panel, rows) + which,
        alt=text,
        chart=make(panel, data, curves),
        data=data,
        panels=230 if several else 0,
    )


def _drawn(panel: Panel, rows: pd.DataFrame) -> pd.DataFrame:
    """What is drawn: on a logarithmic axis no zero (up to rounding), and nothing infinite."""
    data = rows[["curve", "x", "mean", "low", "high", "predicted", "relation", "verdict"]].copy()
    data[["predicted", "low", "high"]] = data[["predicted", "low", "high"]].astype("float64")
    if panel.split:
        parts = data["curve"].str.partition(" · ")  # of an older study, a curve may have no part
        data = data.assign(part=parts[0], curve=parts[2].where(parts[1] != "", parts[0]))
    data = data[np.isfinite(data["mean"])]
    if panel.fraction:
        data[["low", "high"]] = data[["low", "high"]].clip(0.0, 1.0)
    if panel.y_scale == "log":
        data = data[data["mean"] > 1e-9 * data["mean"].max()]
        data["low"] = data["low"].mask(data["low"] <= 0, data["mean"])
        data["predicted"] = data["predicted"].where(data["predicted"] > 0)
    # A bound is dashed, a prediction that the points should meet is not.
    kind = np.where(data["relation"] == "equal", "prediction", "bound")
    return data.assign(line=kind).drop(columns="relation")


def _basis(panel: Panel, rows: pd.DataFrame) -> str:
    """What the points rest on, and what the layers were set to."""

    def span(name: str) -> str:
        low, high = rows[name].min(), rows[name].max()
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    d = f", d = {span('d')}" if rows["d"].max() else ""
    estimators = sorted({text.partition(":")[0] for text in rows["estimator"]})
    setting = f" {panel.setting}." if panel.setting else ""
    return f"n = {span('n')}{d}; {listed(estimators, 4)}; {span('seeds')} seeds, Student's t.{setting}"


def _colour(curves: list[str], one_view: bool) -> alt.Color:
    scale = alt.Scale(domain=curves, range=[PALETTE[k % len(PALETTE)] for k in range(len(curves))])
    # On a phone two columns would be cut off, and long names beside another figure; a chart of several views has no
    # width of its own to ask.
    columns = 1 if max(map(len, curves)) > LONG else alt.ExprRef("width < 420 ? 1 : 2") if one_view else 2
    legend = alt.Legend(orient="top", columns=columns, labelLimit=280, symbolType="circle", symbolOpacity=1)
    return alt.Color("curve:N", scale=scale, title=None, legend=legend if len(curves) > 1 else None)


def _x(panel: Panel, data: pd.DataFrame) -> alt.X:
    scale = alt.Scale(type=panel.x_scale, nice=False, padding=8)
    whole = panel.x_scale == "linear" and panel.kind == "lines" and bool((data["x"] % 1 == 0).all())
    values = sorted(data["x"].unique().tolist())
    # Few values are named themselves; where there are many, the axis chooses.
    named = panel.x_scale != "sqrt" and panel.kind == "lines" and len(values) <= 11
    form = "d" if whole else "~s" if max(values) > 2000 else ".3~r"
    axis = alt.Axis(format=form, tickCount=6, labelOverlap="greedy", labelFlush=True)
    if named:
        axis = alt.Axis(format=form, values=values, labelOverlap="greedy")
    return alt.X("x:Q", title=panel.x, scale=scale, axis=axis)


def _y(panel: Panel, field: str) -> alt.Y:
    scale = alt.Scale(type=panel.y_scale, nice=False, padding=8)
    if panel.y_scale != "log":
        scale.zero = False
    return alt.Y(f"{field}:Q", title=panel.y, scale=scale, axis=alt.Axis(tickCount=5, format=".3~r"))


def _tip(data: pd.DataFrame, *more: str) -> list[alt.Tooltip]:
    texts = [*more, "curve", *(["verdict"] if (data["verdict"] != "").any() else [])]
    return tips(*texts, form=".4~g", x="x", mean="measured", low="from", high="to", predicted="predicted")


def _lines(panel: Panel, data: pd.DataFrame, curves: list[str]) -> Any:
    base = alt.Chart().encode(x=_x(panel, data), color=_colour(curves, not panel.split))
    dash = alt.StrokeDash(
        "line:N", scale=alt.Scale(domain=["prediction", "bound"], range=[[1, 0], [4, 3]]), legend=None
    )
    layers = []
    if data["predicted"].notna().any():
        line = base.transform_filter("isValid(datum.predicted)").mark_line(strokeWidth=1.6, opacity=0.65)
        layers.append(line.encode(y=_y(panel, "predicted"), strokeDash=dash))
    if (data["line"] == "bound").any():  # what is not predicted itself is joined
        line = base.transform_filter("datum.line == 'bound'").mark_line(strokeWidth=1.2, opacity=0.5)
        layers.append(line.encode(y=_y(panel, "mean")))
    if data["low"].notna().any():
        layers.append(base.mark_rule(strokeWidth=2, opacity=0.5).encode(y=_y(panel, "low"), y2="high:Q"))
    layers.append(base.mark_point(size=32, filled=True, opacity=0.95).encode(y=_y(panel, "mean"), tooltip=_tip(data)))
    if not panel.split:
        return alt.layer(*layers, data=TABLE).properties(width=WIDTH, height=300)
    parts = list(dict.fromkeys(data["part"]))
    return (
        alt.layer(*layers, data=TABLE)
        .properties(width=PANEL, height=160)
        .facet(facet=alt.Facet("part:N", title=None, sort=parts), columns=3)
    )


def _dots(panel: Panel, data: pd.DataFrame, curves: list[str]) -> Any:
    y = alt.Y("curve:N", title=None, sort=curves)
    base = alt.Chart().encode(y=y, color=_colour(curves, True))
    base.encoding.color.legend = None
    x = alt.X(
        "mean:Q", title=panel.x, scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=5, format=".3~g")
    )
    layers = [base.mark_point(size=60, filled=True).encode(x=x, tooltip=_tip(data))]
    if data["low"].notna().any():
        layers.insert(0, base.mark_rule(size=4, opacity=0.4).encode(x=alt.X("low:Q"), x2="high:Q"))
    chart = alt.layer(*layers, data=TABLE)
    if not panel.split:
        return chart.properties(width=WIDTH, height=30 * len(curves))
    parts = list(dict.fromkeys(data["part"]))
    return chart.properties(width=PANEL, height=22 * len(curves)).facet(
        facet=alt.Facet("part:N", title=None, sort=parts), columns=3
    )


def _scatter(panel: Panel, data: pd.DataFrame, curves: list[str]) -> Any:
    base = alt.Chart(TABLE).encode(x=_x(panel, data), color=_colour(curves, True))
    tip = _tip(data, "part") if panel.split else _tip(data)
    point = base.mark_point(size=70, filled=True, opacity=0.9).encode(y=_y(panel, "mean"), tooltip=tip)
    return point.properties(width=WIDTH, height=300)
