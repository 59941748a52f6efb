"""What the page says first: sentences computed from the records, each with its interval and what it rests on."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from icsbound.report import movement
from icsbound.report import statistics as st
from icsbound.report.finding import Finding, Group
from icsbound.report.runs import Study
from icsbound.report.wording import change, count, given, listed, measure, number, percent, points, split

FLOORS = {"digits": 0.96}  # accuracy below which a training on the data set failed, whatever it is compared with


def all_groups(study: Study) -> list[Group]:
    """Every finding of the page in reading order; what went wrong comes first."""
    groups = [Group("Look at this first", "", alerts(study)), accuracy(study), movement.verdicts(study)]
    main = st.main_part(study.distances)
    for view in st.views(main):
        rows = main[main["view"] == view]
        groups.append(movement.shift(study, rows, view) or movement.course(study, rows, view))
    groups += [exactness(study), alpha(study)]
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
            text = f"{arm} stays below the {percent(floor, 0)} that its data set allows: {percent(values.mean())}."
            basis = f"Mean of {count(len(values), 'seed')}; the lowest has {percent(values.min())}."
            found.append(Finding(text, "alert", basis))
    check = st.certificate(study.distances)
    if check.violations or check.loose:
        text = (
            f"Of {count(check.checked, 'exact distance')}, {check.violations:,} lie outside their bounds and "
            f"{check.loose:,} have a certificate gap above one part in 10⁹: do not trust them."
        )
        found.append(Finding(text, "alert", f"Largest relative gap {number(check.largest_relative_gap, 2)}."))
    return found


def accuracy(study: Study) -> Group:
    """Each arm's accuracy, against its control where it has one."""
    found = []
    for arm in study.arms:
        values, control = st.accuracy(study, arm), study.control(arm)
        if values.empty:
            continue
        mean = st.student(values)
        reached = replace(mean, low=max(mean.low, 0.0), high=min(mean.high, 1.0)) if mean.known else mean
        between = change(reached.scaled(100), " %") if reached.known else ""
        text = f"{arm} reaches {percent(mean.mean, 2)}{between}"
        difference = st.accuracy_difference(study, arm, control) if control else st.student([])
        if difference.count:
            found.append(Finding(f"{text}: {points(difference)} against {control}.", difference.verdict()))
        else:
            found.append(Finding(f"{text}.", ""))
    floored = [(st.accuracy(study, arm), arm) for arm in study.arms if _floor(study, arm) is not None]
    floored = [(values, arm) for values, arm in floored if len(values)]
    if floored and all(values.mean() >= (_floor(study, arm) or 0) for values, arm in floored):
        lowest, arm = min((float(values.min()), arm) for values, arm in floored)
        floor = percent(_floor(study, arm) or 0, 0)
        every = "Every arm reaches" if len(floored) > 1 else f"{arm} reaches"
        text = (
            f"{every} the floor of {floor}, in the mean over seeds; the lowest single run has {percent(lowest)} "
            f"({arm})."
        )
        found.append(Finding(text, "holds", "The floor tells a training that worked from one that did not."))
    seeds = count(study.results["seed"].nunique(), "seed")
    paired = ", differences paired by seed, Student t intervals" if any(map(study.control, study.arms)) else ""
    return Group("Accuracy", f"Final accuracy on the {split(study)}, {seeds}{paired}.", found)


