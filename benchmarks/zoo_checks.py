"""What the zoo proof compares: a model before and after conversion, and after the way back. See `zoo`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from icsbound.measure.capture import capture
from icsbound.norm import UnitizedBatchNorm, UnitizedBatchNorm2d, convert, revert, survey

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
    video = name.startswith(("r3d_", "mc3_", "r2plus1d_", "s3d", "mvit_v", "swin3d_"))
    frames = (16,) if video else ()
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


def called(model: nn.Module, x: tuple[Tensor, ...], names: list[str]) -> dict[bool, dict[str, int]]:
    """The named layers that run in a forward pass, by mode, each with the number of samples that it sees."""
    found: dict[bool, dict[str, int]] = {}
    of = {model.get_submodule(name): name for name in names}
    for mode in (False, True):
        seen: dict[str, int] = {}

        def see(layer: nn.Module, inputs: Any, output: Tensor, seen: dict[str, int] = seen) -> None:
            seen[of[layer]] = len(output)

        hooks = [layer.register_forward_hook(see) for layer in of]
        with torch.no_grad():
            model.train(mode)(*x)
        for hook in hooks:
            hook.remove()
        found[mode] = {name: seen[name] for name in names if name in seen}
    return found


def steady(model: nn.Module, x: tuple[Tensor, ...]) -> bool:
    """Whether outputs in evaluation stay what they are, to the tolerance, if all of x is rounded up by one digit."""
    nearby = tuple(t.nextafter(t.new_full((), torch.inf)) for t in x)
    with torch.no_grad():
        pairs = [[y.clone() for y in tensors(model.eval()(*inputs))] for inputs in (x, nearby)]
    return all(
        float((y - z).abs().max()) <= TOLERANCE * float(y.abs().max()) for y, z in zip(*pairs, strict=True) if y.numel()
    )


def settle(model: nn.Module, x: tuple[Tensor, ...]) -> None:
    """Running statistics that are those of x, instead of a tenth of them beside their initial values."""
    layers: list[Any] = [
        m for m in model.modules() if getattr(m, "running_mean", None) is not None and hasattr(m, "momentum")
    ]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        model.train()(*x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


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
    torch.stack([y.square().mean() for y in outputs]).sum().backward()
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
    if not steady(model, x):  # deep networks whose stored statistics do not fit amplify the last digit without bound
        settle(model, x)
        if not steady(model, x):
            raise NotRun("the original's output is decided by rounding")
    wanted, original = behaviour(model, x), classes(model)
    keys = list(model.state_dict())
    probe = x[0] if len(x) == 1 else x
    layers = [n for n, samples in ran[False].items() if samples == BATCH]  # some see windows instead of samples
    captured = capture(model, probe, layers, view="pooled") if layers else {}
    model = convert(model, strict=True)
    row.error = deviation(behaviour(model, x), wanted)
    if captured:
        row.error = max(row.error, deviation(capture(model, probe, layers, view="pooled"), captured))

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


def built_with_layer(build: Any, name: str, row: Row) -> None:
    """Built with our layer as its `norm_layer` the model does what it does with batch norm; NotRun or Failed if not."""

    def built(**settings: Any) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = build(**settings).double()
        return model

    model = built(norm_layer=nn.BatchNorm2d)
    x = example(model, name)
    unitized = built(norm_layer=partial(UnitizedBatchNorm2d, alpha_init=0.0))
    row.layers = sum(isinstance(m, UnitizedBatchNorm2d) for m in unitized.modules())
    row.size, row.parameters = x[0].shape[-1], sum(p.numel() for p in model.parameters())
    if len(survey(unitized).convertible) or not row.layers:
        raise Failed(f"took {row.layers} of our layers and {len(survey(unitized).convertible)} of its own")
    row.error = deviation(behaviour(unitized, x), behaviour(built(norm_layer=nn.BatchNorm2d), x))
