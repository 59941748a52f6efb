"""Every batch-norm model of timm and torchvision, converted, run against the original, captured, reverted, compared.

    pip install timm torchvision        # without a CUDA build of torch: pip install --no-deps timm torchvision
    python benchmarks/zoo.py --out zoo.json [--library timm] [--match 'resnet*'] [--max-parameters 30e6]

Weights are random (nothing is downloaded), images small, arithmetic float64. A model has passed if, with α = 0,

* outputs in evaluation and in training, gradients of all parameters and running statistics are the original's;
* `capture` sees the same outputs as in the original, of every converted layer that runs in evaluation;
* with α = 0.5 the output moves and stays finite, so the layers are really in use;
* reverted, it has the original's classes and keys, and its outputs to the last bit.

It is refused if `convert` leaves a batch norm alone, and not run if it is too large, has no batch norm, or cannot run
here in its original form. Only what was compared is counted as passed. Exit code 1 if any model failed.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icsbound.measure.capture import capture
from icsbound.norm import UnitizedBatchNorm, convert, revert, survey

TOLERANCE = 1e-7  # of the largest entry; rounding of 1e-16 grows through deep networks and small batches
BATCH = 4
SIZES = (64, 96, 128, 224, 299)  # the first at which the original runs


@dataclass
class Row:
    """What happened to one model."""

    library: str
    model: str
    verdict: str  # "passed" | "refused" | "not run" | "failed"
    why: str = ""
    layers: int = 0
    parameters: int = 0
    size: int = 0
    error: float = 0.0  # the largest deviation from the original, relative to the largest entry
    seconds: float = 0.0


class NotRun(Exception):
    """The original itself cannot be run here."""


class Failed(Exception):
    """The converted or reverted model does not do what the original does."""


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
    """name → function that builds the model."""
    torchvision = import_torchvision()
    if library == "torchvision":
        return {
            name: lambda name=name: torchvision.models.get_model(name, weights=None, **_no_download(name))
            for name in torchvision.models.list_models()
        }
    import timm

    return {
        name: lambda name=name: timm.create_model(name, pretrained=False, num_classes=10) for name in timm.list_models()
    }


def _no_download(name: str) -> dict[str, Any]:
    dense = ("rcnn", "fcos", "retinanet", "ssd", "deeplab", "fcn_", "lraspp")
    return {"weights_backbone": None} if any(part in name for part in dense) else {}


def tensors(output: Any) -> list[Tensor]:
    """Every floating-point tensor in a nested output, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    return [t for part in output for t in tensors(part)] if isinstance(output, list | tuple) else []


def example(model: nn.Module, name: str) -> tuple[Tensor, ...]:
    """The smallest random input that the original takes, in evaluation and training."""
    config = getattr(model, "pretrained_cfg", None) or {}
    fixed = config.get("input_size", (3, 224, 224))
    sizes = [fixed[-1]] if config.get("fixed_input_size") else sorted({*SIZES, fixed[-1]})
    frames = (16,) if any(part in name for part in ("r3d", "mc3", "r2plus1d", "s3d", "mvit", "swin3d")) else ()
    problem = ""
    g = torch.Generator().manual_seed(0)
    for size in sizes:
        images = 2 if name.startswith("raft") else 1
        x = tuple(torch.randn((BATCH, fixed[0], *frames, size, size), generator=g).double() for _ in range(images))
        try:
            for mode in (False, True):
                with torch.no_grad():
                    found = tensors(model.train(mode)(*x))
                if not found or not all(bool(t.isfinite().all()) for t in found):
                    raise NotRun("the original gives no finite output")
            return x
        except NotRun:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    raise NotRun(f"the original does not run: {problem[:160]}")


def called(model: nn.Module, x: tuple[Tensor, ...], names: list[str]) -> dict[bool, list[str]]:
    """Which of the named layers run in a forward pass, by mode."""
    found: dict[bool, list[str]] = {}
    for mode in (False, True):
        seen: set[str] = set()
        hooks = [
            model.get_submodule(name).register_forward_hook(lambda *_, name=name, seen=seen: seen.add(name))
            for name in names
        ]
        with torch.no_grad():
            model.train(mode)(*x)
        for hook in hooks:
            hook.remove()
        found[mode] = [name for name in names if name in seen]
    return found


