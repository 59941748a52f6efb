"""Figures of the shift: where and when layers moved, inside which bounds, and against the control."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from icsbound.report import statistics as st
from icsbound.report.figure import (
    PANEL,
    ROOM,
    TABLE,
    Figure,
    arm_colour,
    dots,
    layer_axis,
    layer_step,
    menu,
    null_line,
    step_axis,
    tips,
)
from icsbound.report.runs import Study
from icsbound.report.wording import count, listed, measure, number, some


def heat(study: Study) -> Figure | None:
    """Scale-free ICS of every layer at every capture, one panel an arm."""
    rows = st.main_part(study.distances)
    rows = rows[rows["scale_free"].notna()]
    if rows.empty:
        return None
    views = st.views(rows)
    layers = study.layers_in(rows)
    rows = st.binned(rows, "step_b", _steps(rows, layers))
    data = rows.groupby(["arm", "view", "layer", "step_b"], sort=False)["scale_free"].mean().reset_index()
    steps = alt.Axis(labelOverlap="greedy", labelAngle=0, labelSeparation=4)
    colour = alt.Color(
        "scale_free:Q",
        title="scale-free ICS",
        scale=alt.Scale(scheme="viridis", type="sqrt"),
        legend=alt.Legend(orient="top", gradientLength=200, format=".3~g", tickCount=4),
    )
    chart = (
        alt.Chart(TABLE)
        .mark_rect()
        .encode(
            x=alt.X("step_b:O", title="captured at step", axis=steps),
            y=layer_axis(layers),
            color=colour,
            tooltip=tips("arm", "layer", step_b="step", scale_free="scale-free ICS"),
        )
        .transform_filter("datum.view == view")
        .properties(width=PANEL, height=layer_step(layers, 18))
        .facet(facet=alt.Facet("arm:N", title=None, sort=study.arms), columns=2)
        .add_params(ROOM, menu("view", views))
    )
    top = data.loc[data["scale_free"].idxmax()]
    return Figure(
        name="shift-heat-map",
        section="shift",
        title="Where and when the layers moved",
        reading="The brighter, the further the layer's outputs moved since the capture before, in units of their own "
        "spread. Compare panels at the same step; along a row the gaps between captures may differ.",
        basis=f"{measure(rows)} Mean over {count(rows['seed'].nunique(), 'seed')}.",
        alt=f"Heat map of the scale-free shift by layer and step for {listed(list(data['arm'].unique()))}; the largest "
        f"is {number(top['scale_free'])}, in {top['layer']} of {top['arm']} at step {top['step_b']}.",
        chart=chart,
        data=data,
        panels=330,
    )


def _steps(rows: pd.DataFrame, layers: list[str]) -> int:
    """Over how many steps a figure may be drawn, to hold no more rows than a figure may."""
    series = len(layers) * int(rows["view"].nunique()) * int(rows["arm"].nunique())
    return max(8, min(60, st.CELLS // series))


def bracket(study: Study) -> Figure | None:
    """Scale-free ICS over steps inside its bracket, one panel a layer, one arm at a time."""
    rows = st.main_part(study.distances)
    rows = rows[rows["scale"] > 0]
    if rows.empty:
        return None
    views, arms = st.views(rows), study.arms_in(rows)
    names = study.layers_in(rows)
    layers = st.evenly(names, st.PANELS)
    rows = st.binned(rows[rows["layer"].isin(layers)], "step_b", _steps(rows, layers))
    bounds = pd.DataFrame(
        {
            "ics": rows["value"],
            "low": rows[["mean_shift", "norms"]].max(axis=1),
            "high": rows[["paired", "independent"]].min(axis=1),
            "moments": rows["independent"],
        }
    ).div(rows["scale"], axis=0)
    groups = bounds.join(rows[["arm", "view", "layer", "step_b"]]).groupby(["arm", "view", "layer", "step_b"])
    data = groups.mean().reset_index().sort_values("step_b", kind="stable")
    base = alt.Chart().encode(x=step_axis(data["step_b"]), color=arm_colour(study, data))
    # A layer that stood still once has no logarithm.
    scale = alt.Scale(type="log" if (data["low"] > 0).all() else "sqrt", nice=False, padding=6)
    y = alt.Y("low:Q", title="shift / spread", scale=scale, axis=alt.Axis(tickCount=4, format=".3~g"))
    tip = tips("layer", step_b="step", ics="EM", low="lower bound", high="upper bound", moments="independent coupling")
    chart = (
        alt.layer(
            base.mark_area(opacity=0.35, line=False).encode(y=y, y2="high:Q"),
            base.mark_line(strokeWidth=1.2, strokeDash=[3, 3], opacity=0.8).encode(y=alt.Y("moments:Q")),
            base.mark_line(strokeWidth=2, point=dots(22)).encode(y=alt.Y("ics:Q"), tooltip=tip),
            data=TABLE,
        )
        .transform_filter("datum.arm == arm && datum.view == view")
        .properties(width=190, height=150)
        .facet(facet=alt.Facet("layer:N", title=None, sort=layers), columns=3)
        .add_params(menu("arm", arms), menu("view", views))
    )
    return Figure(
        name="shift-brackets",
        section="shift",
        title="The shift of each layer inside its bracket",
        reading="Line: exact Earth Mover distance. Band: from the larger cheap lower bound (mean shift, norms) to "
        "the smaller of the paired and the independent coupling. Dashed: the independent coupling, which is what "
        "means and variances alone allow. All in units of the layer's spread.",
        basis=f"{measure(rows)} Mean over {count(rows['seed'].nunique(), 'seed')}.{some(layers, names)}",
        alt=f"Shift over steps with its bounds for {count(len(layers), 'layer')}; mean over the figure "
        f"{number(data['ics'].mean())}, with bounds of {number(data['low'].mean())} and {number(data['high'].mean())}.",
        chart=chart,
        data=data,
        panels=230,
    )


def ratios(study: Study) -> Figure | None:
    """Scale-free ICS of each layer against the control's, with intervals."""
    rows = study.finished(st.main_part(study.distances))
    views = st.views(rows)
    parts = []
    for view in views:
        for arm in study.arms:
            control = study.control(arm)
            found = st.log_ratios(study, arm, control, view) if control else pd.DataFrame()
            if not found.empty:
                table = st.ratio_by_layer(study, found)
                parts.append(table.assign(arm=arm, view=view, contrast=f"{arm} / {control}"))
    if not parts:
        return None
    data = pd.concat(parts).drop(columns="p")
    layers = study.layers_in(data)
    solid = alt.condition("datum.verdict != 'not resolved'", alt.value(1.0), alt.value(0.35))
    base = alt.Chart().encode(y=layer_axis(layers), color=arm_colour(study, data), opacity=solid)
    x = alt.X(
        "ratio:Q",
        title="ratio of scale-free ICS (log scale)",
        scale=alt.Scale(type="log", domain=_reach(data), clamp=True, nice=False),
        axis=alt.Axis(format=".3~g", tickCount=5),
    )
    tip = tips("contrast", "layer", "verdict", ratio="ratio", low="from", high="to")
    bars = base.mark_rule(size=2).encode(x=alt.X("low:Q"), x2="high:Q")
    contrasts = list(dict.fromkeys(data["contrast"]))
    chart = (
        alt.layer(
            null_line(alt.Chart(), 1),
            base.mark_point(size=60, filled=True).encode(x=x, tooltip=tip),
            *([bars] if data["low"].notna().any() else []),
            data=TABLE,
        )
        .transform_filter("datum.view == view")
        .properties(width=PANEL, height=layer_step(layers, 20))
        .facet(facet=alt.Facet("contrast:N", title=None, sort=contrasts), columns=2)
        .add_params(ROOM, menu("view", views))
    )
    lower, higher = (int((data["verdict"] == verdict).sum()) for verdict in ("lower", "higher"))
    return Figure(
        name="shift-ratios",
        section="shift",
        title="Layer by layer against the control",
        reading="Left of the dashed line the layer moved less than the control's, right of it more. Bar: 95 % "
        "interval over seeds. Faint: not resolved when all layers are judged together.",
        basis=f"{measure(rows)} Geometric mean over captures, paired by seed, "
        f"{count(int(data['count'].max()), 'seed')}; false discovery rate 5 % within each panel.",
        alt=f"Ratios of the scale-free shift by layer: {lower} lower, {higher} higher, of {len(data)} in all views.",
        chart=chart,
        data=data,
        panels=330,
    )


