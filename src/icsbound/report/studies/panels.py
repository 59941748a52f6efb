"""Which claims the studies put to the test, and which figures each has."""

from __future__ import annotations

from icsbound.report.studies import simulated_panels, trained_panels
from icsbound.report.studies.panel import Panel

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

PANELS: tuple[Panel, ...] = (*simulated_panels.PANELS, *trained_panels.PANELS)
