"""A page as Markdown, for a repository: the same records give the same text, and figures lie beside it as SVG."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from icsbound.report import plots
from icsbound.report.figure import Figure
from icsbound.report.finding import Group
from icsbound.report.page import Page, cell
from icsbound.report.tables import Table
from icsbound.report.wording import listed


def write(page: Page, out: Path) -> Path:
    """Write ``report.md`` and the figures in it, as SVG, into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    plots.save(page.figures, out / "figures", kinds=("svg",))
    return plots.write(out / "report.md", text(page).encode("utf-8", "replace"))


def text(page: Page) -> str:
    """All that the page says, but for how to read it and tables that it shows only when asked for."""
    facts = "; ".join(f"{value} {label}" for value, label in page.facts)
    parts = [f"# {plain(page.heading)}", plain(page.lead), *([plain(f"{facts}.")] if facts else [])]
    for group in page.groups:
        parts += findings(group)
    for key, title in page.sections.items():
        drawn = [figure for figure in page.figures if figure.section == key]
        parts += [f"## {plain(title)}", *map(image, drawn)] if drawn else []
    shown = [table for table in page.tables if not table.folded]
    parts += ["## Tables"] if shown else []
    for one in shown:
        parts += titled(one, "###")
    parts += ["## How to reproduce", *([textwrap.indent(anywhere(page.command), "    ")] if page.command else [])]
    parts += ["\n".join(plain(f"- {name}: {value}") for name, value in page.setting), plain(page.source)]
    return "\n\n".join(part for part in parts if part) + "\n"


def anywhere(command: str) -> str:
    """A command without the folder where the data lay: a repository is read on other machines."""
    words = shlex.split(command)
    if "--data-dir" in words:
        words[words.index("--data-dir") + 1] = "DIR"
    return shlex.join(words)


def findings(group: Group) -> list[str]:
    """A group of findings as a section."""
    listed = [
        plain(f"- {one.text}" + (f" **{one.verdict}**" if one.verdict else "") + (f" {one.basis}" if one.basis else ""))
        for one in group.findings
    ]
    return [f"## {plain(group.title)}", plain(group.basis), "\n".join(listed)]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of plain text as a table, the first as its head."""
    head, *body = (tuple(plain(cell) for cell in row) for row in rows)
    lines = [head, ("---",) * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def titled(one: Table, marks: str) -> list[str]:
    """A table of the page under its title, with what it says about itself."""
    cells = [[cell(value) for value in row] for row in one.rows]
    return [f"{marks} {plain(one.title)}", plain(one.note), table([one.columns, *cells])]


def image(figure: Figure) -> str:
    """A figure by its name in ``figures/``, and below it how to read it, what it rests on, and what of it is drawn."""
    alt = plain(figure.alt).replace("[", "(").replace("]", ")")
    drawn = [f"{name} {value}" for name, value in figure.chosen().items()]
    menus = "a menu" if len(drawn) == 1 else "menus"
    note = f" Drawn here: {listed(drawn)}; the page has {menus} for the others." if drawn else ""
    return f"![{alt}](figures/{figure.name}.svg)\n\n" + plain(
        f"*{figure.title}.* {figure.reading} {figure.basis}{note}"
    )


def plain(text: str) -> str:
    """Text that cannot leave its place: names come from users."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
