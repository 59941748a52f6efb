"""The figures, as Vega-Lite: each with its small table of data, a line on how to read it, what it rests on, and an alt text.

A figure never holds more than `statistics.CELLS` rows, whatever was recorded: steps are binned and layers chosen first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from icsbound.report import statistics as st
from icsbound.report.runs import Study
from icsbound.report.wording import count, listed, measure, number, split

# The control is drawn in gray; the others in colours that stay apart for colour-blind readers, on white and on black.
PALETTE = ["#7c8594", "#2f6fde", "#e08a00", "#0f9d77", "#c2468f", "#7a5be0", "#d9482b", "#2a9fc4"]
TABLE = alt.NamedData("table")
WIDTH = 640


@dataclass(frozen=True)
class Figure:
    """One figure. `panels` is the least width of a panel where there are several: a narrow screen gets fewer columns."""

    name: str
    section: str
    title: str
    reading: str
    basis: str
    alt: str
    chart: alt.TopLevelMixin
    data: pd.DataFrame
    panels: int = 0

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification without its data."""
        spec: dict[str, Any] = self.chart.to_dict()
        spec.pop("config", None)
        return spec


def all_figures(study: Study) -> list[Figure]:
    """Every figure that the records allow, in reading order."""
    makers: list[Callable[[Study], Figure | None]] = [
        differences, accuracy, loss, heat, bracket, ratios, tightness, alpha,
    ]  # fmt: skip
    return [figure for make in makers if (figure := make(study)) is not None]


def _arms(study: Study, present: pd.Series) -> alt.Color:
    """The colour of an arm: the same in every figure."""
    arms = [arm for arm in study.arms if arm in set(present)]
    colours = [PALETTE[study.arms.index(arm) % len(PALETTE)] for arm in arms]
    scale = alt.Scale(domain=arms, range=colours)
    return alt.Color("arm:N", scale=scale, title=None, legend=alt.Legend(orient="top") if len(arms) > 1 else None)


def _time(study: Study, steps: pd.Series, title: str = "optimizer step") -> alt.X:
    """Steps along the horizontal axis; a schedule that is dense at first gets a square-root scale."""
    values = np.sort(steps.unique())
    dense = len(values) > 3 and np.median(values) < 0.3 * values[-1]
    scale = alt.Scale(type="sqrt", nice=False) if dense else alt.Scale(nice=False)
    axis = alt.Axis(format="~s", tickCount=6, labelFlush=True)
    return alt.X(f"{steps.name}:Q", title=title, scale=scale, axis=axis)


def _layer_axis(layers: list[str], column: str = "layer") -> alt.Y:
    """Layers from the input down; with many of them only some are named."""
    axis = alt.Axis(labelOverlap="greedy", labelSeparation=2)
    return alt.Y(f"{column}:N", sort=layers, title=None, axis=axis)


def _choice(name: str, label: str, options: list[str], field: str) -> tuple[list[alt.Parameter], str]:
    """A menu that chooses one value of `field`, and the condition for it; no menu where there is no choice."""
    condition = f"datum.{field} == {name}"
    bind = alt.binding_select(options=options, name=label + " ") if len(options) > 1 else alt.Undefined
    return [alt.param(name=name, value=options[0], bind=bind)], condition


def differences(study: Study) -> Figure | None:
    """Accuracy against the control: every seed and the interval."""
    rows = []
    for arm in study.arms:
        control = study.control(arm)
        if control is None:
            continue
        each = 100 * (st.accuracy(study, arm) - st.accuracy(study, control)).dropna()
        found = st.student(each)
        label = f"{arm} − {control}"
        rows += [(arm, label, f"seed {seed}", value, None, None) for seed, value in each.items()]
        if found.count:
            rows.append((arm, label, "mean", found.mean, found.low, found.high))
    if not rows:
        return None
    data = pd.DataFrame(rows, columns=["arm", "contrast", "what", "points", "low", "high"])
    y = alt.Y("contrast:N", title=None, sort=list(dict.fromkeys(data["contrast"])))
    x = alt.X("points:Q", title="difference of accuracy in percentage points")
    colour = _arms(study, data["arm"]).copy()
    colour.legend = None
    base = alt.Chart(TABLE).encode(y=y, color=colour)
    tip = [alt.Tooltip("contrast:N"), alt.Tooltip("what:N"), alt.Tooltip("points:Q", format="+.2f")]
    mean = [*tip, alt.Tooltip("low:Q", format="+.2f"), alt.Tooltip("high:Q", format="+.2f")]
    chart = alt.layer(
        base.mark_rule(size=1.5, color="#888", strokeDash=[4, 3]).encode(x=alt.datum(0), color=alt.value("#888")),
        base.mark_rule(size=5, opacity=0.45).transform_filter("datum.what == 'mean'").encode(x=alt.X("low:Q"), x2="high:Q", tooltip=mean),
        base.mark_tick(thickness=3, size=22).transform_filter("datum.what == 'mean'").encode(x=x, tooltip=mean),
        base.mark_circle(size=45, opacity=0.9).transform_filter("datum.what != 'mean'").encode(x=x, tooltip=tip),
    ).properties(width=WIDTH, height=alt.Step(44))  # fmt: skip
    means = data[data["what"] == "mean"]
    return Figure(
        name="accuracy-differences",
        section="accuracy",
        title="Accuracy against the control",
        reading="Each dot is one seed, the tick their mean, the bar the 95 % interval; a bar across the dashed line at 0 "
        "means that the arms were not told apart.",
        basis=f"Paired by seed, Student t over {count(int(data['what'].ne('mean').sum()), 'pair')}; {split(study)}.",
        alt="Differences of accuracy: "
        + "; ".join(f"{r.contrast} {number(r.points, 2)} points" for r in means.itertuples())
        + ".",
        chart=chart,
        data=data,
    )


