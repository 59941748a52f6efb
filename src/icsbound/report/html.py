"""Sets the page: one self-contained HTML file, and every figure as SVG and PNG beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import altair
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from icsbound.report import findings, plots, tables
from icsbound.report.runs import Study, load
from icsbound.report.wording import listed, number

# Colours of text and lines in a figure: on the page they follow the theme, in a saved file they are those of paper.
PAGE = {"ink": "var(--ink)", "soft": "var(--soft)", "grid": "var(--grid)"}
PAPER = {"ink": "#1c2430", "soft": "#566172", "grid": "#e3e7ed"}
SECTIONS = {
    "accuracy": "Accuracy and loss",
    "shift": "Internal covariate shift",
    "alpha": "Alpha",
}


def build(folder: Path) -> Path:
    """Write `folder/report.html` and `folder/figures/` from the records in `folder`."""
    study = load(folder)
    figures = plots.all_figures(study)
    page = render(study, figures)
    save(figures, folder / "figures")
    return _write(folder / "report.html", page.encode("utf-8"))


def render(study: Study, figures: list[plots.Figure]) -> str:
    """The page as text. Names of layers and arms come from users: the template escapes all of them."""
    script, library = _file("page.js"), _library()
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (library, script))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell
    drawn = {figure.name: packed(figure) for figure in figures}
    return environment.from_string(_file("template.html")).render(
        study=study,
        heading=heading(study),
        facts=facts(study),
        groups=findings.all_groups(study),
        sections=[(key, title, [f for f in figures if f.section == key]) for key, title in SECTIONS.items()],
        tables=tables.all_tables(study),
        provenance=provenance(study),
        config=json.dumps(study.config, indent=2, ensure_ascii=False) if study.config else "",
        figures={"drawn": drawn, "page": style(PAGE), "paper": style(PAPER)},
        # The page may run these two scripts and no other, and may ask no server for anything.
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
        css=Markup(_file("page.css")),
        library=Markup(library),
        script=Markup(script),
    )


def save(figures: list[plots.Figure], folder: Path) -> None:
    """Each figure as SVG and PNG, on white, drawn without a browser."""
    folder.mkdir(exist_ok=True)
    for figure in figures:
        spec = figure.spec() | {"config": style(PAPER), "background": "white", "datasets": {"table": rows(figure.data)}}
        svg = vl_convert.vegalite_to_svg(spec, vl_version=_version())
        _write(folder / f"{figure.name}.svg", svg.encode("utf-8"))
        _write(folder / f"{figure.name}.png", vl_convert.svg_to_png(svg, scale=2))


def heading(study: Study) -> str:
    """What was compared, measured or trained, on what."""
    infos = [run.info for run in study.runs if run.info]
    if not infos:
        return "Measured distances"
    what = "Training of" if len(study.arms) == 1 else "Comparison of"
    places = [f"{m} on {d}" for m, d in dict.fromkeys((info.model, info.dataset) for info in infos)]
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


def provenance(study: Study) -> list[tuple[str, str]]:
    """What one needs to run it again, as pairs of a name and a value."""
    infos = [run.info for run in study.runs if run.info]
    pairs: list[tuple[str, str]] = []
    if infos:
        pairs += [("seeds", listed([str(s) for s in sorted({i.seed for i in infos})], 20))]
        for name in ("dataset", "model", "device", "epochs", "steps", "batch_size", "train_size", "evaluation_size", "split", "parameters"):
            values = list(dict.fromkeys(getattr(info, name) for info in infos))
            pairs.append((name.replace("_", " "), listed([f"{v:,}" if isinstance(v, int) else str(v) for v in values])))
        versions = {name: v for info in infos for name, v in info.versions.items()}
        pairs.append(("versions", ", ".join(f"{name} {v}" for name, v in versions.items())))
    return pairs


def rows(data: pd.DataFrame) -> list[dict[str, Any]]:
    """The table of a figure, one object a row; NaN and None become null."""
    return data.astype(object).where(data.notna(), None).to_dict("records")


def packed(figure: plots.Figure) -> dict[str, Any]:
    """A figure as the page holds it: text columns as indices into their levels, numbers to four digits."""
    columns: dict[str, Any] = {}
    for name, column in figure.data.items():
        if pd.api.types.is_numeric_dtype(column):
            columns[str(name)] = [_short(value) for value in column]
        else:
            codes, levels = pd.factorize(column.astype(object), use_na_sentinel=True)
            columns[str(name)] = {"levels": list(levels), "codes": codes.tolist()}
    spec = figure.spec() | {"description": figure.alt}
    return {"spec": spec, "columns": columns, "panels": figure.panels}


def style(colours: dict[str, str]) -> dict[str, Any]:
    """The look that all figures share."""
    ink, soft, grid = colours["ink"], colours["soft"], colours["grid"]
    axis = {"labelColor": soft, "titleColor": soft, "gridColor": grid, "domainColor": grid, "tickColor": grid}
    return {
        "font": "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif",
        "background": None,
        "view": {"stroke": grid},
        "axis": axis | {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8},
        "axisY": {"labelLimit": 170},
        "header": {"labelColor": ink, "labelFontSize": 12, "labelFontWeight": 600, "titleColor": soft},
        "legend": {"labelColor": ink, "titleColor": soft, "labelFontSize": 12, "titleFontWeight": "normal", "symbolSize": 90},
        "facet": {"spacing": 18},
    }


def cell(value: Any) -> str:
    """A cell of a table as text."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return number(float(value), 4)


def _short(value: Any) -> Any:
    """A number with four digits, null where there is none: a figure shows no more."""
    if value is None or math.isnan(value):
        return None
    return int(value) if value == int(value) else float(f"{value:.4g}")


def _version() -> str:
    """The version of Vega-Lite that altair writes, as vl_convert names it."""
    return ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the copy that vl_convert carries."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_version())
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _file(name: str) -> str:
    return resources.files("icsbound.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _write(path: Path, content: bytes) -> Path:
    """Write the whole file or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
    return path
