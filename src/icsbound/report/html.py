"""Sets the page: one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from icsbound.report import findings, plots, reproduce, tables
from icsbound.report.figure import Figure
from icsbound.report.runs import Study, load
from icsbound.report.wording import listed, number

SECTIONS = {"accuracy": "Accuracy and loss", "shift": "Internal covariate shift", "alpha": "Alpha"}


def build(folder: Path) -> Path:
    """Write `folder/report.html` and `folder/figures/` from the records in `folder`."""
    study = load(folder)
    figures = plots.all_figures(study)
    page = render(study, figures)
    plots.save(figures, folder / "figures")
    return plots.write(folder / "report.html", page.encode("utf-8"))


def render(study: Study, figures: list[Figure]) -> str:
    """The page as text. Names of layers and arms come from users: the template escapes all of them."""
    script, library = _file("page.js"), _library()
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (library, script))
    drawn = {figure.name: plots.packed(figure) for figure in figures}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = cell
    return environment.from_string(_file("template.html")).render(
        heading=heading(study),
        facts=facts(study),
        groups=findings.all_groups(study),
        sections=[(key, title, [f for f in figures if f.section == key]) for key, title in SECTIONS.items()],
        tables=tables.all_tables(study),
        command=reproduce.command(study.config),
        setting=reproduce.setting(study),
        config=json.dumps(study.config, indent=2, ensure_ascii=False) if study.config else "",
        figures={"drawn": drawn, "page": plots.style(plots.PAGE), "paper": plots.style(plots.PAPER)},
        # The page may run these two scripts and no other, and may ask no server for anything.
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
        css=Markup(_file("page.css")),
        library=Markup(library),
        script=Markup(script),
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


def cell(value: Any) -> str:
    """A cell of a table as text."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else number(float(value), 4)


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the copy that vl_convert carries."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=plots.VERSION)
    if "</script" in script or "<!--" in script:  # it would end the element that holds it
        raise RuntimeError("the bundle of vega-embed cannot stand inside a script element")
    return script


def _file(name: str) -> str:
    return resources.files("icsbound.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
