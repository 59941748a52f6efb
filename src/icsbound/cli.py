"""The command line: the thin roof that alone knows every wing.

Exit codes: 0 done; 2 bad input, said in one sentence; 3 a verdict that `measure --fail-on` names; 130 stopped by
Ctrl-C and 143 by SIGTERM, after a checkpoint; 1 anything else, which is a defect and shows its traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from icsbound import _version, doctor, flags, report
from icsbound import commands as more
from icsbound._check import InputError, fail
from icsbound.training.config import TrainConfig


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument as any other bad input: one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = argparse.Namespace(command="")
    try:
        args = parser().parse_args(argv)
        return int(args.run(args))
    except InputError as error:
        print(f"icsbound {args.command}".strip() + f": {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nicsbound {args.command}: {stop or 'stopped'}", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Every command and flag."""
    top = _Parser(prog="icsbound", description="Measure and bound internal covariate shift, and unitize layers.")
    top.add_argument("--version", action="version", version=_version.__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    compare = commands.add_parser("compare", help="train arms side by side, measure their layers, and write the page")
    compare.add_argument("--arms", nargs="+", metavar="ARM", help=flags.ARM_HELP)
    compare.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="one run of each arm per seed")
    compare.add_argument("--jobs", type=int, help="runs at a time (default: one per core)")
    flags.add_training(compare)
    compare.set_defaults(run=_compare)

    train = commands.add_parser("train", help="train one arm, resumable at any step")
    train.add_argument("--arm", metavar="ARM", help=flags.ARM_HELP)
    train.add_argument("--seed", type=int, help="fixes split, initial weights, order and augmentation")
    train.add_argument("--no-monitor", action="store_true", default=None, help="do not measure the layers")
    flags.add_snapshots(train)
    train.add_argument(
        "--checkpoint-every", type=int, metavar="STEPS", help="default: after epochs, 15 s apart or more"
    )
    train.add_argument(
        "--tracker", metavar="NAME", help="scalars to tensorboard (default where installed), none, or another by name"
    )
    train.add_argument("--profile", action="store_true", help="say in OUT/profile where the time of a step goes")
    flags.add_training(train)
    train.set_defaults(run=_train)

    more.add(commands)

    page = commands.add_parser("report", help="write the page of a run or table anew, from its records or lines")
    page.add_argument("folder", type=Path, metavar="PATH", help="a folder with records, or a file of results")
    page.add_argument("--out", type=Path, metavar="DIR", help="where the page goes (default: there)")
    page.add_argument(
        "--markdown",
        action="store_true",
        help="text for a repository instead: report.md, of a table results.md, and figures as SVG",
    )
    page.add_argument(
        "--claims",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="of a table: JSON, claims fixed before the runs",
    )
    page.set_defaults(run=_report)

    checkup = commands.add_parser("doctor", help="say what this installation runs on, and why")
    checkup.add_argument("--json", action="store_true", help="as one JSON object")
    checkup.set_defaults(run=_doctor)
    return top


def _compare(args: argparse.Namespace) -> int:
    from icsbound.training import compare, pool, session

    report.require()
    if args.resume:
        config, out = compare.CompareConfig.load(flags.resumed(args), (args.model,)), args.resume
        flags.same(args, model=config.base.model)
        config = dataclasses.replace(config, base=config.base.moved(args.data_dir, args.weights))
    else:
        default = compare.CompareConfig()
        own = flags.by_arm(args, args.arms or default.arms)
        config = compare.CompareConfig(
            arms=tuple(own),
            by_arm=own if args.arms_file else {},
            seeds=default.seeds if args.seeds is None else tuple(args.seeds),
            base=flags.configured(args, default.base),
        )
    runs = config.runs()  # refuses an unusable arm, seed or device before anything is written
    out = args.resume or flags.fresh_folder(args, lambda: session.try_out(runs.values()))
    failed: str | None = None
    try:
        with flags.progress_bar(args.quiet, len(runs)) as show:
            compare.compare(config, out, jobs=args.jobs, progress=show)
    except pool.Failed as error:
        failed = str(error)
    except KeyboardInterrupt:
        flags.page_so_far(out)
        raise
    if failed is not None:
        print(f"icsbound compare: {failed}", file=sys.stderr)
    _show_results(out, args.json)
    return 0 if failed is None else 1


def _train(args: argparse.Namespace) -> int:
    from icsbound.training import loop, session

    # In a process group (torchrun) all processes train in one folder, and the first one alone speaks.
    group, first = "RANK" in os.environ, os.environ.get("RANK", "0") == "0"
    if group and not (args.out or args.resume):
        fail("--out", "be given, so that all processes share it", args.out)
    if group and args.force:
        fail("--force", "be left out where several processes start at once", args.force)
    if args.resume:
        config, out = TrainConfig.load(flags.resumed(args), (args.model,)), args.resume
        flags.same(args, model=config.model)
        config = config.moved(args.data_dir, args.weights)
    else:
        config = flags.trained_alone(args)
    tracker = args.tracker or "auto"

    def attempt() -> None:
        loop.usable(args.snapshots, tracker, args.checkpoint_every)
        session.Session(config.resolved()).begin()

    out = args.resume or flags.fresh_folder(args, attempt)
    try:
        with flags.progress_bar(args.quiet or not first, 1) as show:
            loop.train(
                config,
                out,
                progress=show,
                checkpoint_every=args.checkpoint_every,
                snapshots=args.snapshots,
                tracker=tracker,
                profile=args.profile,
            )
    except loop.Diverged as error:
        print(f"icsbound train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if first:
            flags.page_so_far(out)
        raise
    if group:
        from accelerate.state import PartialState

        PartialState().destroy_process_group()  # NCCL warns of a group that a process leaves open as it ends
    if first:
        _show_results(out, args.json)
    return 0


def _report(args: argparse.Namespace) -> int:
    path: Path = args.folder
    if path.is_file() or (path / "results.jsonl").is_file():
        out = args.out or (path if path.is_dir() else path.parent)
        print(f"page: {report.build_results(path, out, markdown=args.markdown, claims=args.claims)}")
        return 0
    if not path.is_dir():
        fail("PATH", "be the folder of a run or a file of results", str(path))
    if args.claims:
        fail("--claims", "go with a table of results", str(path))
    print(f"page: {report.build(path, args.out, markdown=args.markdown)}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    found = doctor.examine()
    print(json.dumps(found, indent=2) if args.json else "\n".join(doctor.lines(found)))
    return 0


def _show_results(out: Path, as_json: bool) -> None:
    """The table and the page; where the extra for them is missing, how to have them: the run itself is whole."""
    try:
        report.require()
        from icsbound.report import console

        page = f"page: {report.build(out)}"
        print("\n".join(map(json.dumps, console.rows(out)) if as_json else console.lines(out)))
        print(page, file=sys.stderr if as_json else sys.stdout)
    except InputError as error:
        print(f"no page yet: {error}; then: icsbound report {out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
