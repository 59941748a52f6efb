"""What the page says first: sentences computed from the records, each with its interval and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from icsbound.report import statistics as st
from icsbound.report.runs import Study
from icsbound.report.wording import count, listed, measure, number, percent, points, split, times

FLOORS = {"digits": 0.96}  # accuracy below which a training on the data set failed, whatever it is compared with


@dataclass(frozen=True)
class Finding:
    """One sentence, its verdict as one word or two, and the line that says how it was computed."""

    text: str
    verdict: str  # "higher", "lower", "not resolved", "holds", "alert" or "" where there is nothing to decide
    basis: str = ""


@dataclass(frozen=True)
class Group:
    """Findings on one question."""

    title: str
    findings: list[Finding]


def all_groups(study: Study) -> list[Group]:
    """Every finding of the page in reading order; what went wrong comes first."""
    groups = [
        Group("Look at this first", alerts(study)),
        Group("Accuracy", accuracy(study)),
        Group("How far the layers moved", shift(study)),
        Group("What the exact distance adds, and what certifies it", exactness(study)),
        Group("Alpha and what the layer allows", alpha(study)),
    ]
    return [group for group in groups if group.findings]


def alerts(study: Study) -> list[Finding]:
    """Runs that are missing, unfinished or below the floor, files that are damaged, brackets that fail."""
    found = []
    if study.missing:
        text = f"{count(len(study.missing), 'run')} of the plan left no record: {listed(study.missing)}."
        found.append(Finding(text, "alert", "Every number below is computed without them."))
    for run in study.unfinished:
        total = f" of {run.info.steps:,}" if run.info else ""
        text = f"{run.arm}, seed {run.seed}, did not finish: its last record is of step {run.reached:,}{total}."
        found.append(Finding(text, "alert", "Its curves are drawn as far as they go; comparisons leave it out."))
    found += [Finding(note, "alert") for note in study.notes]
    for arm in study.arms:
        values, floor = st.accuracy(study, arm), _floor(study, arm)
        if floor is not None and len(values) and values.mean() < floor:
            text = f"{arm} stays below the accuracy that its data set allows: {percent(values.mean())}, floor {percent(floor, 0)}."
            found.append(Finding(text, "alert", f"Mean of {count(len(values), 'seed')}; lowest {percent(values.min())}."))
    check = st.certificate(study.distances)
    if check.violations or check.loose:
        text = (
            f"Of {count(check.checked, 'exact distance')}, {check.violations:,} lie outside their bounds and "
            f"{check.loose:,} have a certificate gap above one part in 10⁹: do not trust them."
        )
        found.append(Finding(text, "alert", f"Largest relative gap {number(check.largest_relative_gap, 2)}."))
    return found


def accuracy(study: Study) -> list[Finding]:
    """Each arm's accuracy, against its control where it has one."""
    found = []
    for arm in study.arms:
        values, control = st.accuracy(study, arm), study.control(arm)
        if not len(values):
            continue
        spread = f" ({percent(values.min())} to {percent(values.max())})" if len(values) > 1 else ""
        text = f"{arm} reaches {percent(values.mean(), 2)}{spread}"
        difference = st.accuracy_difference(study, arm, control) if control else None
        if difference is None or not difference.count:
            found.append(Finding(text + ".", "", f"Final accuracy, {split(study)}, {count(len(values), 'seed')}."))
            continue
        basis = f"Difference paired by seed, {count(difference.count, 'seed')}, Student t; {split(study)}."
        text += f": {points(difference)} against {control}."
        found.append(Finding(text, difference.verdict(), basis))
    floored = [arm for arm in study.arms if _floor(study, arm) is not None and len(st.accuracy(study, arm))]
    if floored and all(st.accuracy(study, arm).mean() >= (_floor(study, arm) or 0) for arm in floored):
        floor = percent(_floor(study, floored[0]) or 0, 0)
        worst = min((float(st.accuracy(study, arm).min()), arm) for arm in floored)
        text = f"Every arm reaches the floor of {floor} in the mean; the lowest single run has {percent(worst[0])} ({worst[1]})."
        found.append(Finding(text, "holds", "The floor tells a training that worked from one that did not."))
    return found


def shift(study: Study) -> list[Finding]:
    """Scale-free ICS against the control, over all layers and by layer, early and late; for one arm alone, its course."""
    found = []
    main = st.main_part(study.distances)
    for view in st.views(main):
        for arm in study.arms:
            control = study.control(arm)
            if control is None:
                continue
            ratios = st.log_ratios(study, arm, control, view)
            if ratios.empty:
                continue
            overall = st.ratio(ratios)
            early, late = st.early_and_late(ratios)
            layers = st.ratio_by_layer(study, ratios)
            tally = layers["verdict"].value_counts()
            text = (
                f"In the {view} view the layers of {arm} moved {times(overall)} as far as those of {control}. By layer: "
                f"lower in {tally.get('lower', 0)}, higher in {tally.get('higher', 0)}, not resolved in "
                f"{tally.get('not resolved', 0)} of {len(layers)}."
            )
            basis = (
                f"Scale-free ICS, geometric mean of {count(len(ratios), 'ratio')} at equal seed, layer and steps; interval over "
                f"{count(overall.count, 'seed')}; layers with the false discovery rate held at 5 %. First third of the captures: "
                f"{times(early)}; last third: {times(late)}. {measure(main[main['view'] == view])}"
            )
            found.append(Finding(text, overall.verdict(1.0), basis))
    if not found:
        found = [f for view in st.views(main) for f in _course(study, main, view)]
    return found


