"""The verdict of each study: a word and a paragraph, computed from its points.

A claim fails where a point contradicts its prediction, or where what the claim calls for is excluded by an interval;
it holds where everything it calls for is shown; otherwise these seeds cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from icsbound.report.finding import Finding
from icsbound.report.studies import simulated, trained
from icsbound.report.studies.points import CONTRADICTS, Studies
from icsbound.report.studies.reading import FAILS, OPEN
from icsbound.report.wording import count, number, percent

# Study -> its word and what it says, but for the predicted points, which are counted for all alike.
VERDICTS: dict[str, Callable[[Studies], tuple[str, str]]] = {
    "dimension": simulated.dimension,
    "noise": simulated.noise,
    "unitization": simulated.unitization,
    "reduction": trained.reduction,
    "moments": trained.moments,
    "alpha": trained.alpha,
    "information": trained.information,
    "shift": trained.shift,
}


def verdict(studies: Studies, name: str) -> Finding:
    """The verdict on study `name`, and what it rests on."""
    rows = studies.means[studies.means["study"] == name]
    basis = f"{count(len(studies.finished[name]), 'finished seed')}, {count(len(rows), 'point')}; see the table."
    if rows.empty or name not in VERDICTS:
        return Finding("There is nothing to judge yet.", OPEN, basis)
    agreed, contradicted = agreement(rows)
    found, text = VERDICTS[name](studies)
    return Finding(" ".join([*text.split(), *agreed.split()]), FAILS if contradicted else found, basis)


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
        verb = "contradicts" if len(wrong) == 1 else "contradict"
        text = (
            f"{len(wrong)} of {count(len(judged), 'predicted point')} {verb} the prediction, most of all "
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
