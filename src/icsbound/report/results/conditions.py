"""Figures of accuracy against what was done to inputs and weights, and against the batch size."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from icsbound.report.figure import PANEL, TABLE, WIDTH, Figure, colour_of, dots, tips
from icsbound.report.results.groups import REST, Group, case_text, slug
from icsbound.report.results.table import Table
from icsbound.report.wording import count


def severity(table: Table, group: Group, name: str) -> list[Figure]:
    """Accuracy against severity, one panel a corruption; one figure for each remedy and change of the weights."""
    rows = table.of(table.accuracy, group)
    found = []
    keys = ["perturbation", "remedy", "eval_batch"]
    for values, own in rows.groupby(keys, sort=False):
        shifted = own[own["shift"] != "none"]
        if shifted["severity"].nunique() < 2:
            continue
        clean = own[own["shift"] == "none"]
        shifts = list(dict.fromkeys(shifted["shift"]))
        whole = pd.concat([shifted, *(clean.assign(shift=shift, severity=0) for shift in shifts)])
        data = _spread(whole, ["shift", "arm", "severity"])
        case = _case(**dict(zip(keys, values, strict=True)))
        x = alt.X("severity:Q", title="severity", axis=alt.Axis(values=sorted(data["severity"].unique()), format="d"))
        last = data[data["severity"] == data["severity"].max()]
        found.append(
            Figure(
                name=f"{name}-severity" + (f"-{slug(case)}" if case else ""),
                section=name,
                title="Accuracy against severity of a corruption" + (f": {case}" if case else ""),
                reading="Line: mean over seeds; band: lowest to highest seed. Severity 0 is the clean images.",
                basis=f"Corruptions of the {table.split(group)}, {_origin(shifts)}, the same for every run; "
                f"{_seeds(own)}.",
                alt="Accuracy at the highest severity: "
                + "; ".join(f"{row.arm}, {row.shift}: {row.mean:.1f} %" for row in last.itertuples())
                + ".",
                chart=_lines(table, data, x, "severity", "severity")
                .properties(width=PANEL, height=170)
                .facet(facet=alt.Facet("shift:N", title=None, sort=shifts), columns=3),
                data=data,
                panels=230,
            )
        )
    return found


def perturbation(table: Table, group: Group, name: str) -> list[Figure]:
    """Accuracy against the pruned share and against bits, one panel a remedy."""
    rows = table.of(table.accuracy, group)
    rows = rows[rows["shift"] == "none"]
    rows = rows.assign(remedied=_remedied(rows))
    found = []
    for kind, title, axis in (
        ("prune", "Accuracy after pruning", "share of weights pruned"),
        ("quantize", "Accuracy after rounding of the weights", "bits a weight"),
    ):
        own = rows[rows["perturbation"].str.startswith(f"{kind}:")]
        if own["perturbation"].nunique() < 2:
            continue
        own = own.assign(level=own["perturbation"].str.partition(":")[2].astype(float))
        remedies = list(dict.fromkeys(own["remedied"]))
        scale = alt.Scale(zero=False, padding=8)
        if kind == "prune":
            # The unchanged weights under the same remedy: nothing is pruned.
            rest = rows[(rows["perturbation"] == "none") & rows["remedied"].isin(remedies)]
            own = pd.concat([own, rest.assign(level=0.0)])
            x = alt.X("level:Q", title=axis, scale=scale, axis=alt.Axis(format="~%", tickCount=5))
        else:
            x = alt.X("level:O", title=axis, sort="descending", axis=alt.Axis(format="d", labelAngle=0))
        data = _spread(own, ["remedied", "arm", "level"])
        worst = data[data["level"] == (data["level"].max() if kind == "prune" else data["level"].min())]
        found.append(
            Figure(
                name=f"{name}-{kind}",
                section=name,
                title=title,
                reading="Line: mean over seeds; band: lowest to highest seed. One panel for each remedy; “no remedy” "
                "keeps the statistics that were stored before the weights changed.",
                basis=f"Clean images of the {table.split(group)}; {_seeds(own)}.",
                alt="Accuracy at the strongest change: "
                + "; ".join(f"{row.arm}, {row.remedied}: {row.mean:.1f} %" for row in worst.itertuples())
                + ".",
                chart=_lines(table, data, x, "level", axis)
                .properties(width=PANEL + 60, height=220)
                .facet(facet=alt.Facet("remedied:N", title=None, sort=remedies), columns=2),
                data=data,
                panels=320,
            )
        )
    return found


def remedies(table: Table, group: Group, name: str) -> list[Figure]:
    """Accuracy of each arm under each remedy, one panel for each shift or change of the weights."""
    rows = table.of(table.means, group)
    what = [
        _case(shift=s, severity=v, perturbation=p) or "clean"
        for s, v, p in zip(rows["shift"], rows["severity"], rows["perturbation"], strict=True)
    ]
    rows = rows.assign(what=what, remedied=_remedied(rows))
    several = rows.groupby("what", sort=False)["remedied"].nunique()
    rows = rows[rows["what"].isin(several[several > 1].index)]
    if rows.empty:
        return []
    data = _spread(rows, ["what", "remedied", "arm"])
    order, panels = list(dict.fromkeys(data["remedied"])), list(dict.fromkeys(data["what"]))
    base = alt.Chart().encode(
        y=alt.Y("remedied:N", title=None, sort=order), color=colour_of(table.arms_in(data), table.arms, legend=True)
    )
    tip = tips("arm", "remedied", form=".4~g", mean="mean, %", low="lowest", high="highest", seeds="seeds")
    offset = alt.YOffset("arm:N", sort=table.arms)
    chart = (
        alt.layer(
            base.mark_rule(size=2, opacity=0.5).encode(x=alt.X("low:Q"), x2="high:Q", yOffset=offset, tooltip=tip),
            base.mark_circle(size=55).encode(
                x=alt.X(
                    "mean:Q", title="accuracy in %", scale=alt.Scale(zero=False, padding=10), axis=alt.Axis(tickCount=6)
                ),
                yOffset=offset,
                tooltip=tip,
            ),
            data=TABLE,
        )
        .properties(width=PANEL + 60, height=alt.Step(max(4, 48 // len(table.arms_in(data))), **{"for": "offset"}))
        .facet(facet=alt.Facet("what:N", title=None, sort=panels), columns=2)
        .resolve_scale(x="independent")
    )
    return [
        Figure(
            name=f"{name}-remedies",
            section=name,
            title="What a remedy after training gives",
            reading="Dot: mean over seeds; bar: lowest to highest seed. One panel for each shift or "
            "change of the weights.",
            basis=f"{table.split(group)}; {_seeds(rows)}.",
            alt="Mean accuracy: "
            + "; ".join(f"{r.arm}, {r.what}, {r.remedied}: {r.mean:.1f} %" for r in data.itertuples())
            + ".",
            chart=chart,
            data=data,
            panels=420,
        )
    ]


def batch_sizes(table: Table) -> list[Figure]:
    """Accuracy against the batch size, for groups that differ in it and what follows from it alone."""
    families: dict[object, list[Group]] = {}
    for group in table.groups:
        key = tuple((k, v) for k, v in group.where if k not in ("batch_size", "recipe.lr"))
        families.setdefault(key, []).append(group)
    found: list[Figure] = []
    for family in families.values():
        sizes = sorted({group["batch_size"] for group in family})
        # Where a size occurs twice, at two learning rates, no curve can be drawn.
        if len(sizes) < 2 or len(sizes) < len(family):
            continue
        rows = pd.concat([table.of(table.means, g).assign(size=g["batch_size"]) for g in family])
        rows = rows[rows["case"] == REST]
        data = _spread(rows, ["arm", "size"])
        if data.empty:
            continue
        scale, axis = alt.Scale(type="log", nice=False, padding=10), alt.Axis(values=sizes)
        x = alt.X("size:Q", title="batch size", scale=scale, axis=axis)
        name = slug(family[0]["setting"], [figure.name.removesuffix("-batch-sizes") for figure in found])
        found.append(
            Figure(
                name=f"{name}-batch-sizes",
                section="batch-sizes",
                title=f"Accuracy against the batch size: {family[0]['setting']}",
                reading="Line: mean over seeds; band: lowest to highest seed.",
                basis=f"{family[0]['split']} split; {_seeds(rows)}.",
                alt="Mean accuracy: "
                + "; ".join(f"{row.arm}, {row.size}: {row.mean:.1f} %" for row in data.itertuples())
                + ".",
                chart=_lines(table, data, x, "size", "batch size").properties(width=WIDTH, height=280),
                data=data,
            )
        )
    return found


def _origin(shifts: list[str]) -> str:
    """Where corrupted images come from: those of a published folder bear its name, the others were made anew."""
    published = ["/" in shift for shift in shifts]
    if all(published):
        return "as published"
    return "regenerated where no folder is named" if any(published) else "regenerated"


def _case(**parts: Any) -> str:
    """In words a case of which only `parts` count."""
    rest = {"shift": "none", "severity": 0, "perturbation": "none", "remedy": "none", "eval_batch": 0}
    return case_text(tuple((rest | parts).items()))


def _remedied(rows: pd.DataFrame) -> list[str]:
    """The remedy of each row in words."""
    pairs = zip(rows["remedy"], rows["eval_batch"], strict=True)
    return [_case(remedy=remedy, eval_batch=eval_batch) or "no remedy" for remedy, eval_batch in pairs]


def _spread(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean, lowest and highest accuracy over seeds."""
    by = rows.groupby(keys, sort=False)["accuracy"]
    data = by.agg(["mean", "min", "max", "count"]).set_axis(["mean", "low", "high", "seeds"], axis=1)
    return data.reset_index()


def _lines(table: Table, data: pd.DataFrame, x: alt.X, column: str, title: str) -> Any:
    """Mean lines with the band from the lowest to the highest seed, a colour an arm."""
    base = alt.Chart().encode(x=x, color=colour_of(table.arms_in(data), table.arms, legend=True))
    y = alt.Y("low:Q", title="accuracy in %", scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=5))
    tip = tips("arm", form=".4~g", **{column: title}, mean="mean, %", low="lowest", high="highest", seeds="seeds")
    return alt.layer(
        base.mark_area(opacity=0.1, line=False).encode(y=y, y2="high:Q"),
        base.mark_line(strokeWidth=2, point=dots(30)).encode(y=alt.Y("mean:Q"), tooltip=tip),
        data=TABLE,
    )


def _seeds(rows: pd.DataFrame) -> str:
    return count(rows["seed"].nunique(), "seed")
