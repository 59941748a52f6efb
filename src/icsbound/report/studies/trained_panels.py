"""The figures of the studies of trained networks: reduction, moments, alpha, information, shift."""

from __future__ import annotations

from icsbound.report.studies.panel import MEASURED, Panel

_LAYERS = "normalization layer, from the input"
_EXACT = "Law train; batch norm, ε negligible"
_OWN_BATCH = "Law train; batch norm, ε of the network (default 1e-5)"
_BOTH = (
    "Law eval; scope sample unless named otherwise; harmonic with κ = √(CL) and ε = 1e-5, as published arithmetic with "
    "κ = L and ε = 1e-3"
)
_PROBED = "Law eval; inputs of a layer; harmonic, scope sample, κ = √d, ε negligible"
_ARMS = "Law eval; bn, gn, and harmonic with scope sample and κ = √(CL); ε of the network (default 1e-5)"

PANELS = (
    Panel(
        "reduction",
        "construction",
        "A pair that batch norm pulls apart",
        MEASURED + "Total variance is the same before and after; the changing coordinate has deviation σ before.",
        "deviation σ of the coordinate that changes",
        "W1 after / before (log scale)",
        x_scale="log",
        y_scale="log",
        setting=_EXACT,
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
        setting=_OWN_BATCH,
    ),
    Panel(
        "reduction",
        "share",
        "How often batch norm enlarged the shift",
        "Dots: share of pairs of states whose ratio exceeds 1, mean over seeds with 95 % intervals.",
        _LAYERS,
        "share of ratios above 1",
        fraction=True,
        setting=_OWN_BATCH,
    ),
    Panel(
        "moments",
        "pairs",
        "Laws that batch norm cannot tell apart",
        MEASURED + "At 1 a pair would attain the bound of all laws with these means and variances.",
        "dimension d",
        "W1 / √(2d)",
        x_scale="log",
        setting=_EXACT,
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
        setting=_EXACT,
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
        setting=_OWN_BATCH,
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
        setting=_OWN_BATCH,
    ),
    Panel(
        "alpha",
        "alpha",
        "Alpha during training",
        "Line: mean over channels and layers, with 95 % intervals over seeds. A flat line has not learned.",
        "optimizer step",
        "alpha",
        x_scale="sqrt",
        setting=_BOTH,
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
        setting=_BOTH,
    ),
    Panel(
        "alpha",
        "gamma",
        "The weight γ during training",
        "Line: mean of |γ| over channels and layers, with 95 % intervals over seeds.",
        "optimizer step",
        "|γ|",
        x_scale="sqrt",
        setting=_BOTH,
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
        setting=_BOTH,
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
        setting=_BOTH,
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
        setting=_PROBED,
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
        setting=_PROBED,
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
        setting=_PROBED,
    ),
    Panel(
        "information",
        "norm",
        "The norm of a sample, recovered from the output",
        MEASURED
        + "R² of 1: nothing of the norm is lost. Where α was trained, another network: at 0, as trained (at its "
        "mean over channels), and at 1.",
        "alpha",
        "R²",
        fraction=True,
        setting=_PROBED,
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
        setting=_ARMS,
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
        setting=_ARMS,
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
        setting=_ARMS,
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
        setting=_ARMS,
    ),
)
