"""The page of runs and measurements, from their records."""

from __future__ import annotations

from pathlib import Path

from icsbound.report import findings, plots, reproduce, tables
from icsbound.report.channels import with_channels
from icsbound.report.page import Page
from icsbound.report.runs import Study, load
from icsbound.report.wording import listed

LEAD = (
    "While a network trains, the outputs of each layer drift, because the layers before it change: this is internal "
    "covariate shift (ICS). Here it is measured as the exact Earth Mover distance (EM) between a layer's outputs on "
    "one fixed set of inputs at two steps of training, and set beside what theory allows."
)
SECTIONS = {"accuracy": "Accuracy and loss", "shift": "Internal covariate shift", "alpha": "Alpha"}
SOURCE = (
    "This page was computed from the files records.jsonl, and alpha of every channel from the networks beside them, "
    "model.safetensors; icsbound report DIR builds it again."
)
TERMS = (
    (
        "higher, lower, not resolved",
        "Higher or lower: the 95 % interval over seeds leaves out “no difference”. Not resolved: it contains it, so "
        "these runs cannot tell. Each interval stands for itself; of twenty true nulls one is expected to look "
        "resolved.",
    ),
    (
        "moved, below the floor, not resolved",
        "Of a distance between two states. Moved: a lower bound of the distance of the laws behind the clouds, fitted "
        "on other inputs, exceeds 0, or the smallest shift that counts where one was named. Below the floor: it does "
        "not, and EM is no larger than between two halves of one cloud, or than that smallest shift. It says whether a "
        "layer moved, and the spreads say how far.",
    ),
    (
        "scale-free ICS",
        "EM divided by the spread of the two clouds of outputs. A layer whose outputs are merely larger does not count "
        "as moving more.",
    ),
    (
        "pooled and sample view",
        "Pooled: one vector of channel means an image. Sample: the whole output of the layer, flattened.",
    ),
    (
        "bracket",
        "Bounds that hold for every pair of clouds: EM lies above the shift of the mean and the distance of the norms, "
        "and below the paired displacement (every input with itself) and the independent coupling.",
    ),
    (
        "certificate",
        "The dual value of the transport problem: a proof, computed with each distance, that no cheaper matching "
        "exists.",
    ),
    (
        "alpha, R",
        "Alpha blends batch normalization (0) with unitization (1), per channel. R is the radius about the bias that a "
        "layer's outputs cannot leave, whatever its statistics; it is infinite for batch normalization.",
    ),
)


def made(folder: Path) -> Page:
    """What the records in `folder` say."""
    study = with_channels(load(folder))
    return Page(
        heading=heading(study),
        lead=LEAD,
        facts=facts(study),
        groups=findings.all_groups(study),
        terms=TERMS,
        sections=SECTIONS,
        figures=plots.all_figures(study),
        tables=tables.all_tables(study),
        command=reproduce.command(study.config),
        setting=reproduce.setting(study),
        source=SOURCE,
        config=study.config,
    )


def heading(study: Study) -> str:
    """What was compared, measured or trained, on what."""
    infos = [run.info for run in study.runs if run.info]
    if not infos:
        return "Measured distances"
    what = "Training of" if len(study.arms) == 1 else "Comparison of"
    places = list(dict.fromkeys(f"{info.model} on {info.dataset}" for info in infos))
    return f"{what} {listed(study.arms)}: {listed(places)}"


def facts(study: Study) -> list[tuple[str, str]]:
    """The few numbers at the top of the page."""
    trained = [run for run in study.runs if run.info]
    found = []
    if trained:
        done = sum(run.finished for run in trained)
        found.append((f"{done} of {len(trained) + len(study.missing)}", "runs finished"))
        found.append((f"{len(study.arms)} × {len({run.seed for run in trained})}", "arms × seeds"))
    if not study.distances.empty:
        found.append((f"{study.distances['value'].notna().sum():,}", "exact distances"))
        found.append((f"{study.distances['layer'].nunique():,}", "layers measured"))
    return found
