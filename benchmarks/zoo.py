"""Every batch-norm model of timm and torchvision, converted, run against the original, captured, reverted, compared.

    pip install timm torchvision        # without a CUDA build of torch: pip install --no-deps timm torchvision
    python benchmarks/zoo.py --out zoo.jsonl [--library timm] [--match 'resnet*'] [--max-parameters 30e6] [--shard 1/2]

A line is added to the file for every model that was tried, and what has one is not tried again, so a run can be stopped
and go on later, and several may share it, each with its --shard I/N. What was not run for want of time or memory, or
was too large, is tried again with `--again`.

Weights are random (nothing is downloaded), images small, arithmetic float64. A model has passed if, with α = 0,

* outputs in evaluation and in training, gradients of all parameters and running statistics are the original's;
* `capture` sees the same outputs as in the original, of every converted layer that sees the samples in evaluation;
* with α = 0.5 the output moves and stays finite, so the layers are really in use;
* reverted, it has the original's classes and keys, and its outputs to the last bit.

Running statistics are those that one training pass leaves; where with them the original's own output changes with the
last digit of its input, they are first made those of the input.

Some models are also built with our layer as their `norm_layer`, and compared with the same built with `nn.BatchNorm2d`.

A model is refused if `convert` leaves a batch norm alone, and not run if it is too large, has no batch norm, or cannot
run here in its original form. Only what was compared is counted as passed. Exit code 1 if any model failed.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import random
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo_checks import Failed, NotRun, Row, built_with_layer, proved

from icsbound.norm import survey

BUILT = "(norm_layer)"  # ends the name of a model that is built with our layer
TAKE_LAYER = {  # models of several families whose builders have a norm_layer
    "torchvision": (
        "resnet18",
        "resnext50_32x4d",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "regnet_y_400mf",
    ),
    "timm": ("resnet18", "resnet26d", "seresnet18", "ecaresnet26t", "resnest14d"),
}


def import_torchvision() -> Any:
    """torchvision; where its compiled operators do not fit this torch, declare those that its import asks for."""
    try:
        import torchvision
    except (RuntimeError, ImportError) as error:
        if "nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.library = library  # type: ignore[attr-defined]  # must live as long as its operators
        import torchvision
    return torchvision


def zoo(library: str) -> dict[str, Any]:
    """name → function that builds the model; first those built with our layer, whose names end in (norm_layer)."""
    torchvision = import_torchvision()
    if library == "torchvision":
        names = torchvision.models.list_models()

        def build(name: str, **settings: Any) -> nn.Module:
            return torchvision.models.get_model(name, weights=None, **_no_download(name), **settings)
    else:
        import timm

        names = timm.list_models()

        def build(name: str, **settings: Any) -> nn.Module:
            return timm.create_model(name, pretrained=False, **{"num_classes": 10, **settings})

    with_layer = {name + BUILT: partial(build, name) for name in TAKE_LAYER[library]}
    return with_layer | {name: partial(build, name) for name in names}


def _no_download(name: str) -> dict[str, Any]:
    dense = ("rcnn", "fcos", "retinanet", "ssd", "deeplab", "fcn_", "lraspp")
    return {"weights_backbone": None} if any(part in name for part in dense) else {}


class OutOfTime(BaseException):
    """Not an `Exception`, so that nothing on the way takes it for a defect of the model."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """OutOfTime after `seconds`, where the system has alarms."""

    def ring(*_: Any) -> None:
        raise OutOfTime(f"took longer than {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def limit_memory(gigabytes: float) -> None:
    """MemoryError, or torch's RuntimeError, instead of a process that the system ends."""
    size = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def done(path: Path | None, again: bool) -> list[Row]:
    """The rows that an earlier run wrote; the last line counts for each model, half a line for none."""
    found: dict[tuple[str, str], Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            row = Row(**json.loads(line))
            found[row.library, row.model] = row
    return [row for row in found.values() if not (again and row.verdict == "not run" and wanting(row))]


def wanting(row: Row) -> bool:
    """Whether a model was not run for want of time or memory, or since it was larger than the run allowed."""
    return row.why.startswith(("took longer", "took more memory", "more than")) or "allocate memory" in row.why


def tried(library: str, name: str, build: Any, max_parameters: float, seconds: int) -> Row:
    """One model, from building to verdict. A name that ends in "(norm_layer)" is built with our layer instead."""
    row, start = Row(library, name, "passed"), time.monotonic()
    try:
        with time_limit(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if built(row):
                built_with_layer(build, name, row)
                return row
            try:
                try:
                    with torch.device("meta"):
                        outline = build()
                except (NotImplementedError, RuntimeError):  # a model that computes with numbers while it is built
                    outline = build()
                found = survey(outline)
                row.parameters = sum(p.numel() for p in outline.parameters())
                if not found.convertible and not found.left:
                    raise NotRun("no batch norm")
                if row.parameters > max_parameters:
                    raise NotRun(f"more than {max_parameters:g} parameters")
                if found.left:
                    row.layers = len(found.convertible)
                    row.verdict = "refused"
                    row.why = "; ".join(sorted(set(found.left.values())))
                    return row
                torch.manual_seed(0)
                model = build().double()
            except (NotRun, Failed):
                raise
            except Exception as error:
                raise NotRun(f"cannot be built: {type(error).__name__}: {str(error)[:120]}") from None
            proved(model, name, row)
    except (NotRun, OutOfTime) as error:
        row.verdict, row.why = "not run", str(error)
    except MemoryError:
        row.verdict, row.why = "not run", "took more memory than it may"
    except Failed as error:
        row.verdict, row.why = "failed", str(error)
    except Exception as error:  # a defect of ours or of the model: shown, never counted as passed
        row.verdict, row.why = "failed", f"{type(error).__name__}: {str(error)[:200]}"
        if "can't allocate memory" in str(error):
            row.verdict, row.why = "not run", "took more memory than it may"
    finally:
        row.seconds = round(time.monotonic() - start, 1)
    return row


def built(row: Row) -> bool:
    """Whether a row is about a model built with our layer, which is no name of the library's."""
    return row.model.endswith(BUILT)


def table(rows: list[Row]) -> str:
    """Counts by library and verdict, names apart from builds with our layer, then reasons with their counts."""
    verdicts = ("passed", "refused", "failed", "not run")
    lines = ["| library | " + " | ".join(verdicts) + " | layers compared |", "|---" * 6 + "|"]
    for library, with_layer in sorted({(row.library, built(row)) for row in rows}):
        own = [row for row in rows if (row.library, built(row)) == (library, with_layer)]
        counts = Counter(row.verdict for row in own)
        layers = sum(row.layers for row in own if row.verdict == "passed")
        name = f"{library}, norm_layer=" if with_layer else library
        lines.append(f"| {name} | " + " | ".join(str(counts[v]) for v in verdicts) + f" | {layers} |")
    passed = [row for row in rows if row.verdict == "passed"]
    if passed:
        worst = max(passed, key=lambda row: row.error)
        lines += ["", f"Largest deviation of those that passed: {worst.error:.1e} ({worst.model})."]
    for verdict in verdicts[1:]:
        reasons: dict[str, list[str]] = {}
        for row in rows:
            if row.verdict == verdict:
                reasons.setdefault(row.why, []).append(row.model)
        for why, models in sorted(reasons.items(), key=lambda item: -len(item[1])):
            lines.append(f"- {verdict}: {why}: {len(models)} ({', '.join(models[:3])}{', ...' if models[3:] else ''})")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", choices=("timm", "torchvision"), action="append")
    parser.add_argument("--match", default="*", help="names to try, as a shell pattern")
    parser.add_argument("--sample", type=int, help="of each library only so many models, drawn with seed 0")
    parser.add_argument("--max-parameters", type=float, default=30e6)
    parser.add_argument("--seconds", type=int, default=120, help="limit for one model")
    parser.add_argument("--total-seconds", type=float, default=float("inf"), help="start no model after this time")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="limit of memory, address space included")
    parser.add_argument("--again", action="store_true", help="try again what wanted time or memory, or was too large")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="every N-th model from the I-th on")
    parser.add_argument("--out", type=Path, help="a file that gets a line of JSON for each model")
    arguments = parser.parse_args()
    limit_memory(arguments.gigabytes)
    rows, start = done(arguments.out, arguments.again), time.monotonic()
    before = {(row.library, row.model) for row in rows}
    for library in arguments.library or ("torchvision", "timm"):
        models = {n: build for n, build in zoo(library).items() if fnmatch.fnmatch(n, arguments.match)}
        if arguments.sample is not None:
            drawn = random.Random(0).sample(sorted(models), min(arguments.sample, len(models)))
            models = {name: models[name] for name in drawn}
        index, count = arguments.shard
        for name, build in list(models.items())[index - 1 :: count]:
            if (library, name) in before or time.monotonic() - start > arguments.total_seconds:
                continue
            row = tried(library, name, build, arguments.max_parameters, arguments.seconds)
            print(f"{row.verdict:8} {library} {name} {row.error:.1e} {row.seconds:.1f} s {row.why}", flush=True)
            rows.append(row)
            if arguments.out:
                add(arguments.out, row)
    print("\n" + table(rows))
    return 1 if any(row.verdict == "failed" for row in rows) else 0


def shard(text: str) -> tuple[int, int]:
    """I/N as two numbers."""
    index, count = map(int, text.split("/"))
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, got {text!r}")
    return index, count


def add(path: Path, row: Row) -> None:
    """Add the line of one model, on a line of its own even if an earlier run ended within one."""
    cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + json.dumps(asdict(row)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
