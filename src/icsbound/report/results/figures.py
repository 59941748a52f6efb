"""Figures of a table of results: every experiment has its own, since unlike runs share no axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import altair as alt
import pandas as pd

from icsbound.report.channels import channels_of
from icsbound.report.curves import alpha_of
from icsbound.report.figure import PANEL, TABLE, WIDTH, Figure, colour_of, paired, tips
from icsbound.report.results import conditions
from icsbound.report.results.groups import Group, case_name, slugs
from icsbound.report.results.table import Table
from icsbound.report.wording import count, listed, signed


def all_figures(table: Table) -> list[Figure]:
    """Every figure that the lines allow; a group's section bears its slug."""
    makers: list[Callable[[Table, Group, str], list[Figure]]] = [
        differences,
        accuracy,
        conditions.severity,
        conditions.perturbation,
        conditions.remedies,
        alpha,
    ]
    found = [
        figure
        for name, group in zip(slugs(table.groups), table.groups, strict=True)
        for make in makers
        for figure in make(table, group, name)
    ]
    return [*found, *conditions.batch_sizes(table)]


def differences(table: Table, group: Group, name: str) -> list[Figure]:
    """Accuracy against the control: every seed and the interval, one panel a case."""
    parts = []
    for c in table.against(group):
        texts = [f"seed {seed}" for seed in c.seeds]
        seeds = pd.DataFrame({"what": texts, "seed": list(c.seeds), "points": [100 * d for d in c.differences]})
        ends = {end: [100 * getattr(c.interval, end)] for end in ("low", "high")}
        mean = pd.DataFrame({"what": ["mean"], "points": [100 * c.interval.mean], **ends})
        parts.append(
            pd.concat([seeds, mean]).assign(arm=c.arm, control=c.control, case=case_name(c.case), verdict=c.verdict)
        )
    if not parts:
        return []
    data = pd.concat(parts)
    arms = table.arms_in(data)
    base = alt.Chart().encode(y=alt.Y("arm:N", title=None, sort=arms), color=colour_of(arms, table.arms))
    layers = paired(base, data, "arm", "control", "case", "what", "verdict", ticks=6)
    chart, panels = _by_case(layers, data, 40 * len(arms) + 10)
    means = data[data["what"] == "mean"]
    text = (
        f"{row.arm} − {row.control}, {row.case}: {signed(row.points)} points, {row.verdict}"
        for row in means.itertuples()
    )
    return [
        Figure(
            name=f"{name}-differences",
            section=name,
            title="Accuracy against the control",
            reading="Each dot is one seed, the tick their mean, the bar the 95 % interval. A bar that crosses the "
            "dashed line at 0 means that the two arms were not told apart; one that does not may still fail the "
            "stricter test of many contrasts at once, which the findings use.",
            basis=f"{_controls(data)}. Paired by seed, Student t, {_seeds(data)}; {table.split(group)}.",
            alt="Differences of accuracy: " + "; ".join(text) + ".",
            chart=chart,
            data=data,
            panels=panels,
        )
    ]


def accuracy(table: Table, group: Group, name: str) -> list[Figure]:
    """Accuracy of every arm: each seed's dot and the mean, one panel a case."""
    rows = table.of(table.means, group)
    means = rows.groupby(["arm", "case"], sort=False)["accuracy"].mean().reset_index()
    data = pd.concat(
        [rows[["arm", "case", "accuracy", "seed"]].assign(what="seed"), means.assign(what="mean", seed=-1)]
    )
    arms = table.arms_in(data)
    base = alt.Chart().encode(y=alt.Y("arm:N", title=None, sort=arms), color=colour_of(arms, table.arms))
    x = alt.X("accuracy:Q", title="accuracy in %", scale=alt.Scale(zero=False, padding=12), axis=alt.Axis(tickCount=6))
    one, mean = (base.transform_filter(f"datum.what == '{what}'") for what in ("seed", "mean"))
    layers = [
        mean.mark_tick(thickness=3, size=22).encode(x=x, tooltip=tips("arm", "case", form=".4~g", accuracy="mean, %")),
        one.mark_circle(size=45, opacity=0.8).encode(
            x=x, tooltip=tips("arm", "case", form=".4~g", seed="seed", accuracy="accuracy, %")
        ),
    ]
    chart, panels = _by_case(layers, data, 30 * len(arms) + 10)
    text = (f"{row.arm}, {row.case}: {row.accuracy:.2f} %" for row in means.itertuples())
    return [
        Figure(
            name=f"{name}-accuracy",
            section=name,
            title="Accuracy of each arm",
            reading="Each dot is one seed, the tick their mean. Dots may overlap although the paired difference is "
            "clear, since a seed moves all arms together.",
            basis=f"{_seeds(data)}; {table.split(group)}.",
            alt="Mean accuracy: " + "; ".join(text) + ".",
            chart=chart,
            data=data,
            panels=panels,
        )
    ]


def _by_case(layers: Sequence[alt.Chart], data: pd.DataFrame, height: int) -> tuple[alt.TopLevelMixin, int]:
    """The layers as one chart, or as a panel for each case; and the least width of a panel, 0 for one chart."""
    cases = list(dict.fromkeys(data["case"]))
    if len(cases) == 1:
        return alt.layer(*layers, data=TABLE).properties(width=WIDTH, height=height), 0
    chart = alt.layer(*layers, data=TABLE).properties(width=PANEL + 60, height=height)
    facet = alt.Facet("case:N", title=None, sort=cases)
    return chart.facet(facet=facet, columns=2).resolve_scale(x="independent"), 420


def alpha(table: Table, group: Group, name: str) -> list[Figure]:
    """Alpha over steps, for the runs of the group that left records, and of every channel, for those with a network."""
    study = table.studies.get(group.where)
    if study is None:
        return []
    rows = study.layers[study.layers["alpha_mean"].notna()]
    found = [] if rows.empty else [alpha_of(rows, study.layers_in(rows), table.arms_in(rows), f"{name}-alpha")]
    if not study.channels.empty:
        found.append(channels_of(study.channels, table.arms, f"{name}-alpha-channels"))
    return [dataclasses.replace(figure, section=name) for figure in found]


def _controls(data: pd.DataFrame) -> str:
    """What the arms are set against."""
    own = data.drop_duplicates(["arm", "control"])
    names = dict.fromkeys(own["control"])
    parts = [f"{listed(list(own.loc[own['control'] == name, 'arm']))} against {name}" for name in names]
    return "; ".join(parts)


def _seeds(data: pd.DataFrame) -> str:
    return count(data.loc[data["what"] != "mean", "seed"].nunique(), "seed")