def _reach(data: pd.DataFrame) -> list[float]:
    """The ends of the axis, within a factor of 4: a long interval from few seeds must not squeeze all others."""
    low, high = data["ratio"].min(), data["ratio"].max()
    return [
        max(min(low / 4, 0.9), min(0.9, float(np.nanmin([*data["low"], low])))),
        min(max(high * 4, 1.1), max(1.1, float(np.nanmax([*data["high"], high])))),
    ]


def tightness(study: Study) -> Figure | None:
    """EM / paired displacement in quantiles, by view and arm."""
    rows = st.main_part(study.distances)
    ratio = st.tightness(rows)
    if ratio.empty:
        return None
    rows = rows.loc[ratio.index].assign(ratio=ratio)
    groups = rows.groupby(["arm", "view"], sort=False)["ratio"]
    quantiles = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
    data = groups.quantile(list(quantiles.values())).unstack().set_axis(list(quantiles), axis=1)
    data = data.join(groups.agg(["min", "count"])).reset_index()
    base = alt.Chart().encode(
        y=alt.Y("arm:N", title=None, sort=study.arms),
        color=arm_colour(study, data),
        tooltip=tips("arm", "view", form=".4~g", **{name: name for name in (*quantiles, "min", "count")}),
    )
    x = alt.X(
        "q05:Q",
        title="EM / paired displacement",
        scale=alt.Scale(zero=False, padding=8),
        axis=alt.Axis(tickCount=5, format=".4~f"),
    )
    chart = (
        alt.layer(
            base.mark_rule(size=2, opacity=0.55).encode(x=x, x2="q95:Q"),
            base.mark_bar(height=12, opacity=0.55).encode(x=alt.X("q25:Q"), x2="q75:Q"),
            base.mark_tick(thickness=3, size=20).encode(x=alt.X("median:Q")),
            base.mark_point(size=30, shape="diamond", filled=True).encode(x=alt.X("min:Q")),
            data=TABLE,
        )
        .properties(width=PANEL, height=alt.Step(30))
        .facet(facet=alt.Facet("view:N", title=None, sort=st.views(rows)), columns=2)
    )
    medians = [f"{row.arm}, {row.view} view {number(row.median, 4)}" for row in data.itertuples()]
    return Figure(
        name="em-tightness",
        section="shift",
        title="What the exact distance adds to the paired displacement",
        reading="1: the best matching pairs every input with itself. Less: the cloud as a whole moved less than its "
        "points. Bar: middle half; line: 5 to 95 %; tick: median; diamond: smallest.",
        basis=f"{measure(rows)} All layers and captures of {count(rows['seed'].nunique(), 'seed')}.",
        alt=f"Ratio of Earth Mover distance to paired displacement, median: {'; '.join(medians)}.",
        chart=chart,
        data=data,
        panels=330,
    )