def _curve(study: Study, column: str, title: str, factor: float, log: bool) -> tuple[alt.LayerChart, pd.DataFrame]:
    """Mean over seeds and the band from the lowest to the highest seed."""
    groups = st.binned(study.epochs, "epoch", 400).groupby(["arm", "epoch"], sort=False)
    data = groups.agg(
        step=("step", "max"), mean=(column, "mean"), low=(column, "min"), high=(column, "max"), seeds=("seed", "nunique")
    ).reset_index()
    data[["mean", "low", "high"]] *= factor
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False, padding=6))
    base = alt.Chart(TABLE).encode(x=x, color=_arms(study, data["arm"]))
    tip = [alt.Tooltip("arm:N"), alt.Tooltip("epoch:Q"), alt.Tooltip("seeds:Q")]
    tip += [alt.Tooltip(f"{c}:Q", format=".4~g") for c in ("mean", "low", "high")]
    chart = alt.layer(
        base.mark_area(opacity=0.16, line=False).encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(size=36, filled=True)).encode(y=alt.Y("mean:Q"), tooltip=tip),
    ).properties(width=WIDTH, height=280)  # fmt: skip
    return chart, data


def accuracy(study: Study) -> Figure | None:
    """Accuracy by epoch."""
    if study.epochs.empty:
        return None
    chart, data = _curve(study, "accuracy", "accuracy in %", 100.0, log=False)
    last = data.groupby("arm", sort=False)["mean"].last()
    return Figure(
        name="accuracy",
        section="accuracy",
        title="Accuracy during training",
        reading="Line: mean over seeds. Band: from the lowest to the highest seed, so overlapping bands say nothing against "
        "a difference; the paired figure does.",
        basis=f"After each epoch, stored statistics, {split(study)}; {count(study.epochs['seed'].nunique(), 'seed')}.",
        alt="Accuracy by epoch. Last values: " + "; ".join(f"{a} {v:.1f} %" for a, v in last.items()) + ".",
        chart=chart,
        data=data,
    )


def loss(study: Study) -> Figure | None:
    """Loss by epoch, on the evaluation split."""
    if study.epochs.empty:
        return None
    chart, data = _curve(study, "loss", "loss (log scale)", 1.0, log=bool((study.epochs["loss"] > 0).all()))
    last = data.groupby("arm", sort=False)["mean"].last()
    return Figure(
        name="loss",
        section="accuracy",
        title="Loss during training",
        reading="As above, for the cross-entropy on held-out images; lower is better.",
        basis=f"After each epoch, stored statistics, {split(study)}; {count(study.epochs['seed'].nunique(), 'seed')}.",
        alt="Loss by epoch. Last values: " + "; ".join(f"{a} {number(v)}" for a, v in last.items()) + ".",
        chart=chart,
        data=data,
    )


def _shift_basis(study: Study, rows: pd.DataFrame) -> str:
    return f"{measure(rows)} Mean over {count(rows['seed'].nunique(), 'seed')}."


