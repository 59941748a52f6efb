"""Figures of the training: accuracy against the control, accuracy, loss and alpha over time."""

from __future__ import annotations

import altair as alt
import pandas as pd

from icsbound.report import statistics as st
from icsbound.report.figure import PANEL, TABLE, WIDTH, Figure, arm_colour, dots, paired, step_axis, tips
from icsbound.report.runs import Study
from icsbound.report.wording import count, number, some, split

DEPTH = ["#2f6fde", "#0f9d77", "#e0a000", "#d9482b"]  # from the first layer to the last, seen on white and on black


def differences(study: Study) -> Figure | None:
    """Accuracy against the control: every seed and the interval."""
    parts = []
    for arm in study.arms:
        control = study.control(arm)
        each = (st.accuracy(study, arm) - st.accuracy(study, control)).dropna() * 100 if control else pd.Series()
        if each.empty:
            continue
        found = st.student(each)
        seeds = pd.DataFrame({"what": [f"seed {seed}" for seed in each.index], "points": each.to_numpy()})
        mean = pd.DataFrame({"what": ["mean"], "points": [found.mean], "low": [found.low], "high": [found.high]})
        parts.append(pd.concat([seeds, mean]).assign(arm=arm, contrast=f"{arm} − {control}"))
    if not parts:
        return None
    data = pd.concat(parts)
    contrasts = list(dict.fromkeys(data["contrast"]))
    base = alt.Chart(TABLE).encode(y=alt.Y("contrast:N", title=None, sort=contrasts), color=arm_colour(study, data))
    layers = paired(base, data, "contrast", "what", ticks=8)
    chart = alt.layer(*layers).properties(width=WIDTH, height=44 * len(contrasts))
    means = data[data["what"] == "mean"]
    return Figure(
        name="accuracy-differences",
        section="accuracy",
        title="Accuracy against the control",
        reading="Each dot is one seed, the tick their mean, the bar the 95 % interval. A bar that crosses the dashed "
        "line at 0 means that the two arms were not told apart.",
        basis=f"Paired by seed, Student t, {count(data['what'].nunique() - 1, 'seed')}; {split(study)}.",
        alt="Differences of accuracy: "
        + "; ".join(f"{row.contrast} {number(row.points, 2)} points" for row in means.itertuples())
        + ".",
        chart=chart,
        data=data,
    )


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
        reading="Line: mean over seeds; band: lowest to highest seed. Bands may overlap although the paired "
        "difference is clear.",
        basis=_epochs(study),
        alt="Accuracy by epoch. Last values: " + "; ".join(f"{arm} {value:.1f} %" for arm, value in last.items()) + ".",
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
        reading="The same for the cross-entropy on held-out images: lower is better.",
        basis=_epochs(study),
        alt="Loss by epoch. Last values: " + "; ".join(f"{arm} {number(value)}" for arm, value in last.items()) + ".",
        chart=chart,
        data=data,
    )


def _epochs(study: Study) -> str:
    seeds = count(study.epochs["seed"].nunique(), "seed")
    return f"After each epoch, with stored statistics; {split(study)}; {seeds}."


def _completed(study: Study) -> pd.DataFrame:
    """The epochs' records with `epoch` as the number of epochs that were over, whatever the first one is called."""
    a_step = {(run.arm, run.seed): run.info.epochs / max(1, run.info.steps) for run in study.runs if run.info}
    rows = study.epochs
    factors = [a_step.get(key, float("nan")) for key in zip(rows["arm"], rows["seed"], strict=True)]
    return rows.assign(epoch=(rows["step"] * factors).round(2).fillna(rows["epoch"]))


def _curve(study: Study, column: str, title: str, factor: float, log: bool) -> tuple[alt.LayerChart, pd.DataFrame]:
    """Mean over seeds and the band from the lowest to the highest seed."""
    groups = st.binned(_completed(study), "epoch", 400).groupby(["arm", "epoch"], sort=False)
    data = groups[column].agg(["mean", "min", "max"]).mul(factor).join(groups["seed"].nunique()).reset_index()
    epochs = sorted(data["epoch"].unique().tolist())
    ticks = alt.Axis(values=epochs[:: 1 + len(epochs) // 9], format="d")
    x = alt.X("epoch:Q", title="completed epochs", axis=ticks, scale=alt.Scale(nice=False, padding=6))
    y = alt.Y(
        "min:Q",
        title=title,
        scale=alt.Scale(type="log") if log else alt.Scale(zero=False),
        axis=alt.Axis(tickCount=4, format=".3~g") if log else alt.Axis(tickCount=6),
    )
    base = alt.Chart(TABLE).encode(x=x, color=arm_colour(study, data, legend=True))
    tip = tips("arm", "epoch", form=".4~g", mean="mean", min="lowest", max="highest", seed="seeds")
    chart = alt.layer(
        base.mark_area(opacity=0.16, line=False).encode(y=y, y2="max:Q"),
        base.mark_line(strokeWidth=2.2, point=dots(36)).encode(y=alt.Y("mean:Q"), tooltip=tip),
    ).properties(width=WIDTH, height=280)
    return chart, data


def alpha(study: Study) -> Figure | None:
    """Alpha over steps: one line a layer, one panel an arm."""
    rows = study.layers[study.layers["alpha_mean"].notna()]
    return None if rows.empty else alpha_of(rows, study.layers_in(rows), study.arms)


def alpha_of(rows: pd.DataFrame, names: list[str], arms: list[str], name: str = "alpha") -> Figure:
    """The figure of `rows`, one a layer and step, for the layers `names` in the order of the network."""
    layers = st.evenly(names, 24)
    rows = st.binned(rows[rows["layer"].isin(layers)], "step", 60)
    groups = rows.groupby(["arm", "layer", "step"], sort=False)[["alpha_mean", "alpha_min", "alpha_max"]]
    data = groups.mean().set_axis(["mean", "low", "high"], axis=1).reset_index()
    data["depth"] = data["layer"].map(names.index)
    data = data.sort_values(["step", "depth"], kind="stable")
    depth = alt.Color(
        "depth:Q",
        scale=alt.Scale(domain=[0, max(1, len(names) - 1)], range=DEPTH),
        legend=None,
    )
    base = alt.Chart().encode(x=step_axis(data["step"]), color=depth, detail="layer:N")
    y = alt.Y("low:Q", title="alpha", scale=alt.Scale(zero=False, nice=False, padding=8))
    tip = tips("arm", "layer", "step", mean="mean", low="lowest channel", high="highest channel")
    chart = (
        alt.layer(
            base.mark_area(opacity=min(0.08, 0.6 / len(layers)), line=False).encode(y=y, y2="high:Q"),
            base.mark_line(strokeWidth=2, point=dots(16)).encode(y=alt.Y("mean:Q"), tooltip=tip),
            data=TABLE,
        )
        .properties(width=PANEL, height=220)
        .facet(facet=alt.Facet("arm:N", title=None, sort=arms), columns=2)
    )
    ranges = data.groupby("arm", sort=False)["mean"]
    return Figure(
        name=name,
        section="alpha",
        title="Alpha during training",
        reading="Line: mean over a layer's channels, blue near the input, red near the output; band: lowest to "
        "highest channel. 0 is batch normalization, 1 full unitization; a flat line has not learned.",
        basis=f"Mean over {count(rows['seed'].nunique(), 'seed')}.{some(layers, names)}",
        alt="Alpha over steps by layer; range of the layer means: "
        + "; ".join(f"{arm} {number(own.min())} to {number(own.max())}" for arm, own in ranges)
        + ".",
        chart=chart,
        data=data,
        panels=300,
    )
