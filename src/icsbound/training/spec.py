"""The grammar ``name:key=value,key=value`` in which arms and models are named on the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from icsbound._check import InputError

_WORDS = {"none": None, "true": True, "false": False}


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the latter for what is nested deeply
        return text


def split(argument: str, text: str) -> tuple[str, dict[str, Any]]:
    """``"unitized:alpha_init=0.3,scope=position"`` as ``("unitized", {"alpha_init": 0.3, "scope": "position"})``.

    A value is a number, true, false, none, a tuple in parentheses, or a word. `argument` names the input in messages.
    """
    name, colon, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for item in re.split(r",(?![^(]*\))", rest) if colon else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not key or not equals or not value:
            raise InputError(f"{argument} must read name or name:key=value,key=value, got {text!r}")
        if key in settings:
            raise InputError(f"{argument} must set each key once, got {key!r} twice in {text!r}")
        settings[key] = _value(value)
    return name.strip(), settings


def text(name: str, settings: Mapping[str, Any]) -> str:
    """The text that `split` reads as `name` and `settings`."""
    return name + (":" + ",".join(f"{key}={_said(value)}" for key, value in settings.items()) if settings else "")


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_said, value))}{',' if len(value) == 1 else ''})"
    word = next((word for word, meaning in _WORDS.items() if value is meaning), None)
    return word or str(value)
