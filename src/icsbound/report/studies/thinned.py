"""Points few enough to draw: what a network has many of, or what was measured often, is thinned for a figure."""

from __future__ import annotations

import pandas as pd

from icsbound.report import statistics as st
from icsbound.report.studies.panel import Panel
from icsbound.report.studies.points import Studies, averaged
from icsbound.report.wording import some

CURVE = 60  # points of one curve; few lines on a page are wider
FIGURE = 6_000  # of one figure


def drawn(studies: Studies, panel: Panel) -> tuple[pd.DataFrame, str]:
    """The averaged points of a figure that are drawn, and which these are, in words, where they are not all.

    Only layers and steps may be many. Of layers some are drawn, as they were measured and judged. Steps become means
    over neighbours, taken seed by seed so that their intervals are those of the means.
    """
    rows = studies.panel(panel.study, panel.name)
    by_curve = rows.groupby("curve").size()
    most = max(8, min(CURVE, FIGURE // max(1, len(by_curve))))
    if by_curve.max() <= most:
        return rows, ""
    places = sorted(rows["x"].unique())
    if panel.x_scale != "sqrt":  # which is the axis of steps
        chosen = st.evenly(places, most)
        return rows[rows["x"].isin(chosen)], some(chosen, places)
    frame = st.binned(studies.by_seed(panel.study, panel.name), "x", most)
    keys = ["study", "panel", "curve", "seed", "x"]
    others = dict.fromkeys(("relation", "tolerance", "n", "d", "estimator"), "first")
    means = frame.groupby(keys, sort=False).agg({"value": "mean", "predicted": "mean", **others}).reset_index()
    return averaged(means), f" Means over neighbouring steps, {most} for {len(places):,}."
