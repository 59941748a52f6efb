"""What the page says of how far layers moved: which did, against the control, and of an arm alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from icsbound.report import statistics as st
from icsbound.report import verdicts as judged
from icsbound.report.finding import Finding, Group
from icsbound.report.runs import Study
from icsbound.report.wording import count, given, listed, measure, number, percent, times


def verdicts(study: Study) -> Group:
    """Which layers are called moved, run by run and view by view, with the false discovery rate controlled."""
    found = []
    table = judged.frame(study)
    if len(table) and (waiting := int(table["verdict"].isna().sum())):
        text = f"{count(waiting, 'distance')} have no verdict yet: the measurement was interrupted before its end."
        found.append(Finding(text, "alert", "Verdicts come last, since each is judged among all."))
    known = table[table["verdict"].notna()]
    for (run, view), rows in known.groupby(["run", "view"], sort=False):
        tally = rows["verdict"].value_counts()
        parts = [f"{tally[v]} {v}" for v in judged.VERDICTS if v in tally]
        moved = rows[rows["verdict"] == "moved"]
        text = f"{run}, {view} view: of {count(len(rows), 'distance')}, {listed(parts)}."
        if len(moved):
            most = moved.loc[moved["spreads"].idxmax()]
            text += (
                f" Furthest moved {most['layer']}, by {number(most['spreads'])} times its spread"
                f" ({judged.steps(most)}): EM {number(most['value'])} (standard error {number(most['error'], 2)}), "
                f"against {number(most['floor'])} that sampling alone gives."
            )
        verdict = parts[0].partition(" ")[2] if len(parts) == 1 else "moved" if len(moved) else "not resolved"
        found.append(Finding(text, verdict))
    rate = percent(known["rate"].max(), 0) if len(known) else ""
    smallest = float(known["smallest"].max()) if len(known) else 0.0
    least = f"{number(smallest)} times the layer's spread, the smallest shift that counts" if smallest else "0"
    more = ""
    if not judged.judged_together(study.verdicts):
        more = "All are judged together here; what a monitor said as the training went, of one step each, may differ. "
    basis = (
        f"Moved: a lower bound of W1 fitted on other inputs exceeds {least}. Of all that is called moved, at most "
        f"{rate} are expected to be false, whatever the dependence between layers and steps. "
        f"{more}{measure(study.distances)}"
    )
    return Group("What moved", basis if len(known) else "", found)


def shift(study: Study, rows: pd.DataFrame, view: str) -> Group | None:
    """Scale-free ICS against the control: in all, by layer, early and late. None where no arm has a control."""
    found = []
    for arm in study.arms:
        control = study.control(arm)
        ratios = st.log_ratios(study, arm, control, view) if control else pd.DataFrame()
        if ratios.empty:
            continue
        overall, (early, late) = st.ratio(ratios), st.early_and_late(ratios)
        layers = st.ratio_by_layer(study, ratios)
        tally = layers["verdict"].value_counts()
        parts = [f"{tally[v]} {v}" for v in ("lower", "higher", "not resolved") if v in tally]
        by_layer = f"{listed(parts)}, of {len(layers)}" if len(parts) > 1 else f"all {parts[0]}"
        text = (
            f"The layers of {arm} moved {times(overall)} as far as those of {control}. First third of the captures: "
            f"{_judged(early)}; last third: {_judged(late)}. "
            f"Layer by layer: {by_layer}."
        )
        found.append(Finding(text, overall.verdict(1.0)))
    if not found:
        return None
    basis = (
        "Geometric mean of the ratio of scale-free ICS at equal seed, layer and steps; intervals over seeds; single "
        f"layers judged together, false discovery rate 5 %. {measure(rows)}"
    )
    return Group(f"How far the layers moved, {view} view", basis, found)


def _judged(ratio: st.Interval) -> str:
    """A ratio with its verdict, where there is an interval to judge by."""
    return times(ratio) + (f", {ratio.verdict(1.0)}" if ratio.known else "")


def course(study: Study, rows: pd.DataFrame, view: str) -> Group:
    """Where an arm without a control moved most, and how its movement changed."""
    found = []
    rows = rows[rows["scale_free"].notna()]
    for arm in study.arms:
        own = rows[rows["arm"] == arm]
        if own.empty:
            continue
        by_layer, by_step = _over_seeds(own, "layer"), _over_seeds(own, "step_b")
        most, least = (pick(by_layer, key=lambda name: by_layer[name].mean) for pick in (max, min))
        text = (
            f"In {arm}, {most} moved furthest: {given(by_layer[most])} times its spread between two captures on average"
        )
        if len(by_layer) > 1:
            text += f"; least moved {least}, {given(by_layer[least])} times"
        if len(by_step) > 1:
            first, *_, last = by_step.values()
            text += (
                f". Over all layers the shift went from {given(first)} at the first pair of captures to "
                f"{given(last)} at the last"
            )
        seeds = own["seed"].nunique()
        how = f"means and intervals over {seeds} seeds" if seeds > 1 else "a single run, and so no interval"
        found.append(Finding(f"{text}.", "", f"{count(len(own), 'distance')}; {how}."))
    basis = f"Scale-free ICS: Earth Mover distance over spread. {measure(rows)}"
    return Group(f"How far the layers moved, {view} view", basis, found)


def _over_seeds(rows: pd.DataFrame, by: str) -> dict[Any, st.Interval]:
    """The mean scale-free ICS of each value of `by`, with its interval over seeds."""
    means = rows.groupby([by, "seed"], sort=by == "step_b")["scale_free"].mean()
    return {value: st.student(own) for value, own in means.groupby(level=0, sort=False)}
