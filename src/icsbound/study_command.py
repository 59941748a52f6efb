"""The command `study`, a part of the command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icsbound import flags, report
from icsbound._check import InputError, fail

if TYPE_CHECKING:
    from icsbound.study.run import StudyConfig

# Spelled out, so that the command line starts without the studies.
NAMES = ("dimension", "noise", "reduction", "moments", "unitization", "alpha", "information", "shift")


def add(commands: Any) -> None:
    """Add the command to `commands`, the subparsers of the command line."""
    study = commands.add_parser("study", help="put claims of the theory to the test, and write the page")
    study.add_argument("studies", nargs="*", metavar="NAME", help=f"all, or any of {', '.join(NAMES)}")
    study.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="default: each study's own")
    study.add_argument("--full", action="store_true", default=None, help="more dimensions, draws and epochs")
    study.add_argument("--runs", metavar="DIR", help="finished runs to read where a study needs trained networks")
    study.add_argument("--jobs", type=int, help="trainings at a time (default: one per core)")
    study.add_argument("--out", type=Path, metavar="DIR", help="default: a fresh runs/study-TIME")
    study.add_argument("--force", action="store_true", default=None, help="replace the studies that are in --out")
    study.add_argument("--resume", type=Path, metavar="DIR", help="go on with the studies in DIR")
    study.add_argument("--json", action="store_true", help="print every point as a line of JSON")
    study.add_argument("--quiet", action="store_true", help="no progress")
    study.set_defaults(run=_study)


def study_config(args: argparse.Namespace) -> StudyConfig:
    """The studies that the flags ask for."""
    from icsbound.study.run import StudyConfig

    if not args.studies:
        fail("NAME", f"be all, or any of {', '.join(NAMES)}", None)
    if "all" in args.studies and len(args.studies) > 1:
        fail("NAME", "be all alone, or names of studies", " ".join(args.studies))
    return StudyConfig(
        studies=NAMES if args.studies == ["all"] else tuple(args.studies),
        seeds=None if args.seeds is None else tuple(args.seeds),
        full=bool(args.full),
        runs=None if args.runs is None else str(Path(args.runs).expanduser().resolve()),
    )


def _study(args: argparse.Namespace) -> int:
    from icsbound.study.run import StudyConfig, run
    from icsbound.training import pool

    report.require()
    from icsbound.report.studies import page

    if args.resume:
        config, out = StudyConfig.load(flags.resumed(args)), args.resume
    else:
        config = study_config(args)
        out = flags.fresh_folder(args, config.plan)
    failed: str | None = None
    try:
        with flags.progress_bar(args.quiet, len(config.studies)) as show:
            run(config, out, jobs=args.jobs, progress=show)
    except pool.Failed as error:
        failed = str(error)
    except (KeyboardInterrupt, SystemExit, InputError):
        if (out / "records.jsonl").exists():  # else nothing was measured
            flags.page_so_far(out)
        raise
    where = f"page: {report.build(out)}"
    print("\n".join(map(json.dumps, page.rows(out)) if args.json else page.lines(out)))
    print(where, file=sys.stderr if args.json else sys.stdout)
    if failed is not None:
        print(f"icsbound study: {failed}", file=sys.stderr)
    return 0 if failed is None else 1
