"""The commands for many runs and for finished ones: `sweep` and `evaluate`, a part of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icsbound._check import fail
from icsbound.training import results


def add(commands: Any, arm_help: str, training_flags: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add both commands to `commands`, the subparsers of the command line."""
    sweep = commands.add_parser(
        "sweep", help="train arms over batch sizes and seeds into a table, resumable and shared out"
    )
    sweep.add_argument("--arms", nargs="+", metavar="ARM", help=arm_help)
    sweep.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    sweep.add_argument("--batch-sizes", nargs="+", type=int, metavar="IMAGES", help="default: the recipe's")
    sweep.add_argument("--constant-lr", action="store_true", help="do not scale --lr with the batch size")
    sweep.add_argument("--monitor", action="store_true", help="measure the layers as well")
    _table_flags(sweep)
    sweep.add_argument("--jobs", type=int, help="runs at a time (default: one per core)")
    sweep.add_argument(
        "--shard", metavar="I/N", help="this is job I of N of an array, all with the same --out or --resume"
    )
    training_flags(sweep)
    sweep.set_defaults(run=_sweep)

    evaluate = commands.add_parser(
        "evaluate", help="accuracy of finished runs under shift, changed weights and remedies"
    )
    evaluate.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs, or folders of such"
    )
    evaluate.add_argument(
        "--shift", nargs="+", default=["none"], metavar="NAME[:SEVERITY]", help="none, all, or corruptions"
    )
    evaluate.add_argument("--perturb", default="none", help="none, prune:FRACTION, quantize:BITS or average:RUN")
    evaluate.add_argument(
        "--recalibrate", type=int, default=0, metavar="N", help="estimate statistics anew on N images"
    )
    evaluate.add_argument(
        "--eval-batch", type=int, default=0, metavar="N", help="normalize by test batches of N (0: stored)"
    )
    evaluate.add_argument("--by-label", action="store_true", help="the test batches come sorted by class")
    evaluate.add_argument("--mix", type=float, default=0.0, metavar="W", help="share of the image's own statistics")
    evaluate.add_argument("--standardize", action="store_true", help="each image to mean 0 and variance 1")
    evaluate.add_argument("--shift-seed", type=int, default=0, help="fixes corruptions and orders")
    _table_flags(evaluate)
    evaluate.add_argument("--data-dir", metavar="DIR", help="where the data lie now, if they moved")
    evaluate.add_argument("--threads", type=int, help="torch's threads on the CPU")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="its results.jsonl is added to")
    evaluate.add_argument("--json", action="store_true", help="print the lines as JSON")
    evaluate.add_argument("--quiet", action="store_true", help="no progress")
    evaluate.set_defaults(run=_evaluate)


def _table_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--setting", help="the experiment's name in the table (default: the command's)")
    command.add_argument("--phase", choices=results.PHASES, help="explore (default) or confirm")


def _sweep(args: argparse.Namespace) -> int:
    from icsbound import cli
    from icsbound.training import pool
    from icsbound.training.config import MonitorConfig, TrainConfig
    from icsbound.training.sweep import SweepConfig, sweep

    shard = _shard(args.shard) if args.shard else (1, 1)
    if args.resume:
        config, out = SweepConfig.load(cli.resumed(args)), args.resume
        if args.data_dir is not None:
            config = dataclasses.replace(config, base=dataclasses.replace(config.base, data_dir=args.data_dir))
    else:
        if not args.arms or not args.seeds:
            fail("--arms and --seeds", "be given", args.arms or args.seeds)
        monitor = MonitorConfig() if args.monitor else None
        base = cli.configured(args, TrainConfig(threads=1, monitor=monitor))
        config = SweepConfig(
            arms=tuple(args.arms),
            seeds=tuple(args.seeds),
            batch_sizes=tuple(args.batch_sizes or [base.recipe.batch_size]),
            base=base,
            setting=args.setting or "sweep",
            phase=args.phase or "explore",
            scale_lr=not args.constant_lr,
        )
        # The other jobs of an array find the folder taken by the same sweep, and go on in it.
        out = args.out if args.shard and args.out else cli.fresh_folder(args)
    count = len(list(config.runs())[shard[0] - 1 :: shard[1]])
    failed: str | None = None
    try:
        with cli.progress_bar(args.quiet, count) as show:
            sweep(config, out, jobs=args.jobs, shard=shard, progress=show)
    except pool.Failed as error:
        failed = str(error)
    except KeyboardInterrupt:
        _show(results.read(out / "results.jsonl"), out, args.json)
        raise
    _show(results.read(out / "results.jsonl"), out, args.json)
    if failed is not None:
        print(f"icsbound sweep: {failed}", file=sys.stderr)
        return 1
    return 0


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        fail("--shard", "read I/N, such as 2/8", text)
    return int(index), int(count)


def _evaluate(args: argparse.Namespace) -> int:
    from icsbound import cli
    from icsbound.training.evaluate import Conditions, evaluate, finished_below

    conditions = Conditions(
        shifts=tuple(args.shift),
        perturb=args.perturb,
        recalibrate=args.recalibrate,
        eval_batch=args.eval_batch,
        by_label=args.by_label,
        mix=args.mix,
        standardize=args.standardize,
        seed=args.shift_seed,
    )
    runs: list[Path] = []
    for folder in args.runs:
        if not folder.is_dir():
            fail("RUN", "be the folder of a finished run", str(folder))
        # A folder without finished runs is named by the evaluation itself, with the command that finishes it.
        runs += list(finished_below(folder)) or [folder]
    with cli.progress_bar(args.quiet, len(runs)) as show:
        lines = evaluate(
            runs,
            args.out,
            conditions,
            setting=args.setting or "evaluate",
            phase=args.phase or "explore",
            data_dir=args.data_dir,
            threads=args.threads,
            progress=show,
        )
    _show(lines, args.out, args.json)
    return 0


def _show(lines: list[results.Line], out: Path, as_json: bool) -> None:
    """The lines, or what they say: means over seeds, and differences to the control with their intervals."""
    if as_json:
        for line in lines:
            print(json.dumps(dataclasses.asdict(line)))
        return
    from icsbound.training.contrasts import summary

    print("\n".join([*summary(lines), f"table: {out / 'results.jsonl'}"]))
