"""Argument checks and their wording, shared by every wing.

A message names the argument, says what would be right, and shows the value that was given:
``probe must hold at most 1000 images, got 4096``. The command line turns an `InputError` into one sentence
and exit code 2; anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import torch

# What a cloud may hold. torch has smaller floats, which it stores and does not compute with.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class InputError(ValueError):
    """The caller gave something that cannot be used; the message names it and says what would be right."""


def shown(value: object) -> str:
    """`value` as an error message shows it: a tensor by its shape and dtype, anything else by a short repr."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def fail(argument: str, right: str, value: object, hint: str = "") -> NoReturn:
    """Raise the `InputError` ``{argument} must {right}, got {value}{hint}``."""
    raise InputError(f"{argument} must {right}, got {shown(value)}{hint}")


# What XML, and with it every figure, may hold: no control characters and no halves of surrogate pairs.
_NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_text(value: Any) -> bool:
    """Whether `value` is a text, or holds texts alone as names and among its values, that can be shown anywhere."""
    if isinstance(value, str):
        return _NO_TEXT.search(value) is None
    if isinstance(value, dict):
        return all(is_text(key) and is_text(inner) for key, inner in value.items())
    return all(map(is_text, value)) if isinstance(value, list | tuple) else True


def nearest(name: str, names: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where some name is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_of(argument: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        fail(argument, "be one of " + ", ".join(map(repr, choices)), value, nearest(str(value), choices))
    return value


def positive_int(argument: str, value: Any, least: int = 1) -> int:
    """Return `value` if it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        fail(argument, f"be an integer of at least {least}", value)
    return value


def byte_count(argument: str, text: str) -> int:
    """The number of bytes that `text` says: 800000000, 800M or 0.8G, by thousands."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)B?", text.strip())
    count = int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " ")) if match else 0
    if count < 1:
        fail(argument, "be a number of bytes, such as 800M or 2G", text)
    return count


def real(argument: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a float if it is a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        fail(argument, "be a finite number", value)
    if not low <= value <= high:
        fail(argument, f"lie in [{low:g}, {high:g}]", value)
    return float(value)


def finite_rows(argument: str, value: torch.Tensor) -> torch.Tensor:
    """Return `value` (n rows) if it holds no NaN and no infinity; the message names the first bad row."""
    if bool(torch.isfinite(value.sum())):  # one pass without copies; only a sum that is not finite needs a closer look
        return value
    bad = ~torch.isfinite(value).flatten(1).all(1) if value.ndim > 1 else ~torch.isfinite(value)
    if bool(bad.any()):
        count, first = int(bad.sum()), int(bad.nonzero()[0])
        raise InputError(
            f"{argument} must be finite, got NaN or infinity in {count} of {len(value)} rows (the first is row {first})"
        )
    return value


def cloud(argument: str, value: Any) -> torch.Tensor:
    """Return `value` if it is a non-empty, finite floating-point tensor of shape (n, d)."""
    return finite_rows(argument, _filled(argument, value))


def _filled(argument: str, value: Any) -> torch.Tensor:
    """Return `value` if it is a cloud by all but its numbers, which on some devices cannot be asked."""
    if not isinstance(value, torch.Tensor):
        fail(argument, "be a torch tensor of shape (n, d)", value)
    if value.ndim != 2 or not value.is_floating_point():
        fail(argument, "be a floating-point tensor of shape (n, d)", value, "; flatten further axes first")
    if value.layout is not torch.strided:
        fail(argument, "be dense", value.layout, "; to_dense() makes it so")
    if value.dtype not in FLOATS:
        fail(argument, "have dtype float16, bfloat16, float32 or float64", value)
    if value.shape[0] == 0 or value.shape[1] == 0:
        fail(argument, "have at least one row and one column", value)
    return value


def clouds(a: Any, b: Any) -> None:
    """Raise InputError if `a` and `b` are not two clouds (see `cloud`) of one width on one device."""
    a, b = _filled("a", a), _filled("b", b)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"a and b must have the same number of columns, got {a.shape[1]} and {b.shape[1]}")
    if a.device != b.device:
        raise InputError(f"a and b must be on one device, got {a.device} and {b.device}")
    finite_rows("a", a)
    finite_rows("b", b)
