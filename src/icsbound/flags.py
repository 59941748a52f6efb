"""What the commands of the command line share: the flags of a training and the run they stand for, the folder that is
written, progress, and the page after an interruption.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icsbound import report
from icsbound._check import InputError, fail, positive_int
from icsbound.training import arms, data, models, recipes
from icsbound.training.config import DEVICES, MonitorConfig, TrainConfig
from icsbound.training.pretrained import SEED, Pretrained

ARM_HELP = f"name or name:key=value,key=value; names: {', '.join(arms.ARMS)}"


def add_snapshots(command: argparse.ArgumentParser) -> None:
    """The flag for states that a training keeps."""
    command.add_argument(
        "--snapshots", metavar="EPOCHS|STEPS", help="keep the network every so many epochs (1), or steps (50steps)"
    )


def add_training(command: argparse.ArgumentParser) -> None:
    """Add the flags of a training to `command`."""
    command.add_argument("--data", help=f"one of {', '.join(data.ANY)}, hub:NAME:IMAGE_COLUMN:LABEL_COLUMN")
    command.add_argument(
        "--data-dir", metavar="DIR", help="where the data lie: parquet files, or train/CLASS and val/CLASS"
    )
    command.add_argument("--image-column", metavar="NAME", help="of hub:NAME, where it has several of pictures")
    command.add_argument("--label-column", metavar="NAME", help="of hub:NAME, where it has several of classes")
    command.add_argument("--model", help=f"one of {', '.join(models.NETWORKS)}, name:width=W, {models.ELSEWHERE}")
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="begin at these: safetensors, a torch file, a checkpoint, or a finished run; {seed} stands for the seed",
    )
    command.add_argument(
        "--new-head", action=argparse.BooleanOptionalAction, help="with --weights: the last layer begins at random"
    )
    command.add_argument("--recipe", choices=list(recipes.RECIPES), help="where all other training values come from")
    command.add_argument(
        "--arms-file", type=Path, metavar="FILE", help="TOML: values of the recipe and settings of the layer by arm"
    )
    command.add_argument("--epochs", type=int)
    command.add_argument("--batch-size", type=int)
    command.add_argument("--lr", type=float, help="the largest learning rate")
    command.add_argument("--dropout", type=float, metavar="P", help="inside the blocks")
    command.add_argument("--split", choices=["test", "validation"], help="what accuracy is taken on")
    command.add_argument("--probe", type=int, metavar="IMAGES", help="held-out images that the layers are measured on")
    command.add_argument("--captures", type=int, help="how often the layers are measured, besides once before training")
    command.add_argument("--every", type=int, metavar="STEPS", help="measure every so many steps instead")
    command.add_argument("--picture", metavar="LAYER", help="the measured layer that is drawn (the last)")
    command.add_argument("--no-picture", dest="picture", action="store_const", const=False, help="draw none")
    switch = argparse.BooleanOptionalAction
    command.add_argument("--standardize", action=switch, help="each image to mean 0 and variance 1 by itself")
    command.add_argument("--divide-by", choices=["std", "variance"], help="what channels are divided by (std)")
    for name in ("mean", "std"):
        text = f"{name} of each channel, pixels 0...1 (of the training part)"
        command.add_argument(f"--{name}", nargs="+", type=float, metavar="FLOAT", help=text)
    command.add_argument("--image-size", type=int, metavar="PIXELS", help="to which pictures are scaled and cut")
    command.add_argument("--skip-bad", type=int, metavar="N", help="leave out up to N images that cannot be decoded")
    command.add_argument("--in-memory", action=switch, help="decode pictures once, or whenever they are asked for")
    command.add_argument("--stream", action=switch, help="read the training part in order, and keep nothing of it")
    command.add_argument("--workers", type=int, metavar="N", help="processes that decode (one per core, up to 8)")
    command.add_argument("--precision", choices=["no", "bf16", "fp16"], help="of autocast")
    command.add_argument("--channels-last", action=switch, help="the memory format of images and weights")
    command.add_argument("--compile", action=switch, help="by torch.compile")
    _add_recipe(command)
    command.add_argument("--device", choices=DEVICES)
    command.add_argument("--threads", type=int, help="torch's threads on the CPU")
    command.add_argument("--out", type=Path, metavar="DIR", help="default: a fresh runs/COMMAND-TIME")
    command.add_argument("--force", action="store_true", default=None, help="replace the run that is in --out")
    command.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    command.add_argument("--json", action="store_true", help="print the result as JSON lines")
    command.add_argument("--quiet", action="store_true", help="no progress")


def _add_recipe(command: argparse.ArgumentParser) -> None:
    """A flag for every value of a recipe that has none yet."""
    group = command.add_argument_group("recipe", "every value of the recipe (see icsbound.training.recipes)")
    readers = {"int": int, "float": float, "str": str}
    for field in dataclasses.fields(recipes.Recipe):
        if field.name in ("name", "epochs", "batch_size", "lr"):
            continue
        flag, kind = "--" + field.name.replace("_", "-"), str(field.type)
        if kind == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
        elif kind.startswith("tuple"):
            reader = int if "int" in kind else float
            group.add_argument(flag, nargs="+", type=reader, metavar=field.name.upper())
        else:
            group.add_argument(flag, type=readers[kind.split(" ")[0]], metavar=kind.split(" ")[0].upper())


# Flags that a resumed run may be given; every other choice stands in its config.json.
_FREE_ON_RESUME = {
    "command",
    "model",  # to be named again where it is code
    "run",
    "resume",
    "data_dir",
    "weights",  # where that file lies now
    "jobs",
    "launcher",
    "shard",
    "json",
    "quiet",
    "checkpoint_every",
    "snapshots",
    "tracker",
    "profile",
    "fail_on",
    "memory",
    "spill",
}


def resumed(args: argparse.Namespace, free: Sequence[str] = ()) -> Path:
    """The folder of --resume. Raises InputError where flags were given that a run that has begun cannot change; `free`
    are further ones that may be given.
    """
    known = {*_FREE_ON_RESUME, *free}
    given = [name for name, value in vars(args).items() if name not in known and value is not None and value != []]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise InputError(f"--resume takes every choice from {args.resume}/config.json: leave out {flags}")
    folder: Path = args.resume
    return folder


def same(args: argparse.Namespace, **values: Any) -> None:
    """Raise InputError where a flag was given that is not what the run has in its config.json."""
    for name, value in values.items():
        given = getattr(args, name)
        if given not in (None, [], value):
            fail(f"--{name.replace('_', '-')}", f"be left out with --resume, or be {value!r} as in config.json", given)


def _given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Those flags among `names` that were given."""
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def configured(args: argparse.Namespace, base: TrainConfig) -> TrainConfig:
    """`base` with every flag that was given."""
    named = [f.name for f in dataclasses.fields(TrainConfig) if f.name not in ("recipe", "monitor")]
    changes: dict[str, Any] = _given(args, named)
    if args.new_head and args.weights is None:
        fail("--new-head", "come with --weights: without them every layer begins at random", args.new_head)
    if args.weights is not None:
        changes["pretrained"] = Pretrained(
            file=args.weights, new_head=bool(args.new_head), by_seed=SEED in args.weights
        )
    names = [f.name for f in dataclasses.fields(recipes.Recipe) if f.name != "name"]
    given = _given(args, names)
    changes["recipe"] = recipes.recipe(args.recipe or base.recipe.name, args.data or base.data, **given)
    of_monitor = _given(args, ("probe", "captures", "every", "picture"))
    if base.monitor is not None:
        changes["monitor"] = dataclasses.replace(base.monitor, **of_monitor)
    elif useless := [name for name, value in of_monitor.items() if value is not False]:  # --no-picture asks for nothing
        right = "come with --monitor" if args.command == "sweep" else "be left out with --no-monitor"
        fail(f"--{useless[0]}", f"{right}: without a monitor no layer is measured", of_monitor[useless[0]])
    return dataclasses.replace(base, **changes)