def exactness(study: Study) -> Group:
    """By how much EM undercuts the paired displacement in each view, and whether every bracket holds."""
    found = []
    main = st.main_part(study.distances)
    for view in st.views(main):
        ratios = st.tightness(main[main["view"] == view])
        if ratios.empty:
            continue
        below, rows = int((ratios < 1 - 1e-9).sum()), main.loc[ratios.index]
        by_seed = (100 * (1 - ratios)).groupby([rows["arm"], rows["seed"]]).mean()
        means = {arm: st.student(by_seed[arm]) for arm in study.arms_in(rows)}
        # No distance exceeds the paired displacement, so no interval needs to reach below 0.
        means = {arm: replace(mean, low=max(mean.low, 0.0)) for arm, mean in means.items()}
        each = [f"{number(mean.mean, 2)} %{change(mean, ' %', 2)} in {arm}" for arm, mean in means.items()]
        if max(mean.mean for mean in means.values()) < 0.05:
            each = ["less than 0.05 % in every arm"]
        text = (
            f"In the {view} view EM is smaller than the paired displacement in {below:,} of "
            f"{count(len(ratios), 'distance')}: on average by {listed(each, 8)}; at most by "
            f"{number(100 * (1 - ratios.min()), 2)} %."
        )
        if not below:
            text = (
                f"In the {view} view EM equals the paired displacement in all {count(len(ratios), 'distance')}: the "
                "best matching pairs every input with itself."
            )
        found.append(Finding(text, "", measure(rows)))
    check = st.certificate(study.distances)
    exact = study.distances["value"].notna()
    if check.checked and not check.violations and not check.loose:
        text = (
            f"All {count(check.checked, 'exact distance')} lie inside their bounds and carry a certificate: the dual "
            f"value proves each to within {number(check.largest_relative_gap, 2)} of its size."
        )
        basis = (
            "Checked on every record: mean shift, distance of the norms and dual value ≤ EM ≤ paired and independent "
            f"coupling. Largest gap {number(check.largest_gap, 2)} in units of the layer's output. "
            f"{measure(study.distances[exact])}"
        )
        found.append(Finding(text, "holds", basis))
    if check.bracket_only:
        text = f"{count(check.bracket_only, 'distance')} were taken as a bracket only, without the exact value."
        basis = f"Figures of exact distances leave them out. {measure(study.distances[~exact])}"
        found.append(Finding(text, "", basis))
    basis = "EM beside the mean displacement of every input; means over layers and captures, intervals over seeds."
    return Group("What the exact distance adds, and what certifies it", basis, found)


def alpha(study: Study) -> Group:
    """How far alpha moved, and which share of what its radius allows a layer used."""
    found = []
    rows = study.layers[study.layers["alpha_mean"].notna()].sort_values("step", kind="stable")
    share = st.allowed(study)
    for arm in study.arms:
        own = rows[rows["arm"] == arm]
        if own.empty:
            continue
        found.append(_moved(arm, own))
        used = share[share["arm"] == arm]
        if len(used):
            mean = st.student(100 * used.groupby("seed")["share"].mean())
            text = (
                f"The noise-free radius of {arm} allows a shift of R + R′; its layers used at most "
                f"{number(100 * used['share'].max())} % of that, {number(mean.mean)} %{change(mean, ' %')} on average."
            )
            basis = f"{count(len(used), 'flattened distance')}; a change of the bias would come on top. {measure(used)}"
            found.append(Finding(text, "", basis))
        elif study.layers.loc[study.layers["arm"] == arm, "bound"].notna().any():
            text = f"{arm} has no noise-free radius (R = ∞): some alpha is 0, or its form has none."
            found.append(Finding(text, "", "Its shift is bounded only through the statistics that were stored."))
    layers, seeds = count(rows["layer"].nunique(), "layer"), count(rows["seed"].nunique(), "seed")
    basis = f"Means over the channels of {layers}; intervals over {seeds}."
    return Group("Alpha, and what the layer allows", basis, found)


def _moved(arm: str, own: pd.DataFrame) -> Finding:
    """How far the alpha of one arm went from its first record to its last."""
    by_layer = own.groupby(["seed", "layer"])
    first, last = by_layer["alpha_mean"].first(), by_layer["alpha_mean"].last()
    if by_layer[["alpha_min", "alpha_max"]].nunique().max().max() == 1:
        return Finding(f"In {arm} alpha stayed where it started, at {number(last.mean())}.", "")
    moved = st.student((last - first).groupby("seed").mean())
    layer = (last - first).groupby("layer").mean().abs().idxmax()
    furthest = st.student((last - first).xs(layer, level="layer"))
    text = (
        f"In {arm} alpha went from {number(first.mean())} to {number(last.mean())}, by "
        f"{number(moved.mean)}{change(moved)}; "
        f"furthest in {layer}, by {given(furthest)}. Single channels end between "
        f"{number(by_layer['alpha_min'].last().min())} and {number(by_layer['alpha_max'].last().max())}."
    )
    return Finding(text, moved.verdict())


def _floor(study: Study, arm: str) -> float | None:
    """The accuracy that the data set of `arm` is known to allow."""
    return next((FLOORS.get(run.info.dataset) for run in study.runs if run.arm == arm and run.info), None)
