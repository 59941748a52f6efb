"""Which figures a study has: what their axes are and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scale = Literal["linear", "log", "symlog", "sqrt"]

# What each study puts to the test.
CLAIMS = {
    "dimension": "Batch norm's bound grows with the dimension",
    "noise": "Errors of the statistics make shift of their own",
    "reduction": "Batch norm bounds the shift, and need not reduce it",
    "moments": "Means and variances do not see all of the shift",
    "unitization": "Harmonic unitization bounds the shift whatever the statistics",
    "alpha": "Training alpha matters",
    "information": "Normalizing first saves what unitizing raw outputs loses",
    "shift": "How far layers move tells what a shift costs, and moments alone tell it too",
}


@dataclass(frozen=True)
class Panel:
    """One figure of a study. `kind`: lines over x, dots (a value a curve), or a scatter of two measured values.

    In `split` panels a curve reads "part · curve", and each part has its own small chart. Intervals of a `fraction`
    are drawn within 0 to 1.
    """

    study: str
    name: str
    title: str
    reading: str
    x: str
    y: str
    kind: str = "lines"
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    split: bool = False
    fraction: bool = False


_MEASURED = "Dots: measured, with 95 % intervals over seeds; lines: predicted (dashed where it is a bound). "
_LAYERS = "normalization layer, from the input"

PANELS = (
    Panel(
        "dimension",
        "absolute",
        "Distance after batch norm against the dimension",
        _MEASURED + "A curve that rises like the bound's root of d uses a fixed share of it in every dimension.",
        "dimension d",
        "W1 (log scale)",
        x_scale="log",
        y_scale="log",
    ),
    Panel(
        "dimension",
        "scale-free",
        "The same in units of the spread",
        _MEASURED + "A flat curve means that dimension changes the size of the shift alone.",
        "dimension d",
        "W1 / spread",
        x_scale="log",
    ),
    Panel(
        "noise",
        "noise alone",
        "One layer, one law, two batches of statistics",
        _MEASURED + "All that moves is noise: above 0, batch norm itself makes shift.",
        "batch size M",
        "distance (log scale)",
        x_scale="log",
        y_scale="log",
    ),
    Panel(
        "noise",
        "two layers",
        "Two different layers under three laws",
        _MEASURED + "Frozen: one noisy draw; eval: running averages; train: each batch by its own statistics.",
        "batch size M",
        "W1 (log scale)",
        x_scale="log",
        y_scale="log",
    ),
    Panel(
        "noise",
        "two layers, scale-free",
        "The same over their spread",
        _MEASURED + "Noisy statistics enlarge the outputs too: flat curves would mean that they do nothing else.",
        "batch size M",
        "W1 / spread",
        x_scale="log",
    ),
    Panel(
        "noise",
        "added",
        "How much the noise changes the shift between them",
        _MEASURED + "Up or down: the difference to the same two layers under exact statistics.",
        "batch size M",
        "change of W1 (log scale)",
        x_scale="log",
        y_scale="log",
    ),
    Panel(
        "noise",
        "lag",
        "Running statistics behind a drifting mean",
        _MEASURED + "The rising part is the lag, the flat one what noise leaves.",
        "drift, deviations a step",
        "W1 (log scale)",
        x_scale="log",
        y_scale="log",
    ),
    Panel(
        "noise",
        "tails",
        "Noise under heavier tails",
        _MEASURED + "Kurtosis is 3 for a normal law; outliers make the variance uncertain.",
        "kurtosis of the data",
        "W1",
    ),
    Panel(
        "reduction",
        "construction",
        "A pair that batch norm pulls apart",
        _MEASURED + "Total variance is the same before and after; the changing coordinate has deviation σ before.",
        "deviation σ of the coordinate that changes",
        "W1 after / before (log scale)",
        x_scale="log",
        y_scale="log",
    ),
    Panel(
        "reduction",
        "training",
        "Shift after batch norm over shift before, by layer",
        "Dots: geometric mean over all pairs of states, with 95 % intervals over seeds. Below 1 batch norm reduced the "
        "shift, above 1 it enlarged it.",
        _LAYERS,
        "W1 after / before (log scale)",
        y_scale="log",
    ),
    Panel(
        "reduction",
        "share",
        "How often batch norm enlarged the shift",
        "Dots: share of pairs of states whose ratio exceeds 1, mean over seeds with 95 % intervals.",
        _LAYERS,
        "share of ratios above 1",
        fraction=True,
    ),
    Panel(
        "moments",
        "pairs",
        "Laws that batch norm cannot tell apart",
        _MEASURED + "At 1 a pair would attain the bound of all laws with these means and variances.",
        "dimension d",
        "W1 / √(2d)",
        x_scale="log",
    ),
    Panel(
        "moments",
        "lower bounds",
        "What cheap lower bounds see of such pairs",
        "Dots: the bound's share of the exact distance in 64 dimensions; 0: it sees nothing of what moved.",
        "share of W1",
        "",
        kind="dots",
        split=True,
        fraction=True,
    ),
    Panel(
        "moments",
        "training",
        "What survives in a training",
        "Survives matching: the share of the distance between two states that is left when one is given the other's "
        "mean and variance in each channel. Seen: the share that a lower bound finds. Intervals over seeds.",
        _LAYERS,
        "share of W1",
        fraction=True,
    ),
    Panel(
        "moments",
        "survivors",
        "What cheap lower bounds see of what survives",
        "Dots: each bound's share of the exact distance that is left between two states of equal means and variances, "
        "with 95 % intervals over seeds. A bound by means and variances is 0 there.",
        _LAYERS,
        "share of what survives",
        fraction=True,
    ),
    Panel(
        "unitization",
        "common scale",
        "All deviations off by one factor: the norm of the output",
        _MEASURED + "1 means that nothing is felt; batch norm passes the factor on.",
        "factor ρ on the normalized sample",
        "output norm / κ (log scale)",
        x_scale="log",
        y_scale="log",
        split=True,
    ),
    Panel(
        "unitization",
        "stale deviations",
        "The shift between right and understated deviations",
        _MEASURED + "A curve that levels off is bounded; one that rises on is not. Zero is not drawn.",
        "factor by which deviations are understated",
        "W1 (log scale)",
        x_scale="log",
        y_scale="log",
        split=True,
    ),
    Panel(
        "unitization",
        "stale deviations, scale-free",
        "The same over the norm of the outputs",
        _MEASURED + "No shift of directions: lower is due to the norm that unitization holds.",
        "factor by which deviations are understated",
        "W1 / rms norm",
        x_scale="log",
        split=True,
    ),
    Panel(
        "unitization",
        "errors by channel",
        "Statistics of M values: errors of single channels",
        "Dots: shift that noise alone makes over the norm of the outputs, with 95 % intervals over seeds. Curves that "
        "lie on one another: unitization does nothing against it.",
        "batch size M",
        "W1 / rms norm (log scale)",
        x_scale="log",
        y_scale="log",
        split=True,
    ),
    Panel(
        "unitization",
        "bound",
        "How much of its bound the harmonic layer uses",
        _MEASURED + "Parameters differ by channel and step; no dot may lie above 1, however wrong the statistics.",
        "largest factor on a channel's deviation",
        "share of the bound",
        x_scale="log",
        fraction=True,
    ),
    Panel(
        "unitization",
        "bound against shift",
        "Does a larger bound mean a larger shift?",
        "A dot a pair of random layers, in the order of their bounds and averaged over seeds. Rising: the bound, loose "
        "as it is, ranks what can happen to them.",
        "|β − β′| + R + R′ (log scale)",
        "W1 (log scale)",
        kind="scatter",
        x_scale="log",
        y_scale="log",
    ),
    Panel(
        "unitization",
        "small samples flip",
        "Where unitization enlarges the shift",
        _MEASURED + "Small samples are made as large as others; with shrinking alone they stay small.",
        "alpha",
        "W1 after / before (log scale)",
        y_scale="log",
    ),
    Panel(
        "alpha",
        "alpha",
        "Alpha during training",
        "Line: mean over channels and layers, with 95 % intervals over seeds. A flat line has not learned.",
        "optimizer step",
        "alpha",
        x_scale="sqrt",
    ),
    Panel(
        "alpha",
        "reach",
        "How far single channels of alpha went",
        "Line: the distance of the farthest channel from where alpha started, mean over layers, with 95 % intervals "
        "over seeds. It may be far where the mean over channels stands still.",
        "optimizer step",
        "distance from the start",
        x_scale="sqrt",
    ),
    Panel(
        "alpha",
        "gamma",
        "The weight γ during training",
        "Line: mean of |γ| over channels and layers, with 95 % intervals over seeds.",
        "optimizer step",
        "|γ|",
        x_scale="sqrt",
    ),
    Panel(
        "alpha",
        "tightness",
        "How tight the radius R is during training",
        "Line: mean over layers of 1/R, with 95 % intervals over seeds; no output lies further than R from its bias. "
        "0: some channel's alpha is 0, or the form has no such radius.",
        "optimizer step",
        "1 / R",
        x_scale="sqrt",
    ),
    Panel(
        "alpha",
        "accuracy",
        "Accuracy with alpha trained and frozen",
        "Dots: mean over seeds, bars: 95 % intervals of each arm alone; the verdict judges differences seed by seed.",
        "accuracy",
        "",
        kind="dots",
        fraction=True,
    ),
    Panel(
        "information",
        "by layer",
        "A linear probe for the class, by layer",
        "Dots: held-out accuracy of the probe on a layer's inputs, as they are, normalized, unitized; 95 % intervals "
        "over seeds.",
        _LAYERS,
        "accuracy of the probe",
        fraction=True,
    ),
    Panel(
        "information",
        "offset",
        "The same layer with its outputs moved away from 0",
        "From left to right, a constant is added to every value before normalization: 0, 1, 10, 100 and 1,000 "
        "deviations. Batch norm takes it away.",
        "offset in deviations",
        "accuracy of the probe",
        x_scale="symlog",
        fraction=True,
    ),
    Panel(
        "information",
        "trained",
        "A linear probe where alpha was trained, by layer",
        "Dots: held-out accuracy of the probe on a layer's normalized inputs, unitized at the alpha that each channel "
        "was trained to, and at 1; 95 % intervals over seeds.",
        _LAYERS,
        "accuracy of the probe",
        fraction=True,
    ),
    Panel(
        "information",
        "norm",
        "The norm of a sample, recovered from the output",
        _MEASURED + "R² of 1: nothing of the norm is lost.",
        "alpha",
        "R²",
        fraction=True,
    ),
    Panel(
        "shift",
        "by layer",
        "How far each layer moves under a shift",
        "Dots: exact distance between clean and shifted outputs in units of their spread, with 95 % intervals over "
        "seeds; thin lines: the smaller of the paired and the independent coupling, which bound it.",
        _LAYERS,
        "W1 / spread",
        split=True,
    ),
    Panel(
        "shift",
        "accuracy",
        "Accuracy under each shift",
        "Dots: mean over seeds, bars: 95 % intervals.",
        "accuracy",
        "",
        kind="dots",
        split=True,
        fraction=True,
    ),
    Panel(
        "shift",
        "distance against accuracy",
        "Distance of the last normalization layer against accuracy",
        "A dot a condition and network: the exact distance, against the accuracy that is left. Falling: it ranks what "
        "a shift costs.",
        "W1 / spread, last layer",
        "accuracy",
        kind="scatter",
        split=True,
    ),
    Panel(
        "shift",
        "moments against accuracy",
        "What moments alone say, against accuracy",
        "The same with the independent coupling, which needs means and variances only and no labels.",
        "independent coupling / spread, last layer",
        "accuracy",
        kind="scatter",
        split=True,
    ),
)
