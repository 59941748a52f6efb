"""Sets the page of a table of results, and writes it with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icsbound.report import plots
from icsbound.report.page import Page, write
from icsbound.report.results import figures, findings, markdown, reproduce, tables
from icsbound.report.results.groups import slugs
from icsbound.report.results.table import Table, load
from icsbound.report.wording import listed

LEAD = (
    "Networks that differ in their normalization layers alone, trained on the same seeds. Each arm is set against its "
    "control, and a difference counts only where it stands out from what seeds alone do."
)
SOURCE = (
    "This page was computed from results.jsonl, alpha and shifts from the records and networks beside it; icsbound "
    "report builds it again."
)
TERMS = (
    (
        "higher, lower, not resolved",
        "Higher or lower: the arm differs from its control by Student's test on paired seeds, after Holm's adjustment "
        "over all contrasts of the setting, at 5 %. Not resolved: these seeds cannot tell, which is not a proof that "
        "there is no difference.",
    ),
    (
        "confirmed, refuted, waiting",
        "Of a claim fixed before the runs. Confirmed or refuted: the test over all of its seeds, adjusted over all "
        "claims, says so at 5 %. Waiting: not every seed that the claim names was run, and there is no verdict before.",
    ),
    (
        "paired by seed",
        "A seed fixes the split, the order of the images and the initial weights for all arms. The difference is taken "
        "seed by seed, so that what a seed does to all arms alike drops out.",
    ),
    (
        "95 % interval",
        "Student's t over the seeds' differences, for one contrast by itself. With few seeds it is wide. Resampling "
        "seeds is a check of it: with few seeds that one is too narrow.",
    ),
    (
        "Holm",
        "Of many true nulls some look resolved by chance. The k-th smallest of m p-values is multiplied by m − k + 1, "
        "so that with 95 % probability no true null of the setting is called resolved.",
    ),
    (
        "control",
        "bn, batch normalization, for every arm but published: that one is judged by published-batch, which has the "
        "same trained gain without unitizing any sample, or by bn where published-batch was not run.",
    ),
    (
        "experiment",
        "All runs of one setting that agree in every choice but arm and seed. Nothing is compared across experiments.",
    ),
    (
        "exploration, confirmation",
        "Exploration: settings may have been chosen by these very numbers. Confirmation: all was fixed before, on "
        "fresh seeds and the test split.",
    ),
    (
        "severity, pruned share, bits",
        "Corruptions of the test images at five strengths; the share of all weights set to 0, smallest first; the bits "
        "that each weight is rounded to. Stored statistics are those of training unless a remedy says otherwise.",
    ),
)


def build(path: Path, out: Path, claims: Sequence[Path] = ()) -> Path:
    """Write ``report.html``, ``results.md`` and ``figures/`` into `out` from the table at `path` and the files of
    `claims`.
    """
    table = load(path, claims)
    drawn = figures.all_figures(table)
    sections = dict(zip(slugs(table.groups), (group.title for group in table.groups), strict=True))
    page = Page(
        heading=heading(table),
        lead=LEAD,
        facts=facts(table),
        groups=findings.all_findings(table),
        terms=TERMS,
        sections={**sections, "batch-sizes": "Batch sizes"},
        figures=drawn,
        tables=tables.all_tables(table),
        command=reproduce.commands(table),
        setting=reproduce.setting(table),
        source=SOURCE,
    )
    written = write(page, out)
    plots.write(out / "results.md", markdown.text(table, drawn).encode("utf-8"))
    return written


def build_markdown(path: Path, out: Path, claims: Sequence[Path] = ()) -> Path:
    """Write ``results.md`` and the figures in it, as SVG, into `out`: what a repository keeps of a table."""
    table = load(path, claims)
    drawn = figures.all_figures(table)
    out.mkdir(parents=True, exist_ok=True)
    plots.save(drawn, out / "figures", kinds=("svg",))
    return plots.write(out / "results.md", markdown.text(table, drawn).encode("utf-8"))


def heading(table: Table) -> str:
    """What was compared on what."""
    places = list(dict.fromkeys(f"{group['model']} on {group['dataset']}" for group in table.groups))
    return f"{listed(table.arms, 8)}: {listed(places)}"


def facts(table: Table) -> list[tuple[str, str]]:
    """The few numbers at the top of the page."""
    runs = len(table.accuracy[["group", "arm", "seed"]].drop_duplicates())
    verdicts = [c.verdict for c in table.headline]
    resolved = len(verdicts) - verdicts.count("not resolved")
    return [
        (f"{runs:,}", "runs" if table.planned is None else f"of {max(table.planned, runs):,} runs"),
        (f"{len(table.groups)} × {len(table.arms)}", "experiments × arms"),
        (f"{len(table.lines):,}", "accuracies"),
        (f"{resolved} of {len(verdicts)}", "contrasts resolved"),
    ]
