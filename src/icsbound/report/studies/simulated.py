"""What the simulations say: dimension, noise, unitization."""

from __future__ import annotations

import math

import numpy as np

from icsbound.report.intervals import student
from icsbound.report.studies.points import AGREES, CONTRADICTS, Studies
from icsbound.report.studies.reading import (
    FAILS,
    HOLDS,
    OPEN,
    brief,
    exponent,
    last_over_first,
    over,
    point,
    power,
    ranks,
    row,
    together,
    values,
    word,
    xs,
)
from icsbound.report.wording import listed, number, percent, times

# What the verdict on unitization calls a curve -> its name in the figures.
NAMED = {
    "batch norm": "harmonic · α = 0 (batch norm)",
    "arithmetic, α = 0.5": "arithmetic · α = 0.5",
    "geometric, α = 0.5": "geometric · α = 0.5",
    "harmonic, α = 0.5": "harmonic · α = 0.5",
}


def dimension(studies: Studies) -> tuple[str, str]:
    """Whether W1 grows with the dimension, and whether it does in units of the spread."""
    curve = "layer whose weights turn"
    absolute, relative = (exponent(studies, "dimension", panel, curve) for panel in ("absolute", "scale-free"))
    text = f"Between two steps of a layer whose weights turn, W1 grows like d to the power {power(absolute)}; in units "
    text += f"of the spread, to the power {power(relative)}. "
    mere = relative.known and abs(relative.mean) < 0.25 * abs(absolute.mean)
    text += (
        "Most of what dimension does is a matter of size: the bound is small in low dimension because outputs are. "
        if mere
        else "Dimension is not shown to do no more than enlarge the outputs. "
    )
    pair = row(studies, "dimension", "scale-free", "cube against cross-polytope")
    if pair is not None:
        used = point(pair).scaled(1 / math.sqrt(2))
        text += f"At d = {pair['x']:g} a pair of laws uses {brief(used, percent)} of the bound √(2d). "
    tensors = studies.panel("dimension", "absolute")
    tensors = tensors[tensors["curve"] == "pattern and its negative, whole tensor"]
    if len(tensors):
        excess = float((tensors["mean"] / np.sqrt(2 * tensors["x"])).max())
        text += f"Whole tensors of a convolution reach {number(excess)} times √(2d)"
        text += ": for them that bound is false." if excess > 1 + 1e-9 else "."
    return word(absolute, 0.0, "higher"), text


def noise(studies: Studies) -> tuple[str, str]:
    """Whether small batches enlarge the shift, under which law, and what else does."""
    frozen, train, running = (
        last_over_first(studies, "noise", "two layers", curve)
        for curve in ("frozen law", "train law", "eval law, rate 0.1")
    )
    m = xs(studies, "noise", "two layers", "frozen law")
    relative = last_over_first(studies, "noise", "two layers, scale-free", "frozen law")
    text, words = "", [word(frozen, 1.0, "lower")]
    if len(m) > 1:
        text = f"From batches of {m[0]:g} to batches of {m[-1]:g}, W1 between two layers becomes {times(frozen)} as "
        text += f"large under one noisy draw, {times(running)} under running averages, and {times(train)} where each "
        text += "batch is normalized by itself. "
        flat = train.known and train.low > 0.95 and train.high < 1.05
        text += "That last law is free of the noise. " if flat else "That last law is not shown to be free of it. "
    if relative.count and len(m) > 1:
        words.append(word(relative, 1.0, "lower"))
        text += f"Over their spread, W1 under one noisy draw becomes {times(relative)} as large: "
        text += {
            HOLDS: "noise moves the outputs, and does not only enlarge them. ",
            OPEN: "that noise does more than enlarge the outputs is not shown. ",
            FAILS: "noise enlarges the outputs by more than it moves them. ",
        }[words[-1]]
    alone = row(studies, "noise", "noise alone", "W1, frozen law", 0)
    if alone is not None:
        text += f"One layer under two batches of {alone['x']:g} moves by {brief(point(alone))} though nothing changed. "
    least, most = (row(studies, "noise", "lag", "rate 0.1", at) for at in (0, -1))
    if least is not None and most is not None:
        text += f"Behind a mean that drifts by {number(most['x'])} deviations a step, running averages lag by W1 = "
        text += f"{brief(point(most))}; at {number(least['x'])}, where noise is what is left, by "
        text += f"{brief(point(least))}. "
    curve = "W1, frozen law, M = 256"
    tails, kurtosis = last_over_first(studies, "noise", "tails", curve), xs(studies, "noise", "tails", curve)
    if tails.count:
        text += f"Kurtosis {kurtosis[-1]:g} instead of {kurtosis[0]:g} makes the noise {times(tails)} as large."
    return together(*words), text


