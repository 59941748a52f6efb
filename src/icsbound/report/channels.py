"""Alpha of every channel at the end of training, read from the networks that the runs left beside their records."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import safetensors

from icsbound.report import statistics as st
from icsbound.report.figure import PANEL, ROOM, TABLE, Figure, colour_of, layer_axis, layer_step, tips
from icsbound.report.runs import Run, Study
from icsbound.report.wording import count, listed, number, some

MARKS = 3_000  # that one figure may hold
LEAST = 9  # of a layer with more channels than it may show: quantiles from its lowest channel to its highest


def alpha_by_channel(study: Study) -> Figure | None:
    """Alpha of every channel at the end of training: one row a layer, one panel an arm."""
    return None if study.channels.empty else channels_of(study.channels, study.arms)


def with_channels(study: Study) -> Study:
    """`study` with the alpha of every channel, from the networks that its runs left, and notes of what could not be
    read.

    `channels` then has a row for each channel of the first finished run of each arm that left a network with unitized
    layers, in the order of the layers: `arm, run, layer, channel, alpha` and `start`, its alpha at the first record,
    where all channels of the layer had the same.
    """
    parts, notes, drawn = [], list[str](), set[str]()
    for run in study.runs:
        path = (study.folder / run.path).with_name("model.safetensors")
        if run.result is None or run.arm in drawn or not path.is_file():
            continue
        try:
            alphas = read(path)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            where = path.relative_to(study.folder).as_posix()
            notes.append(f"{where} could not be read ({error}); its alpha by channel is left out.")
            continue
        starts = _starts(study, run)
        for layer in sorted(alphas, key=lambda name: (_place(study.layer_names, name), _natural(name))):
            values = {"channel": range(len(alphas[layer])), "alpha": alphas[layer]}
            parts.append(pd.DataFrame({"arm": run.arm, "run": run.name, "layer": layer, **values}))
            parts[-1]["start"] = starts.get(layer, np.nan)
            drawn.add(run.arm)
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return dataclasses.replace(study, channels=found, notes=[*study.notes, *notes])


def read(path: Path) -> dict[str, np.ndarray]:
    """The finite alpha of each unitized layer in a file of weights: of what is called ``LAYER.alpha``, and has running
    statistics beside it. Raises OSError, ValueError or SafetensorError where it cannot be read.
    """
    found = {}
    with safetensors.safe_open(path, "pt") as file:
        names = set(file.keys())
        for name in names:
            layer = name.removesuffix(".alpha")
            if layer != name and f"{layer}.running_mean" in names:
                values = file.get_tensor(name).flatten().double().numpy()
                if not np.isfinite(values).all():
                    raise ValueError(f"{name} is not finite")
                found[layer] = values
    return found


def _starts(study: Study, run: Run) -> dict[str, float]:
    rows = study.layers[(study.layers["arm"] == run.arm) & (study.layers["seed"] == run.seed)]
    first = rows.groupby("layer").first()
    same = first[first["alpha_min"] == first["alpha_max"]]
    return dict(zip(same.index, same["alpha_mean"], strict=True))


def _place(names: list[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in names as numbers."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]


def channels_of(data: pd.DataFrame, every: list[str], name: str = "alpha-channels") -> Figure:
    """The figure of what `with_channels` read; `every` are the arms of the page, in its order."""
    arms = [arm for arm in every if arm in set(data["arm"])]
    names = list(dict.fromkeys(data["layer"]))
    layers = st.evenly(names, max(1, st.CELLS // (LEAST * len(arms))))
    shown = data[data["layer"].isin(layers)]
    limit = max(LEAST, MARKS // (len(layers) * len(arms)))
    groups = shown.groupby(["arm", "layer", "start"], sort=False, dropna=False)["alpha"]
    rows = [(*of, *mark) for of, alphas in groups for mark in _marks(alphas.to_numpy(), limit)]
    marks = pd.DataFrame(rows, columns=["arm", "layer", "start", "alpha", "mark"])
    low, high = min(0.0, data["alpha"].min()), max(1.0, data["alpha"].max())
    height = layer_step(layers, 18)
    tall = height.to_dict()["step"]
    base, once = alt.Chart().encode(y=layer_axis(layers)), alt.Chart().transform_aggregate(rows="count()")
    # The shading reaches from 0 to 1 behind all rows.
    drawn = [once.mark_rect(opacity=0.13, color="#888").encode(x=alt.datum(0), x2=alt.datum(1))]
    if marks["start"].notna().any():
        starts = base.transform_filter("isValid(datum.start)")
        starts = starts.transform_aggregate(start="min(start)", groupby=["layer"])
        drawn.append(
            starts.mark_tick(thickness=1.5, size=0.6 * tall, color="#888").encode(
                x=alt.X("start:Q"), tooltip=tips("layer", start="alpha at the start")
            )
        )
    x = alt.X("alpha:Q", title="alpha", scale=alt.Scale(domain=[low, high], nice=False, padding=6))
    drawn.append(
        base.mark_tick(thickness=1.3, size=0.75 * tall, opacity=0.6).encode(
            x=x, color=colour_of(arms, every), tooltip=tips("arm", "layer", "mark", form=".4~g", alpha="alpha")
        )
    )
    chart = (
        alt.layer(*drawn, data=TABLE)
        .properties(width=PANEL, height=height)
        .facet(facet=alt.Facet("arm:N", title=None, sort=arms), columns=2)
        .add_params(ROOM)
    )
    sizes = data.groupby(["arm", "layer"], sort=False).size()
    fewer = f" Of a layer with more than {limit} channels, {limit} quantiles." if (sizes > limit).any() else ""
    span = str(sizes.min()) if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
    outside = data.assign(outside=~data["alpha"].between(0, 1)).groupby("arm", sort=False)
    spans = [
        f"{arm} {number(own['alpha'].min())} to {number(own['alpha'].max())}, "
        f"{own['outside'].sum():,} of {count(len(own), 'channel')} outside of 0 to 1"
        for arm, own in outside
    ]
    return Figure(
        name=name,
        section="alpha",
        title="Alpha of every channel at the end",
        reading="Each mark is one channel of the network that was kept, blended from batch normalization (left end of "
        "the shading, 0) to full unitization (right end, 1). Dashed: where a layer began; marks on it did not learn. "
        "Beyond the shading an alpha takes effect where its layer gives it no range, as the published form does; with "
        "one, the nearest end counts.",
        basis=f"{listed(list(dict.fromkeys(data['run'])))}: the first finished run of each arm; n = {span} channels a "
        f"layer.{fewer}{some(layers, names)}",
        alt="Alpha by layer and channel at the end of training: " + "; ".join(spans) + ".",
        chart=chart,
        data=marks,
        panels=330,
    )


def _marks(alphas: np.ndarray, limit: int) -> list[tuple[float, str]]:
    """A layer's channels, each named as a reader finds it, or where there are too many as many quantiles of them."""
    if len(alphas) <= limit:
        return [(alpha, f"channel {k}") for k, alpha in enumerate(alphas)]
    shares = np.linspace(0, 1, limit)
    values = np.quantile(alphas, shares)
    return [(value, f"quantile {100 * share:.3g} %") for value, share in zip(values, shares, strict=True)]
