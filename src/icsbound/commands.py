"""The commands for many runs and for finished ones: `sweep`, `evaluate` and `measure`, a part of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icsbound import flags, report, study_command
from icsbound._check import InputError, byte_count, fail
from icsbound.measure import laws, store, views
from icsbound.training import results
from icsbound.training.config import DEVICES

if TYPE_CHECKING:
    from icsbound.training.states import MeasureConfig
    from icsbound.training.sweep import SweepConfig

VERDICTS = ("moved", "below the floor", "not resolved")


def add(commands: Any) -> None:
    """Add these commands to `commands`, the subparsers of the command line."""
    sweep = commands.add_parser(
        "sweep", help="train arms over batch sizes and seeds into a table, resumable and shared out"
    )
    sweep.add_argument("--arms", nargs="+", metavar="ARM", help=flags.ARM_HELP)
    sweep.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    sweep.add_argument("--batch-sizes", nargs="+", type=int, metavar="IMAGES", help="default: the recipe's")
    sweep.add_argument("--constant-lr", action="store_true", default=None, help="do not scale --lr with the batch size")
    sweep.add_argument("--monitor", action="store_true", default=None, help="measure the layers as well")
    flags.add_snapshots(sweep)
    _table_flags(sweep)
    sweep.add_argument("--jobs", type=int, help="runs at a time (default: one per core)")
    sweep.add_argument(
        "--launcher",
        choices=["local", "ray"],
        default="local",
        help="ray: on the cluster that RAY_ADDRESS names or this machine belongs to; all nodes must share --out",
    )
    sweep.add_argument(
        "--shard", metavar="I/N", help="this is job I of N of an array, all with the same --out or --resume"
    )
    flags.add_training(sweep)
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
    evaluate.add_argument(
        "--shift-dir", metavar="DIR", help="take corruptions from a folder as CIFAR-10-C or ImageNet-C, and make none"
    )
    evaluate.add_argument(
        "--perturb",
        default="none",
        help="none, prune:FRACTION, quantize:BITS, average:RUN, average:snapshots[:LAST] or alpha:VALUE",
    )
    evaluate.add_argument(
        "--recalibrate", type=int, default=0, metavar="N", help="estimate statistics anew on N images"
    )
    evaluate.add_argument("--augment", action="store_true", help="on images changed at random as in training")
    evaluate.add_argument(
        "--eval-batch", type=int, default=0, metavar="N", help="normalize by test batches of N (0: stored)"
    )
    evaluate.add_argument("--by-label", action="store_true", help="the test batches come sorted by class")
    evaluate.add_argument("--mix", type=float, default=0.0, metavar="W", help="share of the image's own statistics")
    evaluate.add_argument("--standardize", action="store_true", help="each image to mean 0 and variance 1")
    evaluate.add_argument("--shift-seed", type=int, default=0, help="fixes corruptions and orders")
    _table_flags(evaluate)
    evaluate.add_argument("--data-dir", metavar="DIR", help="where the data lie now, if they moved")
    evaluate.add_argument("--model", help="of the runs, named again where it is code: pkg.module:factory")
    evaluate.add_argument("--device", choices=DEVICES, help="where to compute (default: where the run was trained)")
    evaluate.add_argument("--threads", type=int, help="torch's threads on the CPU")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="its results.jsonl is added to")
    evaluate.add_argument("--json", action="store_true", help="print the lines as JSON")
    evaluate.add_argument("--quiet", action="store_true", help="no progress")
    evaluate.set_defaults(run=_evaluate)

    measured = commands.add_parser("measure", help="say which layers moved between checkpoints, or on other data")
    _measure_flags(measured)
    measured.set_defaults(run=_measure)

    study_command.add(commands)


def _table_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--setting", help="the experiment's name in the table (default: the command's)")
    command.add_argument("--phase", choices=results.PHASES, help="explore (default) or confirm")


def _measure_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "checkpoints", nargs="*", metavar="CHECKPOINT", help="two files of weights or runs, or one run's folder"
    )
    command.add_argument("--model", help="of files: pkg.module:factory, or name:key=value as for train")
    command.add_argument("--arm", metavar="ARM", help=f"of files, with a named model: {flags.ARM_HELP}")
    command.add_argument("--data", help="name, name:shift=CORRUPTION,severity=1...5, or pkg.module:function")
    command.add_argument("--data-dir", metavar="DIR", help="folder of the data set's parquet files")
    command.add_argument("--data-b", nargs="+", metavar="DATA", help="other data for the same weights")
    command.add_argument("--layers", nargs="+", metavar="PATTERN", help="default: every normalization layer")
    command.add_argument("--view", nargs="+", dest="views", metavar="VIEW", help="any of " + ", ".join(views.VIEWS))
    command.add_argument("--side", choices=["outputs", "inputs"])
    command.add_argument("--law", choices=laws.LAWS, help="which statistics batch norms use")
    command.add_argument("--probe", type=int, metavar="N", help="held-out inputs (512)")
    command.add_argument("--batch-size", type=int, metavar="N", help="inputs a pass")
    command.add_argument("--seed", type=int, help="fixes the choice of the probe")
    command.add_argument("--rate", type=float, help="share of false ones among all that is called moved (0.05)")
    command.add_argument("--smallest", type=float, metavar="SPREADS", help="moved: by more than this many (0: at all)")
    command.add_argument("--picture", metavar="LAYER", help="the measured layer that is drawn (the last)")
    command.add_argument("--device", choices=DEVICES)
    command.add_argument("--jobs", type=int, help="distances at a time on the CPU (default: one per core)")
    command.add_argument("--dtype", metavar="DTYPE", help="keep outputs as any of " + ", ".join(store.NAMES))
    command.add_argument("--memory", metavar="BYTES", help="the most that the outputs of one state may take, as in 2G")
    command.add_argument(
        "--spill", type=Path, metavar="DIR", help="keep outputs beyond --memory (or all) in files here"
    )
    command.add_argument("--fail-on", action="append", choices=VERDICTS, help="exit code 3 where a verdict is this")
    command.add_argument("--out", type=Path, metavar="DIR", help="default: a fresh runs/measure-TIME")
    command.add_argument("--force", action="store_true", default=None, help="replace the measurement that is in --out")
    command.add_argument("--resume", type=Path, metavar="DIR", help="go on with the measurement in DIR")
    command.add_argument("--json", action="store_true", help="print every distance as a line of JSON")
    command.add_argument("--quiet", action="store_true", help="no progress")


def _sweep(args: argparse.Namespace) -> int:
    from icsbound.training import pool
    from icsbound.training.session import try_out
    from icsbound.training.snapshots import Snapshots
    from icsbound.training.sweep import SweepConfig, launching, sweep

    shard = _shard(args.shard) if args.shard else (1, 1)
    Snapshots(args.snapshots)  # refused before anything else
    if args.resume:
        config, out = SweepConfig.load(flags.resumed(args), (args.model,)), args.resume
        flags.same(args, model=config.base.model)
        config = dataclasses.replace(config, base=config.base.moved(args.data_dir, args.weights))
    else:
        config = sweep_config(args)
        # The other jobs of an array find the folder taken by the same sweep, and go on in it.
        runs = config.runs()

        def attempt() -> None:
            launching(args.launcher, args.jobs)
            try_out(runs.values())

        out = args.out if args.shard and args.out else flags.fresh_folder(args, attempt)
    count = len(list(config.runs())[shard[0] - 1 :: shard[1]])
    failed: str | None = None
    try:
        asked = {"jobs": args.jobs, "shard": shard, "launcher": args.launcher, "snapshots": args.snapshots}
        with flags.progress_bar(args.quiet, count) as show:
            sweep(config, out, **asked, progress=show)
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


def sweep_config(args: argparse.Namespace) -> SweepConfig:
    """The sweep that the flags ask for."""
    from icsbound.training.config import MonitorConfig, TrainConfig
    from icsbound.training.sweep import SweepConfig

    if not args.arms or not args.seeds:
        fail("--arms and --seeds", "be given", args.arms or args.seeds)
    monitor = MonitorConfig() if args.monitor else None
    base = flags.configured(args, TrainConfig(threads=1, monitor=monitor))
    own = flags.by_arm(args, args.arms)
    return SweepConfig(
        arms=tuple(own),
        by_arm=own if args.arms_file else {},
        seeds=tuple(args.seeds),
        batch_sizes=tuple(args.batch_sizes or [base.recipe.batch_size]),
        base=base,
        setting=args.setting or "sweep",
        phase=args.phase or "explore",
        scale_lr=not args.constant_lr,
    )


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        fail("--shard", "read I/N, such as 2/8", text)
    return int(index), int(count)


def _evaluate(args: argparse.Namespace) -> int:
    from icsbound.training.evaluate import Conditions, evaluate, finished_below

    conditions = Conditions(
        shifts=tuple(args.shift),
        shift_dir=args.shift_dir,
        perturb=args.perturb,
        recalibrate=args.recalibrate,
        augment=args.augment,
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
    with flags.progress_bar(args.quiet, len(runs)) as show:
        lines = evaluate(
            runs,
            args.out,
            conditions,
            setting=args.setting or "evaluate",
            phase=args.phase or "explore",
            data_dir=args.data_dir,
            model=args.model,
            device=args.device,
            threads=args.threads,
            progress=show,
        )
    _show(lines, args.out, args.json)
    return 0


def measure_config(args: argparse.Namespace) -> MeasureConfig:
    """The measurement that the flags of `measure` stand for."""
    from icsbound.training.states import MeasureConfig

    given: dict[str, Any] = {f.name: getattr(args, f.name) for f in dataclasses.fields(MeasureConfig)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None}
    return MeasureConfig(**given)


def _measure(args: argparse.Namespace) -> int:
    from icsbound.training import measure
    from icsbound.training.states import States

    report.require()
    from icsbound.report import verdicts

    memory = None if args.memory is None else byte_count("--memory", args.memory)
    if args.resume:
        named = (args.model, args.data, *(args.data_b or ()))
        config, out = measure.load(flags.resumed(args, ("data", "data_b")), named), args.resume
        flags.same(args, model=config.model, data=config.data, data_b=list(config.data_b))
        if args.data_dir is not None:
            config = dataclasses.replace(config, data_dir=args.data_dir)
    else:
        config = measure_config(args)
        out = flags.fresh_folder(args, lambda: States(config, memory, args.spill))
    try:
        with flags.progress_bar(args.quiet, 1) as show:
            found = measure.measure(config, out, jobs=args.jobs, memory=memory, spill=args.spill, progress=show)
    except KeyboardInterrupt:
        flags.page_so_far(out)
        raise
    page = f"page: {report.build(out)}"
    print("\n".join(map(json.dumps, verdicts.rows(out)) if args.json else verdicts.lines(out)))
    print(page, file=sys.stderr if args.json else sys.stdout)
    hits = [one for one in found if one.verdict.text in (args.fail_on or [])]
    if hits:
        first, more = hits[0].distance, f", and {len(hits) - 1} more" if len(hits) > 1 else ""
        print(
            f"icsbound measure: layer {first.layer}, {first.view} view, {first.run}: {hits[0].verdict}{more}",
            file=sys.stderr,
        )
    return 3 if hits else 0


def _show(lines: list[results.Line], out: Path, as_json: bool) -> None:
    """The lines, or what they say: means over seeds, and differences to the control with their intervals; then the
    page of the whole table.
    """
    if as_json:
        for line in lines:
            print(json.dumps(line.to_dict()))
    else:
        try:
            from icsbound.report.results.contrasts import summary
        except ModuleNotFoundError as error:
            raise InputError(
                f"intervals must have {error.name}, which is not installed; pip install 'icsbound[train]'"
            ) from None
        print("\n".join([*summary(lines), f"table: {out / 'results.jsonl'}"]))
    try:
        print(f"page: {report.build_results(out, out)}", file=sys.stderr if as_json else sys.stdout)
    except InputError as error:
        print(f"no page yet: {error}", file=sys.stderr)
