"""What the simulations say: dimension, noise, unitization."""

from __future__ import annotations

import math

import numpy as np

from icsbound.report.intervals import student
from icsbound.report.studies.points import Studies
from icsbound.report.studies.reading import (
    FAILS,
    HOLDS,
    OPEN,
    exponent,
    last_over_first,
    power,
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
        text += f"At d = {pair['x']:g} a pair of laws uses {percent(pair['mean'] / math.sqrt(2))} of the bound √(2d). "
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
        text += (
            f"One layer under two batches of {alone['x']:g} moves by {number(alone['mean'])} though nothing changed. "
        )
    least, most = (row(studies, "noise", "lag", "rate 0.1", at) for at in (0, -1))
    if least is not None and most is not None:
        text += f"Behind a mean that drifts by {number(most['x'])} deviations a step, running averages lag by W1 = "
        text += f"{number(most['mean'])}; at {number(least['x'])}, where noise is what is left, by "
        text += f"{number(least['mean'])}. "
    curve = "W1, frozen law, M = 256"
    tails, kurtosis = last_over_first(studies, "noise", "tails", curve), xs(studies, "noise", "tails", curve)
    if tails.count:
        text += f"Kurtosis {kurtosis[-1]:g} instead of {kurtosis[0]:g} makes the noise {times(tails)} as large."
    return together(*words), text


def unitization(studies: Studies) -> tuple[str, str]:
    """Whether the harmonic form is bounded where others are not, what it does not help, and where it harms."""
    rows = studies.panel("unitization", "stale deviations")
    text, words = "", list[str]()
    if len(rows):
        far = rows[rows["x"] == rows["x"].max()].set_index("curve")["mean"]
        near = rows[rows["x"] == rows["x"].min()].set_index("curve")["mean"]
        grown = {name: float(far[curve] / near[curve]) for name, curve in NAMED.items() if curve in far.index}
        each = [f"{number(far[NAMED[name]])} ({name})" for name in grown]
        text = f"Deviations understated {rows['x'].max():,.0f} times shift the outputs by {listed(each)}. "
        if {"harmonic, α = 0.5", "arithmetic, α = 0.5"} <= set(grown):
            bounded = grown["harmonic, α = 0.5"] < 0.1 * grown["arithmetic, α = 0.5"]
            text += f"From {rows['x'].min():g} times on, the arithmetic form grew "
            text += f"{number(grown['arithmetic, α = 0.5'])} times, the harmonic {number(grown['harmonic, α = 0.5'])}: "
            text += "it levels off. " if bounded else "it does not level off. "
            words.append(HOLDS if bounded else FAILS)
    used = studies.panel("unitization", "bound")
    if len(used):
        text += f"Harmonic layers with parameters by channel use up to {percent(used['mean'].max())} of their bound. "
        words.append(HOLDS if (used["mean"] <= 1 + 1e-9).all() else FAILS)
    curves = ("harmonic · α = 1", NAMED["batch norm"])
    own, norm = (values(studies, "unitization", "errors by channel", curve) for curve in curves)
    if len(own) and own.shape == norm.shape:
        ratio = student(np.log(own / norm).mean(axis=1)).exp()
        text += f"Errors of single channels are another matter: at α = 1 they shift the outputs {times(ratio)} as far "
        text += "as in batch norm. "
    flips = studies.panel("unitization", "small samples flip")
    if len(flips):
        worst = flips.loc[flips["mean"].idxmax()]
        text += f"Where small samples change sign, the {worst['curve']} form enlarges the shift up to "
        text += f"{number(worst['mean'])} times."
    return together(*words), text
