"""Values of the recipe and settings of the layer for each arm, from one readable file.

    [unitized]                    # an arm, as --arms names it; with or without its own settings
    lr = 0.2
    weight_decay = 1e-4
    alpha_lr_factor = 10

    [unitized.settings]           # of the layer
    alpha_init = 0.3

A section holds any field of `Recipe` but its name, `epochs` and `batch_size`, which are those of the whole comparison.
An arm without a section is trained by the recipe as it is.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from icsbound._check import InputError, fail, nearest
from icsbound.training import arms, checkpoint, spec
from icsbound.training.recipes import Recipe

Changes = Mapping[str, Mapping[str, Any]]  # arm -> field of the recipe -> value

FIELDS = tuple(f.name for f in dataclasses.fields(Recipe) if f.name not in ("name", "epochs", "batch_size"))
SETTINGS = "settings"


def read(path: str | Path) -> dict[str, dict[str, Any]]:
    """The sections of the TOML file at `path`, each checked.

    Raises InputError naming the file, the section and what in it is wrong.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        fail("arms_file", "be a TOML file that can be read", str(path), f": {error}")
    try:
        found: dict[str, dict[str, Any]] = _toml().loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} must be TOML: {str(error) or type(error).__name__}") from None
    for arm, section in found.items():
        try:
            _check(arm, section)
        except InputError as error:
            raise InputError(f"{path}, section {arm!r}: {error}") from None
    return found


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        import tomli
    except ModuleNotFoundError:
        raise InputError("an arms file must be read by tomli on Python 3.10; pip install 'icsbound[train]'") from None
    return tomli


def _check(arm: str, section: Any) -> None:
    if not isinstance(section, dict):
        fail("a section", "be a table of values", section)
    settings = section.get(SETTINGS, {})
    if not isinstance(settings, dict):
        fail(SETTINGS, "be a table of the layer's settings", settings)
    arms.parse(with_settings(arm, settings))
    changed(
        Recipe(name="any", epochs=1, batch_size=1 << 30, lr=1.0), {k: v for k, v in section.items() if k != SETTINGS}
    )


def with_settings(arm: str, settings: Mapping[str, Any]) -> str:
    """The text of `arm` with `settings` added to its own."""
    name, own = spec.split("arm", arm)
    return spec.text(name, {**own, **settings})


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """`recipe` with the values that belong to one arm."""
    for key in changes:
        if key not in FIELDS:
            fail("a value of an arm", "be settings, or one of " + ", ".join(FIELDS), key, nearest(key, FIELDS))
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    try:
        return dataclasses.replace(recipe, **values)
    except TypeError as error:
        raise InputError(f"a value of an arm must be of its type: {error}") from None


def resolved(names: Iterable[str], sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each arm of `names`, with the settings of its section in its text -> what its recipe has of its own.

    The section is that of the very text, or else of the arm's name alone.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in names:
        section = sections.get(text, sections.get(spec.split("arm", text)[0], {}))
        arm = with_settings(text, section[SETTINGS]) if SETTINGS in section else text
        if arm in found:
            fail("arms", "name at least one, each once", arm)
        found[arm] = {key: value for key, value in section.items() if key != SETTINGS}
    return found


def values_of(changes: Changes) -> tuple[str, ...]:
    """The fields of the recipe that some arm has for itself, sorted."""
    return tuple(sorted({key for own in changes.values() for key in own if key != SETTINGS}))


def checked(changes: Any) -> Changes:
    """`changes`, read from a config, if they have the form of such. Their values are checked where they are used."""
    if not isinstance(changes, dict) or not all(isinstance(own, dict) for own in changes.values()):
        fail("by_arm", "be an object of arms and what is their own", changes)
    made: Changes = changes
    return made


def plain(changes: Changes) -> dict[str, dict[str, Any]]:
    """`changes` as plain values of JSON."""
    return {arm: {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()} for arm, own in changes.items()}


def keep(folder: Path, changes: Changes) -> None:
    """Write ``arms.toml`` into `folder`, to be given again, if any arm has values of its own."""
    if values_of(changes):
        lines = [line for arm, own in changes.items() for line in ("", f"[{_quoted(arm)}]", *_values(own))]
        checkpoint.write(folder / "arms.toml", ("\n".join(lines).lstrip() + "\n").encode())


def _values(own: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in own.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    return f"[{', '.join(map(_value, value))}]" if isinstance(value, list | tuple) else repr(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