def by_arm(args: argparse.Namespace, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The arms to train, with their settings from --arms-file, and what each has of the recipe for itself."""
    from icsbound.training import per_arm

    return per_arm.resolved(names, per_arm.read(args.arms_file) if args.arms_file else {})


def trained_alone(args: argparse.Namespace) -> TrainConfig:
    """The run that the flags of `train` stand for."""
    from icsbound.training import per_arm

    config = configured(args, TrainConfig(monitor=None if args.no_monitor else MonitorConfig()))
    if not args.arms_file:
        return config
    # Named among all that the file sets, so that the run can be compared with those of the file's other arms.
    sections = per_arm.read(args.arms_file)
    ((arm, own),) = per_arm.resolved([config.arm], sections).items()
    recipe, names = per_arm.changed(config.recipe, own), per_arm.values_of(sections)
    return dataclasses.replace(config, arm=arm, recipe=recipe, per_arm=names)


def fresh_folder(args: argparse.Namespace, attempt: Callable[[], object]) -> Path:
    """The folder to write: fresh, or with --force emptied of the run that was in it.

    `attempt` is called before anything is removed, and raises InputError for what could not be run: that must not
    replace what was.
    """
    out: Path = args.out or Path("runs") / f"{args.command}-{time.strftime('%Y%m%d-%H%M%S')}"
    if out.exists() and not out.is_dir():
        fail("--out", "be a folder", str(out))
    if out.is_dir() and any(out.iterdir()):
        if not args.force:
            fail("--out", "be a fresh folder", str(out), "; --force replaces the run in it, --resume goes on with it")
        if not (out / "config.json").is_file():
            fail("--out", "hold a run to be replaced by --force", str(out), ": it has no config.json")
        if getattr(args, "jobs", None) is not None:
            positive_int("jobs", args.jobs)
        attempt()
        shutil.rmtree(out)
    return out


def progress_bar(quiet: bool, runs: int) -> Any:
    """A progress to train with, as a context: a bar, or nothing."""
    from contextlib import nullcontext

    from icsbound.training import progress

    return nullcontext(progress.quiet) if quiet else progress.Bar(runs)


def page_so_far(out: Path) -> None:
    """After an interruption: the page of what was measured, where there is something to show."""
    try:
        print(f"\npage of what was measured so far: {report.build(out)}", file=sys.stderr)
    except InputError as error:
        print(f"\nno page yet: {error}", file=sys.stderr)