def heat(study: Study) -> Figure | None:
    """Scale-free ICS of every layer at every capture, one panel an arm."""
    rows = st.main_part(study.distances)
    rows = rows[rows["scale_free"].notna()]
    if rows.empty:
        return None
    views = st.views(rows)
    layers = [name for name in study.layer_names if name in set(rows["layer"])]
    limit = max(8, st.CELLS // (len(layers) * len(views) * rows["arm"].nunique()))
    rows = st.binned(rows, "step_b", min(60, limit))
    data = rows.groupby(["arm", "view", "layer", "step_b"], sort=False)["scale_free"].mean().reset_index()
    params, shown = _choice("view", "View", views, "view")
    chart = (
        alt.Chart(TABLE)
        .mark_rect()
        .encode(
            x=alt.X("step_b:O", title="captured at step", axis=alt.Axis(labelOverlap="greedy", labelAngle=0)),
            y=_layer_axis(layers),
            color=alt.Color(
                "scale_free:Q",
                title="scale-free ICS",
                scale=alt.Scale(scheme="viridis", type="sqrt"),
                legend=alt.Legend(orient="top", gradientLength=200, format=".2~g", tickCount=4),
            ),
            tooltip=[
                alt.Tooltip("arm:N"), alt.Tooltip("layer:N"), alt.Tooltip("step_b:O", title="step"),
                alt.Tooltip("scale_free:Q", title="scale-free ICS", format=".3~g"),
            ],
        )
        .transform_filter(shown)
        .properties(width=WIDTH / 2 - 90, height=alt.Step(max(3, min(18, 600 // len(layers)))))
        .facet(facet=alt.Facet("arm:N", title=None, sort=study.arms), columns=2)
        .add_params(*params)
    )  # fmt: skip
    top = data.loc[data["scale_free"].idxmax()]
    return Figure(
        name="shift-heat-map",
        section="shift",
        title="Where and when the layers moved",
        reading="Brighter: the layer's outputs moved further since the capture before, in units of their own spread. Compare "
        "panels at the same step; along a row the gaps between captures may differ.",
        basis=_shift_basis(study, rows),
        alt=f"Heat map of the scale-free shift by layer and step for {listed(list(data['arm'].unique()))}; the largest is "
        f"{number(top['scale_free'])}, in {top['layer']} of {top['arm']} at step {top['step_b']}.",
        chart=chart,
        data=data,
        panels=330,
    )


def bracket(study: Study) -> Figure | None:
    """Scale-free ICS over steps by layer inside its bracket, one panel a layer, one arm at a time."""
    rows = st.main_part(study.distances)
    rows = rows[rows["scale"] > 0]
    if rows.empty:
        return None
    views, arms = st.views(rows), [arm for arm in study.arms if arm in set(rows["arm"])]
    layers = st.some_layers([name for name in study.layer_names if name in set(rows["layer"])])
    rows = rows[rows["layer"].isin(layers)]
    rows = st.binned(rows, "step_b", max(8, min(60, st.CELLS // (2 * len(layers) * len(views) * len(arms)))))
    rows = rows.assign(
        ics=rows["value"] / rows["scale"],
        low=rows[["mean_shift", "norms"]].max(axis=1) / rows["scale"],
        high=rows[["paired", "independent"]].min(axis=1) / rows["scale"],
    )
    data = rows.groupby(["arm", "view", "layer", "step_b"], sort=False)[["ics", "low", "high"]].mean().reset_index()
    data = data.sort_values("step_b", kind="stable")
    arm_params, arm_shown = _choice("arm", "Arm", arms, "arm")
    view_params, view_shown = _choice("view", "View", views, "view")
    base = alt.Chart().encode(x=_time(study, data["step_b"]), color=_arms(study, data["arm"]))
    y = alt.Y("low:Q", title="shift / spread", scale=alt.Scale(type="sqrt", zero=True), axis=alt.Axis(tickCount=4))
    tip = [alt.Tooltip("layer:N"), alt.Tooltip("step_b:Q", title="step")]
    tip += [alt.Tooltip(f"{c}:Q", format=".3~g", title=t) for c, t in (("ics", "EM"), ("low", "lower bound"), ("high", "upper bound"))]  # fmt: skip
    chart = (
        alt.layer(
            base.mark_area(opacity=0.25, line=False).encode(y=y, y2="high:Q"),
            base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=22, filled=True)).encode(y=alt.Y("ics:Q"), tooltip=tip),
            data=TABLE,
        )
        .transform_filter(arm_shown)
        .transform_filter(view_shown)
        .properties(width=190, height=120)
        .facet(facet=alt.Facet("layer:N", title=None, sort=layers), columns=3)
        .add_params(*arm_params, *view_params)
    )  # fmt: skip
    chosen = "" if len(layers) == len(study.layer_names) else f" {len(layers)} of {len(study.layer_names)} layers, evenly spread."
    return Figure(
        name="shift-brackets",
        section="shift",
        title="The shift of each layer inside its bracket",
        reading="Line: exact Earth Mover distance. Band: from the largest cheap lower bound (mean shift, norms) to the smaller of "
        "the paired and the independent coupling. All in units of the layer's spread.",
        basis=_shift_basis(study, rows) + chosen,
        alt=f"Shift over steps with its bounds for {count(len(layers), 'layer')}; mean over the figure "
        f"{number(data['ics'].mean())}, between bounds of {number(data['low'].mean())} and {number(data['high'].mean())}.",
        chart=chart,
        data=data,
        panels=230,
    )


def ratios(study: Study) -> Figure | None:
    """Scale-free ICS of each layer against the control's, with intervals."""
    parts = []
    views = st.views(st.main_part(study.distances))
    for view in views:
        for arm in study.arms:
            control = study.control(arm)
            table = st.ratio_by_layer(study, st.log_ratios(study, arm, control, view)) if control else pd.DataFrame()
            parts.append(table.assign(arm=arm, view=view, contrast=f"{arm} / {control}"))
    data = pd.concat(parts) if parts else pd.DataFrame()
    if "ratio" not in data or data["ratio"].notna().sum() == 0:
        return None
    data = data.drop(columns="p")
    layers = [name for name in study.layer_names if name in set(data["layer"])]
    params, shown = _choice("view", "View", views, "view")
    colour = _arms(study, data["arm"]).copy()
    colour.legend = None
    # A long interval from few seeds must not squeeze all others: the axis ends at a factor of 4 beyond the ratios.
    domain = [float(data["ratio"].min() / 4), float(data["ratio"].max() * 4)]
    domain = [max(domain[0], float(np.nanmin([*data["low"], 1]))), min(domain[1], float(np.nanmax([*data["high"], 1])))]
    x_scale = alt.Scale(type="log", domain=domain, clamp=True, nice=False)
    base = alt.Chart().encode(y=_layer_axis(layers), color=colour)
    tip = [alt.Tooltip("contrast:N"), alt.Tooltip("layer:N"), alt.Tooltip("verdict:N")]
    tip += [alt.Tooltip(f"{c}:Q", format=".3~g") for c in ("ratio", "low", "high")]
    solid = alt.condition("datum.verdict != 'not resolved'", alt.value(1.0), alt.value(0.35))
    axis = alt.Axis(format=".2~g", tickCount=5)
    chart = (
        alt.layer(
            base.mark_rule(size=1.5, strokeDash=[4, 3]).encode(x=alt.datum(1), color=alt.value("#888")),
            base.mark_rule(size=2).encode(x=alt.X("low:Q", title="ratio of scale-free ICS (log scale)", scale=x_scale, axis=axis), x2="high:Q", opacity=solid),
            base.mark_point(size=60, filled=True).encode(x=alt.X("ratio:Q"), opacity=solid, tooltip=tip),
            data=TABLE,
        )
        .transform_filter(shown)
        .properties(width=WIDTH / 2 - 90, height=alt.Step(max(3, min(20, 600 // len(layers)))))
        .facet(facet=alt.Facet("contrast:N", title=None, sort=list(dict.fromkeys(data["contrast"]))), columns=2)
        .add_params(*params)
    )  # fmt: skip
    lower, higher = ((data["verdict"] == v).sum() for v in ("lower", "higher"))
    return Figure(
        name="shift-ratios",
        section="shift",
        title="Layer by layer against the control",
        reading="Left of the dashed line the arm's layer moved less than the control's, right of it more. Bar: 95 % interval over "
        "seeds; faint: not resolved when all layers are judged together.",
        basis=f"Geometric mean over captures, paired by seed, {count(int(data['count'].max()), 'seed')}; false discovery rate 5 % "
        "within each panel.",
        alt=f"Ratios of the scale-free shift by layer: {lower} resolved lower, {higher} resolved higher, of {len(data)}.",
        chart=chart,
        data=data,
        panels=330,
    )


def tightness(study: Study) -> Figure | None:
    """EM / paired displacement in quantiles, by view and arm."""
    rows = st.main_part(study.distances)
    ratio = st.tightness(rows)
    if ratio.empty:
        return None
    rows = rows.loc[ratio.index].assign(ratio=ratio)
    groups = rows.groupby(["arm", "view"], sort=False)["ratio"]
    data = groups.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack().set_axis(["q05", "q25", "median", "q75", "q95"], axis=1)
    data = data.join(groups.agg(["min", "mean", "count"])).reset_index()
    colour = _arms(study, data["arm"]).copy()
    colour.legend = None
    base = alt.Chart().encode(y=alt.Y("arm:N", title=None, sort=study.arms), color=colour)
    x = alt.X("q05:Q", title="EM / paired displacement", scale=alt.Scale(zero=False, nice=False, padding=8))
    tip = [alt.Tooltip("arm:N"), alt.Tooltip("view:N")]
    tip += [alt.Tooltip(f"{c}:Q", format=".4~g") for c in ("min", "q05", "q25", "median", "q75", "q95", "count")]
    chart = (
        alt.layer(
            base.mark_rule(size=2, opacity=0.55).encode(x=x, x2="q95:Q", tooltip=tip),
            base.mark_bar(height=12, opacity=0.55).encode(x=alt.X("q25:Q"), x2="q75:Q", tooltip=tip),
            base.mark_tick(thickness=3, size=20).encode(x=alt.X("median:Q"), tooltip=tip),
            base.mark_point(size=30, shape="diamond", filled=True).encode(x=alt.X("min:Q"), tooltip=tip),
            data=TABLE,
        )
        .properties(width=WIDTH / 2 - 90, height=alt.Step(30))
        .facet(facet=alt.Facet("view:N", title=None, sort=st.views(rows)), columns=2)
    )
    return Figure(
        name="em-tightness",
        section="shift",
        title="What the exact distance adds to the paired displacement",
        reading="1 means that the best matching pairs every input with itself; less, that the cloud as a whole moved less than "
        "its points. Bar: middle half; line: 5 to 95 %; tick: median; diamond: smallest.",
        basis=_shift_basis(study, rows).replace(" Mean over", " All layers and captures of"),
        alt="Ratio of Earth Mover distance to paired displacement, median: "
        + "; ".join(f"{r.arm}, {r.view} view {number(r.median, 4)}" for r in data.itertuples()) + ".",
        chart=chart,
        data=data,
        panels=330,
    )  # fmt: skip


def alpha(study: Study) -> Figure | None:
    """Alpha over steps: one line a layer, one panel an arm."""
    rows = study.layers[study.layers["alpha_mean"].notna()]
    if rows.empty:
        return None
    names = [name for name in study.layer_names if name in set(rows["layer"])]
    layers = st.some_layers(names, 24)
    rows = st.binned(rows[rows["layer"].isin(layers)], "step", 60)
    columns = {"mean": "alpha_mean", "low": "alpha_min", "high": "alpha_max"}
    grouped = rows.groupby(["arm", "layer", "step"], sort=False)
    data = grouped.agg(**{new: (old, "mean") for new, old in columns.items()}).reset_index()
    data["depth"] = data["layer"].map(names.index)
    data = data.sort_values(["step", "depth"], kind="stable")
    depth = alt.Color(
        "depth:Q",
        title="layer, from input to output",
        scale=alt.Scale(scheme="plasma", domain=[0, max(1, len(names) * 1.15)]),
        legend=alt.Legend(orient="top", gradientLength=160, values=[]),
    )
    base = alt.Chart().encode(x=_time(study, data["step"]), color=depth, detail="layer:N")
    tip = [alt.Tooltip("arm:N"), alt.Tooltip("layer:N"), alt.Tooltip("step:Q")]
    tip += [alt.Tooltip(f"{c}:Q", format=".3f", title=t) for c, t in (("mean", "mean"), ("low", "lowest channel"), ("high", "highest channel"))]  # fmt: skip
    chart = (
        alt.layer(
            base.mark_area(opacity=0.07, line=False).encode(y=alt.Y("low:Q", title="alpha", scale=alt.Scale(zero=False)), y2="high:Q"),
            base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=16, filled=True)).encode(y=alt.Y("mean:Q"), tooltip=tip),
            data=TABLE,
        )
        .properties(width=WIDTH / 2 - 90, height=220)
        .facet(facet=alt.Facet("arm:N", title=None, sort=study.arms), columns=2)
    )  # fmt: skip
    chosen = "" if len(layers) == len(names) else f" {len(layers)} of {len(names)} layers, evenly spread."
    ends = data.groupby("arm", sort=False)["mean"]
    return Figure(
        name="alpha",
        section="alpha",
        title="Alpha during training",
        reading="Line: mean over a layer's channels, dark near the input, bright near the output. Band: lowest to highest channel. "
        "0 is batch normalization, 1 full unitization; a flat line has not learned.",
        basis=f"Mean over {count(rows['seed'].nunique(), 'seed')}.{chosen}",
        alt="Alpha over steps by layer; range of the layer means: "
        + "; ".join(f"{arm} {number(v.min())} to {number(v.max())}" for arm, v in ends) + ".",
        chart=chart,
        data=data,
        panels=300,
    )  # fmt: skip
