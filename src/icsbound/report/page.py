"""Sets a page: one self-contained HTML file, whatever it reports."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from icsbound.report import plots
from icsbound.report.figure import Figure
from icsbound.report.finding import Group
from icsbound.report.tables import Table
from icsbound.report.wording import number


@dataclass(frozen=True)
class Page:
    """What a page says, top to bottom. All text is plain: the template escapes it, since names come from users.

    `lead` says in two sentences what is shown, `terms` how to read the findings, `source` how the page is built again.
    `sections` maps the key of a section of figures to its title; a figure names its section.
    """

    heading: str
    lead: str
    facts: Sequence[tuple[str, str]]
    groups: Sequence[Group]
    terms: Sequence[tuple[str, str]]
    sections: dict[str, str]
    figures: Sequence[Figure]
    tables: Sequence[Table]
    command: str
    setting: Sequence[tuple[str, str]]
    source: str
    config: dict[str, Any] = field(default_factory=dict)


def write(page: Page, out: Path) -> Path:
    """Write ``report.html`` and ``figures/`` into `out`."""
    text = render(page)
    out.mkdir(parents=True, exist_ok=True)
    plots.save(page.figures, out / "figures")
    return plots.write(out / "report.html", text.encode("utf-8", "replace"))


def render(page: Page) -> str:
    """The page as text."""
    script, library = _file("page.js"), _library()
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (library, script))
    drawn = {figure.name: plots.packed(figure) for figure in page.figures}
    figures = {"drawn": drawn, "page": plots.style(plots.PAGE), "paper": plots.style(plots.PAPER)}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = cell
    return environment.from_string(_file("template.html")).render(
        page=page,
        sections=[
            (key, title, placed([figure for figure in page.figures if figure.section == key]))
            for key, title in page.sections.items()
        ],
        config=json.dumps(page.config, indent=2, ensure_ascii=False) if page.config else "",
        figures=compressed(figures),
        # The page may run these two scripts and no other, and may ask no server for anything.
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
        css=Markup(_file("page.css")),
        library=Markup(library),
        script=Markup(script),
    )


def compressed(values: Any) -> str:
    """`values` as JSON, compressed, in letters that stand anywhere: a fifth of what many layers and steps take."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), mtime=0)).decode("ascii")


def placed(figures: Sequence[Figure]) -> list[tuple[Figure, bool]]:
    """Each figure, and whether it takes the whole width: it has panels, or else nothing would stand beside it."""
    found: list[tuple[Figure, bool]] = []
    for several, run in itertools.groupby(figures, key=lambda figure: bool(figure.panels)):
        own = list(run)
        found += [(figure, several or (k == 0 and len(own) % 2 == 1)) for k, figure in enumerate(own)]
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