def behaviour(model: nn.Module, x: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Outputs in evaluation and training, gradients, and statistics afterwards; the model is left as it was."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    found = {}
    with torch.no_grad():
        for i, y in enumerate(tensors(model.eval()(*x))):
            found[f"evaluation {i}"] = y.clone()
    torch.manual_seed(0)  # dropout and stochastic depth
    outputs = tensors(model.train()(*x))
    for i, y in enumerate(outputs):
        found[f"training {i}"] = y.detach().clone()
    sum(y.square().mean() for y in outputs).backward()
    for name, p in model.named_parameters():
        if p.grad is not None and not name.endswith(".alpha"):
            found[f"gradient of {name}"] = p.grad
        p.grad = None
    found |= {f"buffer {k}": b.detach().double().clone() for k, b in model.named_buffers() if "running" in k}
    restore(model, state)
    return found


def restore(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy `state` back, by hand: some models have a `load_state_dict` with conditions of its own."""
    for key, value in model.state_dict().items():
        value.copy_(state[key])


def deviation(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest entry of its kind; Failed if something is missing."""
    if found.keys() != wanted.keys():
        raise Failed(f"has other results: {sorted(found.keys() ^ wanted.keys())[:3]}")
    scales: dict[str, float] = {}
    for name, value in wanted.items():
        kind = name.split()[0]
        scales[kind] = max(scales.get(kind, 0.0), float(value.abs().max()) if value.numel() else 0.0)
    worst = 0.0
    for name, value in wanted.items():
        if value.numel():
            difference = float((found[name] - value).abs().max()) / (scales[name.split()[0]] or 1.0)
            if not difference <= TOLERANCE:
                raise Failed(f"{name} differs by {difference:.1e} of the largest entry")
            worst = max(worst, difference)
    return worst


def classes(model: nn.Module) -> list[tuple[str, type[nn.Module]]]:
    return [(name, type(m)) for name, m in model.named_modules()]


def proved(model: nn.Module, name: str, row: Row) -> None:
    """Fill in `row`; NotRun or Failed otherwise."""
    found = survey(model)
    row.layers = len(found.convertible)
    x = example(model, name)
    row.size = x[0].shape[-1]
    names = list(found.convertible)
    ran = called(model, x, names)
    never = [n for n in names if n not in {*ran[False], *ran[True]}]
    row.why = f"{len(never)} layers are never called, such as {never[0]}" if never else ""
    row.layers -= len(never)
    wanted, original = behaviour(model, x), classes(model)
    keys = list(model.state_dict())
    probe = x[0] if len(x) == 1 else x
    captured = capture(model, probe, ran[False], view="pooled")
    model = convert(model, strict=True)
    row.error = deviation(behaviour(model, x), wanted)
    row.error = max(row.error, deviation(capture(model, probe, ran[False], view="pooled"), captured))

    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, UnitizedBatchNorm):
                layer.alpha.fill_(0.5)
        torch.manual_seed(0)
        moved = tensors(model.train()(*x))
    if not all(bool(y.isfinite().all()) for y in moved):
        raise Failed("is not finite with alpha = 0.5")
    if all(torch.equal(y, wanted[f"training {i}"]) for i, y in enumerate(moved)):
        raise Failed("does not depend on alpha")
    restore(model, state)

    model = revert(model)
    if classes(model) != original or list(model.state_dict()) != keys:
        raise Failed("reverted, has other classes or keys than the original")
    for key, value in behaviour(model, x).items():
        if not torch.equal(value, wanted[key]):
            raise Failed(f"reverted, {key} is not the original's")


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """NotRun after `seconds`, where the system has alarms."""

    def ring(*_: Any) -> None:
        raise NotRun(f"took longer than {seconds} s")

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


def tried(library: str, name: str, build: Any, max_parameters: float, seconds: int) -> Row:
    """One model, from building to verdict."""
    row, start = Row(library, name, "passed"), time.monotonic()
    try:
        with time_limit(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
    except NotRun as error:
        row.verdict, row.why = "not run", str(error)
    except Failed as error:
        row.verdict, row.why = "failed", str(error)
    except Exception as error:  # a defect of ours or of the model: shown, never counted as passed
        row.verdict, row.why = "failed", f"{type(error).__name__}: {str(error)[:200]}"
    row.seconds = round(time.monotonic() - start, 1)
    return row


def table(rows: list[Row]) -> str:
    """Counts by library and verdict, then reasons with their counts."""
    verdicts = ("passed", "refused", "failed", "not run")
    lines = ["| library | " + " | ".join(verdicts) + " | layers compared |", "|---" * 6 + "|"]
    for library in sorted({row.library for row in rows}):
        own = [row for row in rows if row.library == library]
        counts = Counter(row.verdict for row in own)
        layers = sum(row.layers for row in own if row.verdict == "passed")
        lines.append(f"| {library} | " + " | ".join(str(counts[v]) for v in verdicts) + f" | {layers} |")
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
    parser.add_argument("--max-parameters", type=float, default=30e6)
    parser.add_argument("--seconds", type=int, default=120, help="limit for one model")
    parser.add_argument("--total-seconds", type=float, default=float("inf"), help="start no model after this time")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args()
    rows, start = [], time.monotonic()
    for library in arguments.library or ("torchvision", "timm"):
        for name, build in zoo(library).items():
            if not fnmatch.fnmatch(name, arguments.match):
                continue
            if time.monotonic() - start > arguments.total_seconds:
                row = Row(library, name, "not run", "no time was left")
            else:
                row = tried(library, name, build, arguments.max_parameters, arguments.seconds)
                print(f"{row.verdict:8} {library} {name} {row.error:.1e} {row.seconds:.1f} s {row.why}", flush=True)
            rows.append(row)
            if arguments.out:
                arguments.out.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    print("\n" + table(rows))
    return 1 if any(row.verdict == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
