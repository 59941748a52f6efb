"""The verdict of each study: a word and a paragraph, computed from its points.

A claim fails where a point contradicts its prediction, or where what the claim calls for is excluded by an interval;
it holds where everything it calls for is shown; otherwise these seeds cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from icsbound.report.findings import Finding
from icsbound.report.intervals import Interval, student
from icsbound.report.studies.points import CONTRADICTS, Studies
from icsbound.report.wording import change, count, listed, number, percent, points, times

HOLDS, FAILS, OPEN = "holds", "fails", "not resolved"
NEGLIGIBLE = 0.05  # a share of the shift below which it does not matter
STILL = 0.01  # a change of alpha below which it did not train


def verdict(studies: Studies, name: str) -> Finding:
    """The verdict on study `name`, and what it rests on."""
    rows = studies.means[studies.means["study"] == name]
    basis = f"{count(len(studies.finished[name]), 'finished seed')}, {count(len(rows), 'point')}; see the table."
    if rows.empty or name not in _VERDICTS:
        return Finding("There is nothing to judge yet.", OPEN, basis)
    agreed, contradicted = agreement(rows)
    word, text = _VERDICTS[name](studies)
    return Finding(" ".join(part for part in (text, agreed) if part), FAILS if contradicted else word, basis)


def agreement(rows: pd.DataFrame) -> tuple[str, int]:
    """How the points stand to their predictions, and how many contradict them."""
    judged = rows[rows["relation"] != ""]
    wrong = judged[judged["verdict"] == CONTRADICTS]
    if judged.empty:
        return "", 0
    if len(wrong):
        off = (wrong["mean"] - wrong["predicted"]).abs() / wrong["predicted"].abs().clip(lower=1e-300)
        worst = wrong.loc[off.idxmax()]
        relation = {"equal": "", "at most": "at most ", "at least": "at least "}[worst["relation"]]
        text = (
            f"{len(wrong)} of {count(len(judged), 'predicted point')} contradict the prediction, most of all "
            f"“{worst['curve']}” at {number(worst['x'])}: measured {number(worst['mean'])}, predicted {relation}"
            f"{number(worst['predicted'])}."
        )
        return text, len(wrong)
    text = f"None of {count(len(judged), 'predicted point')} contradicts the prediction"
    equal = judged[(judged["relation"] == "equal") & (judged["predicted"] != 0)]
    if len(equal):
        off = float(((equal["mean"] - equal["predicted"]) / equal["predicted"]).abs().max())
        amount = f"at most {percent(off)}" if off >= 5e-4 else "rounding alone"
        text += f"; where the two should be equal they differ by {amount}"
    return text + ".", 0


def _values(studies: Studies, study: str, panel: str, curve: str) -> pd.DataFrame:
    """The values of one curve: a row a seed, a column a point; seeds that were cut short drop out."""
    rows = studies.by_seed(study, panel)
    rows = rows[rows["curve"] == curve]
    place = rows.groupby("seed").cumcount()
    return rows.assign(place=place).pivot_table(index="seed", columns="place", values="value").dropna()


def _xs(studies: Studies, study: str, panel: str, curve: str) -> np.ndarray:
    rows = studies.panel(study, panel)
    return np.asarray(rows.loc[rows["curve"] == curve, "x"], dtype=float)


def _exponent(studies: Studies, study: str, panel: str, curve: str) -> Interval:
    """The power of x that the curve grows like, by least squares in logarithms, seed by seed."""
    values, x = _values(studies, study, panel, curve), _xs(studies, study, panel, curve)
    if values.empty or len(x) < 2:
        return student([])
    return student([float(np.polyfit(np.log(x), np.log(row), 1)[0]) for row in values.to_numpy()])


def _last_over_first(studies: Studies, study: str, panel: str, curve: str) -> Interval:
    """The last value of the curve over its first, as a geometric mean over seeds."""
    values = _values(studies, study, panel, curve)
    return student(np.log(values.iloc[:, -1] / values.iloc[:, 0])).exp() if len(values) else student([])


def _word(interval: Interval, null: float, wanted: str) -> str:
    """`HOLDS` where the interval lies on the wanted side of `null`, `FAILS` on the other."""
    said = interval.verdict(null)
    return HOLDS if said == wanted else OPEN if said == "not resolved" else FAILS


def _together(*words: str) -> str:
    """One claim of several parts."""
    return FAILS if FAILS in words else OPEN if OPEN in words else HOLDS


def _dimension(studies: Studies) -> tuple[str, str]:
    curve = "layer whose weights turn"
    absolute, relative = (_exponent(studies, "dimension", panel, curve) for panel in ("absolute", "scale-free"))
    pair = studies.panel("dimension", "scale-free")
    pair = pair[pair["curve"] == "cube against cross-polytope"]
    text = f"Between the two steps of a layer whose weights turn, W1 grows like d to the power {number(absolute.mean)}"
    text += (
        f"{change(absolute)}; in units of the spread, like d to the power {number(relative.mean)}{change(relative)}. "
    )
    mere = relative.known and abs(relative.mean) < 0.25 * abs(absolute.mean)
    text += (
        "Most of what dimension does is a matter of size: the bound is small in low dimension because outputs are. "
        if mere
        else "Dimension does more than enlarge the outputs. "
    )
    if len(pair):
        last = pair.iloc[-1]
        share = last["mean"] / np.sqrt(2)
        text += f"At d = {last['x']:g} a pair of laws uses {percent(share)} of the bound √(2d). "
    tensors = studies.panel("dimension", "absolute")
    tensors = tensors[tensors["curve"] == "pattern and its negative, whole tensor"]
    if len(tensors):
        excess = float((tensors["mean"] / np.sqrt(2 * tensors["x"])).max())
        text += f"Whole tensors of a convolution reach {number(excess)} times √(2d)"
        text += ": for them that bound is false." if excess > 1 + 1e-9 else "."
    return _word(absolute, 0.0, "higher"), text


def _noise(studies: Studies) -> tuple[str, str]:
    frozen, train, running = (
        _last_over_first(studies, "noise", "two layers", curve)
        for curve in ("frozen law", "train law", "eval law, rate 0.1")
    )
    m = _xs(studies, "noise", "two layers", "frozen law")
    text = f"From batches of {m[0]:g} to {m[-1]:g}, W1 between two layers falls to {times(frozen)} its value under the "
    text += f"frozen law, to {times(running)} under running averages, and to {times(train)} under the train law. "
    flat = train.known and train.low > 0.95 and train.high < 1.05
    text += "The train law is free of the noise. " if flat else "The train law is not shown to be free of it. "
    alone = studies.panel("noise", "noise alone")
    alone = alone[alone["curve"] == "W1, frozen law"]
    if len(alone):
        at = alone.iloc[0]
        text += f"One layer under two batches of {at['x']:g} moves by {number(at['mean'])} although nothing changed. "
    lag = studies.panel("noise", "lag")
    lag = lag[lag["curve"] == "rate 0.1"]
    if len(lag) > 1:
        least, most = lag.iloc[0], lag.iloc[-1]
        text += f"A mean that drifts by {number(most['x'])} deviations a step makes running averages lag by W1 = "
        text += f"{number(most['mean'])}, {number(most['mean'] / least['mean'])} times what is left at "
        text += f"{number(least['x'])}. "
    tails = _last_over_first(studies, "noise", "tails", "W1, frozen law, M = 256")
    if tails.count:
        x = _xs(studies, "noise", "tails", "W1, frozen law, M = 256")
        text += f"Kurtosis {x[-1]:g} instead of {x[0]:g} makes the noise {times(tails)} as large."
    return _word(frozen, 1.0, "lower"), text


def _reduction(studies: Studies) -> tuple[str, str]:
    shares, ratios = {}, {}
    for view in ("pooled", "sample"):
        for unit in ("absolute", "scale-free"):
            curve = f"{unit}, {view} view"
            shares[curve] = student(_values(studies, "reduction", "share", curve).mean(axis=1))
            logs = np.log(_values(studies, "reduction", "training", curve)).mean(axis=1)
            ratios[curve] = student(logs).exp()
    text = ""
    built = studies.panel("reduction", "construction")
    if len(built):
        last = built.iloc[-1]
        text = (
            f"A pair of laws moves {number(last['mean'])} times as far after batch norm as before, at equal variance. "
        )
    known = [curve for curve, share in shares.items() if share.count]
    if not known:
        return OPEN, text
    text += "In training, over all layers and pairs of states, batch norm enlarged the shift in "
    text += listed([f"{percent(shares[c].mean)} of cases ({c}){change(shares[c])}" for c in known]) + "; "
    text += "on average it multiplied it by " + listed([f"{times(ratios[c])} ({c})" for c in known]) + ". "
    never = all(share.mean == 0 for share in (shares[c] for c in known))
    mean = [ratios[c] for c in known if c.startswith("scale-free")]
    if never:
        return FAILS, text + "It never enlarged it: the construction shows a possibility and no more."
    if any(r.verdict(1.0) == "lower" for r in mean):
        text += "It does not always reduce the shift, but more often than not it does."
    shown = any(share.known and share.low > 0 for share in (shares[c] for c in known))
    return HOLDS if shown else OPEN, text


def _moments(studies: Studies) -> tuple[str, str]:
    survive = student(_values(studies, "moments", "training", "survives matching").mean(axis=1))
    pairs = studies.panel("moments", "pairs")
    last = pairs[pairs["x"] == pairs["x"].max()]
    text = ""
    if len(last):
        each = [f"{number(row.mean)} ({row.curve})" for row in last.itertuples()]
        text = (
            f"Laws with equal means and variances lie apart by {listed(each)} of √(2d) at d = {last['x'].iloc[0]:g}. "
        )
    if not survive.count:
        return OPEN, text
    text += (
        f"In training, {percent(survive.mean)} of the shift survives matching of means and variances{change(survive)}. "
    )
    seen = studies.panel("moments", "training")
    seen = seen[seen["curve"].str.startswith("seen by: ")]
    by_bound = seen.groupby("curve", sort=False)["mean"].mean()
    if len(by_bound):
        best = by_bound.idxmax().removeprefix("seen by: ")
        shift = by_bound.get("seen by: shift of the mean")
        text += f"Of the cheap lower bounds “{best}” sees most, {percent(by_bound.max())}"
        text += f"; the shift of the mean sees {percent(shift)}. " if shift is not None else ". "
    negligible = survive.known and survive.high < NEGLIGIBLE
    text += f"That is negligible (below {percent(NEGLIGIBLE, 0)})." if negligible else ""
    return _word(survive, NEGLIGIBLE, "higher"), text


def _unitization(studies: Studies) -> tuple[str, str]:
    rows = studies.panel("unitization", "stale deviations")
    text, words = "", []
    if len(rows):
        far = rows[rows["x"] == rows["x"].max()].set_index("curve")["mean"]
        near = rows[rows["x"] == rows["x"].min()].set_index("curve")["mean"]
        names = [
            n for n in ("batch norm", "arithmetic, α = 0.5", "geometric, α = 0.5", "harmonic, α = 0.5") if n in far
        ]
        each = [f"{number(far[n])} ({n})" for n in names]
        text = f"Deviations understated {rows['x'].max():,.0f} times shift the outputs by {listed(each)}"
        grown = {n: far[n] / near[n] for n in names}
        text += f", {listed([f'{number(grown[n])}' for n in names])} times as far as {rows['x'].min():g} times. "
        if "harmonic, α = 0.5" in grown and "arithmetic, α = 0.5" in grown:
            bounded = grown["harmonic, α = 0.5"] < 0.1 * grown["arithmetic, α = 0.5"]
            text += "The harmonic form levels off. " if bounded else "The harmonic form does not level off. "
            words.append(HOLDS if bounded else FAILS)
    used = studies.panel("unitization", "bound")
    if len(used):
        within = bool((used["mean"] <= 1 + 1e-9).all())
        words.append(HOLDS if within else FAILS)
        text += f"Harmonic layers with parameters by channel use up to {percent(used['mean'].max())} of their bound. "
    own, norm = (_values(studies, "unitization", "errors by channel", curve) for curve in ("α = 1", "batch norm"))
    if len(own) and own.shape == norm.shape:
        ratio = student(np.log(own / norm).mean(axis=1)).exp()
        text += (
            f"Errors of single channels are another matter: at α = 1 they shift the outputs {times(ratio)} as far as "
        )
        text += "in batch norm. "
    flips = studies.panel("unitization", "small samples flip")
    if len(flips):
        worst = flips.loc[flips["mean"].idxmax()]
        text += f"Where small samples change sign, the {worst['curve']} form enlarges the shift up to "
        text += f"{number(worst['mean'])} times. "
    return (_together(*words) if words else OPEN), text


def _alpha(studies: Studies) -> tuple[str, str]:
    course = _values(studies, "alpha", "alpha", "trained")
    accuracy = {
        str(curve): rows.set_index("seed")["value"]
        for curve, rows in studies.by_seed("alpha", "accuracy").groupby("curve", sort=False)
    }
    if course.empty or "trained" not in accuracy:
        return OPEN, "No network with a trained alpha was measured."
    moved = student(course.iloc[:, -1] - course.iloc[:, 0])
    text = f"Alpha went from {number(course.iloc[:, 0].mean())} to {number(course.iloc[:, -1].mean())} on average, by "
    text += f"{number(moved.mean)}{change(moved)}. "
    faster = _values(studies, "alpha", "alpha", "trained, rate × 10")
    if len(faster):
        ten = student(faster.iloc[:, -1] - faster.iloc[:, 0])
        text += f"At ten times the rate, by {number(ten.mean)}{change(ten)}. "
    trains = moved.known and (moved.low > STILL or moved.high < -STILL)
    still = moved.known and moved.low > -STILL and moved.high < STILL
    frozen = {
        curve: student((accuracy["trained"] - own).dropna()) for curve, own in accuracy.items() if curve != "trained"
    }
    if frozen:
        text += "Accuracy with alpha trained, less that with it "
        text += "; ".join(f"{curve}: {points(found)}" for curve, found in frozen.items()) + ". "
    controls = [found.verdict() for curve, found in frozen.items() if curve.startswith("frozen")]
    better = bool(controls) and all(said == "higher" for said in controls)
    worse = [curve for curve, found in frozen.items() if curve.startswith("frozen") and found.verdict() == "lower"]
    if still:
        return FAILS, text + "Alpha stayed where it started."
    if worse:
        return FAILS, text + f"Frozen controls do better: {listed(worse)}."
    if controls and not better:
        text += (
            "Some frozen control is not told apart from training: what helps is not shown to be the training of alpha."
        )
    return (HOLDS if trains and better else OPEN), text


def _information(studies: Studies) -> tuple[str, str]:
    raw, first = (
        _values(studies, "information", "by layer", curve) for curve in ("raw, unitized", "batch norm, unitized")
    )
    if raw.empty or raw.shape != first.shape:
        return OPEN, "Raw and normalized outputs were not both measured."
    gap = student((first - raw).mean(axis=1))
    text = "A linear probe on outputs unitized after batch norm, less one on outputs unitized raw, mean over layers: "
    text += f"{points(gap)}. "
    whole = _values(studies, "information", "by layer", "batch norm")
    if whole.shape == first.shape:
        text += f"Unitizing normalized outputs costs {points(student((whole - first).mean(axis=1)))}. "
    moved = studies.panel("information", "offset")
    far = moved[moved["x"] == moved["x"].max()].set_index("curve")["mean"]
    if {"raw, unitized", "batch norm, unitized"} <= set(far.index):
        text += f"With means {moved['x'].max():,.0f} deviations away from 0 the raw probe is right in "
        text += f"{percent(far['raw, unitized'])}, the normalized one in {percent(far['batch norm, unitized'])}. "
    norms = studies.panel("information", "norm")
    linear = norms[norms["curve"] == "linear probe"]
    if len(linear):
        first_row, last = linear.iloc[0], linear.iloc[-1]
        text += f"Of the norm, a linear probe explains {percent(first_row['mean'])} at α = {first_row['x']:g} and "
        text += f"{percent(last['mean'])} at α = {last['x']:g}."
    return _word(gap, 0.0, "higher"), text


def _shift(studies: Studies) -> tuple[str, str]:
    ranks = {"distance": student(_ranks(studies, "distance")), "moments": student(_ranks(studies, "moments"))}
    if not ranks["distance"].count:
        return OPEN, "Too few conditions were measured to rank them."
    text = "Over conditions, the rank correlation of accuracy with the distance of the last normalization layer is "
    text += f"{number(ranks['distance'].mean)}{change(ranks['distance'])}, and with what moments alone say "
    text += f"{number(ranks['moments'].mean)}{change(ranks['moments'])}. "
    layers = studies.panel("shift", "by layer")
    parts = layers["curve"].str.split(" · ", n=1, expand=True).set_axis(["condition", "arm"], axis=1)
    layers = layers.assign(**{str(name): parts[name] for name in parts})
    by_arm = layers.groupby("arm", sort=False)["mean"].mean()
    text += f"The layers move by {listed([f'{number(v)} spreads in {arm}' for arm, v in by_arm.items()])} on average. "
    if "bn" in by_arm:
        own = layers[layers["arm"] == "bn"]
        first = own[own["place"] == 0].set_index("condition")["mean"]
        peak = own.loc[own.groupby("condition")["mean"].idxmax()].set_index("condition")
        grows = [c for c in peak.index if peak.loc[c, "mean"] > 1.25 * first[c]]
        text += (
            f"Under {len(grows)} of {count(len(peak), 'condition')} batch norm's distance grows by a quarter or more "
        )
        text += "beyond its first layer. "
    costs = _costs(studies)
    if costs:
        each = [f"{arm} {percent(v)}" for arm, v in costs.items()]
        text += f"Accuracy that is left, mean over conditions: {listed(each)}. "
    return _together(*(_word(found, 0.0, "lower") for found in ranks.values())), text


def _ranks(studies: Studies, which: str) -> list[float]:
    """Spearman's rank correlation over conditions, mean over networks, seed by seed."""
    rows = studies.by_seed("shift", f"{which} against accuracy")
    if rows.empty:
        return []
    rows = rows.assign(arm=rows["curve"].str.split(" · ").str[1])
    found: dict[int, list[float]] = {}
    for (seed, _), group in rows.groupby(["seed", "arm"]):
        if len(group) > 2 and group["x"].nunique() > 1 and group["value"].nunique() > 1:
            found.setdefault(int(seed), []).append(float(stats.spearmanr(group["x"], group["value"]).statistic))
    return [float(np.mean(values)) for values in found.values()]


def _costs(studies: Studies) -> dict[str, float]:
    rows = studies.panel("shift", "accuracy")
    rows = rows[~rows["curve"].str.startswith("none · ")]
    means = rows.assign(arm=rows["curve"].str.split(" · ").str[1]).groupby("arm", sort=False)["mean"].mean()
    return {str(arm): float(value) for arm, value in means.items()}


_VERDICTS: dict[str, Callable[[Studies], tuple[str, str]]] = {
    "dimension": _dimension,
    "noise": _noise,
    "reduction": _reduction,
    "moments": _moments,
    "unitization": _unitization,
    "alpha": _alpha,
    "information": _information,
    "shift": _shift,
}
