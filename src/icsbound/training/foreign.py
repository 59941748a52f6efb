"""Networks by name from elsewhere: ``timm:NAME``, ``torchvision:NAME``, or ``pkg.module:factory`` of the user's own.

Each may be followed by settings for its builder, as in ``timm:resnet50d:drop_path_rate=0.1``. Nothing is downloaded
unless a setting asks for it (``pretrained=true``, ``weights=DEFAULT``). Initial weights are drawn as the library does,
from the run's seed and before an arm is put in, so that all arms begin at the same.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from icsbound._check import InputError, fail, nearest
from icsbound.training import seeds, spec, weights

LIBRARIES = ("timm", "torchvision")
# How builders call the number of classes, and that of an image's channels.
_CLASSES, _CHANNELS = ("num_classes", "classes"), ("in_chans", "in_channels", "channels")


def split(text: str) -> tuple[str, str, dict[str, Any]] | None:
    """``(library, name, settings)`` of a network from elsewhere, the library "" for a factory; None for any other."""
    base, colon, last = text.rpartition(":")
    named, _, rest = (base if "=" in last else text).partition(":")
    if not rest or not named:
        return None
    settings = spec.split("model", f"{named}:{last}")[1] if colon and "=" in last else {}
    if named in LIBRARIES:
        return named, rest, settings
    return ("", f"{named}:{rest}", settings) if weights.is_import(f"{named}:{rest}") else None


def needs_consent(text: str) -> bool:
    """Whether building this network may run code of the user's own, or fetch something: a factory, a name of the hub,
    or any settings for a library.
    """
    parts = split(text)
    return parts is not None and (parts[0] == "" or bool(parts[2]) or bool({"/", ":"} & set(parts[1])))


def build(text: str, *, classes: int, channels: int, size: int, seed: int = 0) -> nn.Module:
    """The network that `text` names, for (N, channels, size, size) images of `classes` classes, with its batch norms.

    A factory is called with its settings and, where it has parameters of such names, ``num_classes`` or ``classes`` and
    ``in_chans``, ``in_channels`` or ``channels``. The global random state is left as it was. Raises InputError for an
    unknown name (with the nearest), settings that the builder refuses, and a network that returns anything but logits
    (N, classes).
    """
    parts = split(text)
    assert parts is not None
    library, name, settings = parts
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seeds.number(seed, "weights"))
        if library == "timm":
            model = _timm(text, name, {"num_classes": classes, "in_chans": channels, **settings})
        elif library == "torchvision":
            if channels != 3:
                fail("model", f"take images of {channels} channels, and torchvision's take 3", text)
            model = _torchvision(text, name, {"weights": None, "num_classes": classes, **settings})
        else:
            model = _factory(text, name, classes, channels, settings)
        _try(text, model, (channels, size, size), classes)
    return model


def _timm(text: str, name: str, settings: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError:
        raise InputError(f"model {text!r} must have timm, which is not installed; pip install timm") from None
    except (RuntimeError, ImportError) as error:  # it imports torchvision
        raise InputError(f"model {text!r} must have a timm and torchvision that fit this torch: {error}") from None
    # A name with a slash or a colon is one of the hub's, which timm itself looks up.
    if not {"/", ":"} & set(name) and not timm.is_model(name):
        names = timm.list_models()
        fail("model", "be timm: and one of timm.list_models()", text, nearest(name, names))
    model: nn.Module = _called(text, timm.create_model, name, settings)
    return model


def _torchvision(text: str, name: str, settings: dict[str, Any]) -> nn.Module:
    try:
        from torchvision import models
    except ModuleNotFoundError:
        raise InputError(
            f"model {text!r} must have torchvision, which is not installed; pip install torchvision"
        ) from None
    except (RuntimeError, ImportError) as error:
        raise InputError(f"model {text!r} must have a torchvision that fits this torch: {error}") from None
    names = models.list_models(module=models)
    if name not in names:
        fail("model", "be torchvision: and one of torchvision.models.list_models()", text, nearest(name, names))
    model: nn.Module = _called(text, models.get_model, name, settings)
    return model


def _called(text: str, builder: Any, name: str, settings: dict[str, Any]) -> Any:
    try:
        return builder(name, **settings)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"model {text!r} cannot be built: {error}") from None


def _factory(text: str, name: str, classes: int, channels: int, settings: dict[str, Any]) -> nn.Module:
    factory = weights.imported("model", name)
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some that are not written in Python have none
        fail("model", "name a function whose parameters can be read", text)
    parameters = signature.parameters
    told = {n: classes for n in _CLASSES if n in parameters} | {n: channels for n in _CHANNELS if n in parameters}
    try:
        signature.bind(**{**told, **settings})
    except TypeError as error:
        raise InputError(f"model {text!r} cannot be built: {error}") from None
    model = factory(**{**told, **settings})
    if not isinstance(model, nn.Module):
        fail("model", "be a function that returns a torch.nn.Module", model)
    return model


def _try(text: str, model: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    """Run `model` once as training will, on two images, and leave its statistics as they were."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.train()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"model {text!r} must run on images of shape {shape}: {error}") from None
    finally:
        model.train(was_training)
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        right = f"return logits of shape (N, {classes}), one tensor, in training"
        fail(f"model {text!r}", right, logits, "; a setting of its builder may say so")
