"""All figures of the page: which there are, how they look, how the page holds them, and how they are saved."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import altair
import pandas as pd
import vl_convert

from icsbound.report import channels, curves, pictures, shift
from icsbound.report.figure import Figure
from icsbound.report.runs import Study

# Colours of text and lines: on the page they follow the theme, in a saved file they are those of paper.
PAGE = {"ink": "var(--ink)", "soft": "var(--soft)", "grid": "var(--grid)"}
PAPER = {"ink": "#1c2430", "soft": "#566172", "grid": "#e3e7ed"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
# The version of Vega-Lite that altair writes, as vl_convert names it.
VERSION = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def all_figures(study: Study) -> list[Figure]:
    """Every figure that the records allow, in reading order."""
    makers: list[Callable[[Study], Figure | None]] = [
        curves.differences,
        curves.accuracy,
        curves.loss,
        shift.heat,
        shift.bracket,
        shift.ratios,
        shift.tightness,
        pictures.ridge,
        pictures.arrows,
        curves.alpha,
        channels.alpha_by_channel,
    ]
    return [figure for make in makers if (figure := make(study)) is not None]


def style(colours: dict[str, str]) -> dict[str, Any]:
    """The look that all figures share, as a Vega-Lite configuration."""
    ink, soft, grid = colours["ink"], colours["soft"], colours["grid"]
    lines = {"gridColor": grid, "domainColor": grid, "tickColor": grid}
    words = {"labelColor": soft, "titleColor": soft, "labelFontSize": 11, "titleFontSize": 12}
    return {
        "font": FONT,
        "background": None,
        "view": {"stroke": grid},
        "axis": lines | words | {"titleFontWeight": "normal", "titlePadding": 8},
        "axisY": {"labelLimit": 170},
        "header": {"labelColor": ink, "labelFontSize": 12, "labelFontWeight": 600, "titleColor": soft},
        "legend": words | {"labelColor": ink, "labelFontSize": 12, "titleFontWeight": "normal", "symbolSize": 90},
        "facet": {"spacing": 18},
    }


def packed(figure: Figure) -> dict[str, Any]:
    """A figure as the page holds it: text columns as indices into their levels, numbers to four digits."""
    columns: dict[str, Any] = {}
    for name, column in figure.data.items():
        if pd.api.types.is_numeric_dtype(column):
            columns[str(name)] = [_short(value) for value in column]
        else:
            codes, levels = pd.factorize(column.astype(object))
            columns[str(name)] = {"levels": list(levels), "codes": codes.tolist()}
    return {"spec": figure.spec(), "columns": columns, "panels": figure.panels}


def save(figures: Sequence[Figure], folder: Path, kinds: tuple[str, ...] = ("svg", "png")) -> None:
    """Each figure as SVG and PNG, on white, drawn without a browser."""
    folder.mkdir(exist_ok=True)
    for figure in figures:
        rows = figure.data.astype(object).where(figure.data.notna(), None).to_dict("records")
        # Viewers have other fonts, some of them wider: the margin keeps their labels whole.
        spec = figure.spec() | {
            "config": style(PAPER),
            "background": "white",
            "datasets": {"table": rows},
            "padding": 24,
        }
        svg = vl_convert.vegalite_to_svg(spec, vl_version=VERSION)
        # Gradients are counted on from figure to figure; a file must not depend on what was drawn before it.
        svg = re.sub(r'(?<=id="gradient_)\d+|(?<=url\(#gradient_)\d+', "0", svg)
        if "svg" in kinds:
            write(folder / f"{figure.name}.svg", svg.encode("utf-8"))
        if "png" in kinds:
            write(folder / f"{figure.name}.png", vl_convert.svg_to_png(svg, scale=2))


def write(path: Path, content: bytes) -> Path:
    """Write the whole file or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
    return path


def _short(value: Any) -> Any:
    """A number with four digits, null where there is none: a figure shows no more."""
    if value is None or math.isnan(value):
        return None
    return int(value) if math.isfinite(value) and value == int(value) else float(f"{value:.4g}")