def unitization(studies: Studies) -> tuple[str, str]:
    """Whether the harmonic form is bounded where others are not, whether that tells something, and where it harms."""
    said = [_levels_off(studies), _ranking(studies), _over_norms(studies)]
    flips = studies.panel("unitization", "small samples flip")
    text = "".join(part for part, _ in said)
    if len(flips):
        worst = flips.loc[flips["mean"].idxmax()]
        text += f"Where small samples change sign, the {worst['curve']} form enlarges the shift up to "
        text += f"{brief(point(worst))} times."
    return together(*(one for _, words in said for one in words)), text


def _levels_off(studies: Studies) -> tuple[str, list[str]]:
    """How far understated deviations move each form, and whether the harmonic one stops."""
    name, text, words = "stale deviations", "", list[str]()
    far = {called: row(studies, "unitization", name, curve) for called, curve in NAMED.items()}
    each = [f"{brief(point(one))} ({called})" for called, one in far.items() if one is not None]
    x = xs(studies, "unitization", name, NAMED["harmonic, α = 0.5"])
    if each and len(x) > 1:
        text = f"Deviations understated {x[-1]:,.0f} times shift the outputs by {listed(each)}. "
    pair = [NAMED[called] for called in ("harmonic, α = 0.5", "arithmetic, α = 0.5")]
    ends = [values(studies, "unitization", name, curve) for curve in pair]
    if len(x) > 1 and all(len(one) for one in ends):
        harmonic, arithmetic = (one.iloc[:, -1] / one.iloc[:, 0] for one in ends)
        words = [word(student(np.log(harmonic / arithmetic).dropna()), math.log(0.1), "lower", exact=True)]
        grown = [brief(last_over_first(studies, "unitization", name, curve)) for curve in pair]
        text += f"From {x[0]:g} times on, the arithmetic form grew {grown[1]} times, the harmonic {grown[0]}: "
        text += {HOLDS: "it levels off. ", FAILS: "it does not level off. "}.get(
            words[0], "whether it levels off is not resolved. "
        )
    return text, words


def _ranking(studies: Studies) -> tuple[str, list[str]]:
    """How much of its bound the harmonic form uses, and whether a larger bound means a larger shift."""
    text, words = "", list[str]()
    used = studies.panel("unitization", "bound")
    if len(used):
        text = f"Harmonic layers with parameters by channel use up to {percent(used['mean'].max())} of their bound. "
        kept = set(used["verdict"])
        words = [FAILS if CONTRADICTS in kept else HOLDS if kept == {AGREES} else OPEN]
    drawn = studies.by_seed("unitization", "bound against shift")
    found = {curve: ranks(rows) for curve, rows in drawn.groupby("curve", sort=False)}
    if found := {curve: one for curve, one in found.items() if one.count}:
        each = [f"{power(one)} ({curve})" for curve, one in found.items()]
        text += (
            f"Over layers with random α, γ and β, the shift has a rank correlation with the bound of {listed(each)}. "
        )
        # Too loose to rank anything is a bound that ranks under no errors; exact statistics ask nothing of it.
        ranked = [word(one, 0.0, "higher") for one in found.values()]
        words.append(next(said for said in (HOLDS, OPEN, FAILS) if said in ranked))
    return text, words


def _over_norms(studies: Studies) -> tuple[str, list[str]]:
    """Whether the shift is smaller than batch norm's in units of the outputs, where errors are common, and single."""
    text, words = "", list[str]()
    common, single = (
        over(studies, "unitization", panel, f"harmonic · {alpha}", NAMED["batch norm"])
        for panel, alpha in (("stale deviations, scale-free", "α = 0.5"), ("errors by channel", "α = 1"))
    )
    if common.count:
        text += f"Over the norm of the outputs, that is {times(common)} as far as in batch norm. "
        words.append(word(common, 1.0, "lower", exact=True))
    if single.count:
        text += "Errors of single channels are another matter: at α = 1 they shift the outputs, over their norm, "
        text += f"{times(single)} as far as in batch norm. "
        words.append(word(single, 1.0, "lower"))
    return text, words