def _course(study: Study, main: pd.DataFrame, view: str) -> list[Finding]:
    """Where a single arm moved most, and how its movement changed."""
    found = []
    for arm in study.arms:
        rows = main[(main["arm"] == arm) & (main["view"] == view) & main["scale_free"].notna()]
        if rows.empty:
            continue
        by_layer = rows.groupby("layer")["scale_free"].mean()
        by_step = rows.groupby("step_b")["scale_free"].mean()
        text = (
            f"In the {view} view of {arm}, {by_layer.idxmax()} moved furthest between captures: {number(by_layer.max())} of its "
            f"spread on average, {number(by_layer.min())} in {by_layer.idxmin()}, which moved least."
        )
        if len(by_step) > 1:
            text += (
                f" Over all layers the shift went from {number(by_step.iloc[0])} at the first pair of captures to "
                f"{number(by_step.iloc[-1])} at the last."
            )
        found.append(Finding(text, "", f"Scale-free ICS of {count(len(rows), 'distance')}. {measure(main[main['view'] == view])}"))
    return found


def exactness(study: Study) -> list[Finding]:
    """By how much EM undercuts the paired displacement in each view, and whether every bracket holds."""
    found = []
    main = st.main_part(study.distances)
    for view in st.views(main):
        rows = main[main["view"] == view]
        ratios = st.tightness(rows)
        if ratios.empty:
            continue
        by_run = (1 - ratios).groupby([rows["arm"], rows["seed"]]).mean()
        spread = f" ({percent(by_run.min())} to {percent(by_run.max())} by run)" if len(by_run) > 1 else ""
        below = int((ratios < 1 - 1e-9).sum())
        text = (
            f"In the {view} view the Earth Mover distance lies {percent(1 - ratios.mean())} below the paired displacement on average"
            f"{spread}; it is smaller in {below:,} of {count(len(ratios), 'distance')}."
        )
        if not below:
            text = (
                f"In the {view} view the Earth Mover distance equals the paired displacement in all "
                f"{count(len(ratios), 'distance')}: there the best matching pairs every input with itself."
            )
        found.append(Finding(text, "", measure(main[main["view"] == view])))
    check = st.certificate(study.distances)
    if check.checked and not check.violations and not check.loose:
        text = (
            f"All {count(check.checked, 'exact distance')} lie inside their bounds, each with a certificate: the dual "
            f"value proves it to {number(check.largest_relative_gap, 2)} of its size, or better."
        )
        basis = (
            "Checked on every record: mean shift, distance of the norms and dual value ≤ EM ≤ paired and independent coupling. "
            f"Largest gap {number(check.largest_gap, 2)} in units of the layer's output."
        )
        found.append(Finding(text, "holds", basis))
    if check.bracket_only:
        text = f"{count(check.bracket_only, 'distance')} were taken as a bracket only, without the exact value."
        found.append(Finding(text, "", "Figures of exact distances leave them out."))
    return found


def alpha(study: Study) -> list[Finding]:
    """How far alpha moved, and which share of what its radius allows a layer used."""
    found = []
    rows = study.layers[study.layers["alpha_mean"].notna()]
    share = st.allowed(study)
    for arm in study.arms:
        own = rows[rows["arm"] == arm].sort_values("step", kind="stable")
        if own.empty:
            continue
        ends = own.groupby(["seed", "layer"]).agg(
            first=("alpha_mean", "first"), last=("alpha_mean", "last"), low=("alpha_min", "last"), high=("alpha_max", "last")
        )
        moved = (ends["last"] - ends["first"]).abs().groupby("layer").mean()
        still = bool(own.groupby(["seed", "layer"])[["alpha_min", "alpha_max"]].nunique().max().max() == 1)
        if still:
            text = f"{arm} kept alpha where it started ({number(ends['last'].mean())})."
        else:
            text = (
                f"In {arm} alpha went from {number(ends['first'].mean())} to {number(ends['last'].mean())} on average, furthest in "
                f"{moved.idxmax()} (by {number(moved.max())}); single channels end between {number(ends['low'].min())} and "
                f"{number(ends['high'].max())}."
            )
        seeds = own["seed"].nunique()
        found.append(Finding(text, "", f"Mean over channels, {count(len(moved), 'layer')}, {count(seeds, 'seed')}."))
        used = share.loc[share["arm"] == arm, "share"]
        if len(used):
            text = (
                f"The noise-free radius R of {arm} would allow a shift of R + R′; its layers used at most {percent(used.max())} of "
                f"that, {percent(used.mean())} on average."
            )
            basis = f"{count(len(used), 'flattened distance')} with finite R at both steps; the change of the bias comes on top."
            found.append(Finding(text, "", basis))
        elif study.layers.loc[study.layers["arm"] == arm, "bound"].notna().any():
            text = f"{arm} has no noise-free radius (R = ∞): some alpha is 0, or its form has none."
            found.append(Finding(text, "", "Its shift is bounded only through the statistics that were stored."))
    return found


def _floor(study: Study, arm: str) -> float | None:
    """The accuracy that the data set of `arm` is known to allow."""
    return next((FLOORS.get(r.info.dataset) for r in study.runs if r.arm == arm and r.info), None)
