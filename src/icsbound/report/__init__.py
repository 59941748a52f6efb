"""One page from a run's records: findings first, then figures, tables and how to reproduce them.

This wing reads `records.jsonl`, `config.json` and, where it lies beside them, alpha in `model.safetensors`; of a table
of results `results.jsonl` and files of claims; and nothing else, so a page can be rebuilt on a laptop from a run made
on a cluster. `runs` loads, `statistics` computes, `findings` says it in sentences, `plots` draws, `html` gathers what
the page holds, and `page` sets it. Tables of results and studies have pages of their own, in `results` and `studies`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from icsbound._check import InputError

__all__ = ["build", "build_results", "require"]


def require() -> None:
    """Raise InputError where the extra ``icsbound[report]`` is not installed: ask before hours of work, not after."""
    try:
        import icsbound.report.console
        import icsbound.report.html  # noqa: F401  (imported to see whether it can be)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the page needs {error.name}, which is not installed: pip install 'icsbound[report]'"
        ) from None


def build(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, markdown: bool = False) -> Path:
    """Write `report.html` and `figures/` into `out` (default: `folder`) from every `records.jsonl` in `folder` or
    below, or where there is one from its `results.jsonl`.

    With `markdown`, write ``report.md`` (of a table ``results.md``) and the figures in it as SVG instead: text that a
    repository can keep.

    The page is one file that needs no network and no server, and no other file beside it. A run that was interrupted is
    shown as far as it came, and named. The same files give the same page. Returns the path of the page.

    Raises InputError where `folder` holds no readable record, or where the extra ``icsbound[report]`` is not installed.
    """
    require()
    from icsbound.report import html, page
    from icsbound.report import markdown as text
    from icsbound.report.studies import page as studies
    from icsbound.report.studies import points

    folder = Path(folder)
    out = folder if out is None else Path(out)
    studied = points.holds_studies(folder)
    if not studied and (folder / "results.jsonl").is_file():
        return build_results(folder, out, markdown=markdown)
    made = studies.made(folder) if studied else html.made(folder)
    return text.write(made, out) if markdown else page.write(made, out)


def build_results(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    markdown: bool = False,
    claims: Sequence[str | os.PathLike[str]] = (),
) -> Path:
    """Write the page of the table of results at `path`, a file or a folder, into `out`, and return its path.

    With `markdown`, write ``results.md`` and the figures in it as SVG instead: text that a repository can keep.
    `claims` are files of claims that were fixed before the runs (see `icsbound.report.results.claims`): the page begins
    with what the table says to each, file by file.
    """
    require()
    from icsbound.report.results import page

    write = page.build_markdown if markdown else page.build
    return write(Path(path), Path(out), [Path(claim) for claim in claims])
