"""The table of results: a line of JSON for each run and evaluation, appended once and never changed.

`training` writes it, `report` reads it. The same folder may be shared by several processes and, over a file system
that keeps advisory locks (POSIX `flock`), by several machines: a line is written whole, under a lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icsbound._check import InputError, fail, is_text, one_of, positive_int, real

PHASES = ("explore", "confirm")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One accuracy and all that it depends on.

    `setting` names the experiment; `phase` is "explore" while anything is still chosen by it and "confirm" after.
    `shift` is "none" or the corruption of the input, with `severity` 1...5 (0 for none); `perturbation` what was done
    to the weights and `remedy` what was done against either after training, "none" if nothing. `eval_batch` is how
    many images normalize each other, 0 for stored statistics. `accuracy` is a fraction, over so many `images` (None in
    tables of before it was written).
    """

    setting: str
    phase: str
    dataset: str
    model: str
    arm: str
    seed: int
    batch_size: int
    epochs: int
    split: str
    shift: str = "none"
    severity: int = 0
    eval_batch: int = 0
    perturbation: str = "none"
    remedy: str = "none"
    accuracy: float
    images: int | None = None
    seconds: float
    device: str
    versions: dict[str, str]
    config: dict[str, Any]

    def __post_init__(self) -> None:
        one_of("phase", self.phase, PHASES)
        one_of("split", self.split, ("test", "validation"))
        real("accuracy", self.accuracy, 0.0, 1.0)
        if self.images is not None:
            positive_int("images", self.images)

    @property
    def key(self) -> str:
        """What the accuracy was measured of, without the accuracy, its images and what depends on the machine: the same
        for the same measurement.
        """
        values = dataclasses.asdict(self)
        for name in ("accuracy", "images", "seconds", "device", "versions"):
            del values[name]
        return json.dumps(values, sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """This line as plain values of JSON, without `images` where they are not known."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def choices(config: dict[str, Any]) -> dict[str, Any]:
    """What of a run's `config`, as its config.json has it, changes numbers, and so stands in its line: not where files
    lie, who decodes them and how the layers were watched.
    """
    found = {name: value for name, value in config.items() if name not in ("data_dir", "monitor", "workers")}
    if isinstance(start := found.get("pretrained"), dict):
        found["pretrained"] = {name: value for name, value in start.items() if name != "file"}
    return found


def append(path: Path, line: Line, *, once: bool = False) -> None:
    """Write `line` at the end of the file at `path`, whole and at once, also where several processes write to it.

    With `once` nothing is written where the file holds the line's measurement already. Raises InputError where the file
    cannot be written.
    """
    content = (json.dumps(line.to_dict(), allow_nan=False, ensure_ascii=False) + "\n").encode()
    try:
        with open(path, "ab+", buffering=0) as file, _locked(file):
            if once and any(known.key == line.key for known in read(path)):
                return
            # A line that a killed process left half written stays, closed off, and `read` passes over it.
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                content = b"\n" + content
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; the same command goes on from what is finished"
        ) from None


@contextlib.contextmanager
def _locked(file: Any) -> Any:
    try:
        import fcntl
    except ImportError:
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def read(path: Path) -> list[Line]:
    """The lines of the file at `path`, none where there is no file. A line cut short is left out, with a warning."""
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    found = []
    for number, text in enumerate(content.split(b"\n"), 1):
        if not text:
            continue
        try:
            values = json.loads(text)
        except RecursionError:
            raise InputError(f"{path}: line {number} is no line of results: it is nested too deeply") from None
        except ValueError:
            warnings.warn(f"{path}: line {number} was cut off and is left out", stacklevel=2)
            continue
        try:
            found.append(Line(**_checked(values)))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: line {number} is no line of results: {error}") from None
    return found


_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "int | None": (int, type(None)),
    "float": (int, float),
    "dict[str, str]": dict,
    "dict[str, Any]": dict,
}


def _checked(values: Any) -> dict[str, Any]:
    """`values`, one decoded line, if its fields have their types: a table may come from elsewhere."""
    if not isinstance(values, dict):
        fail("a line", "be an object of names and values", values)
    if not is_text(values):
        fail(
            "a line", "be of printable text", next(name for name, value in values.items() if not is_text({name: value}))
        )
    for field in dataclasses.fields(Line):
        value, kind = values.get(field.name), str(field.type)
        if field.name in values and (isinstance(value, bool) or not isinstance(value, _TYPES[kind])):
            fail(field.name, f"be {kind}", value)
    if not all(isinstance(version, str) for version in values.get("versions", {}).values()):
        fail("versions", "be texts", values["versions"])
    for name in ("seed", "batch_size", "epochs", "severity", "eval_batch", "images"):
        if not -(2**63) <= (values.get(name) or 0) < 2**63:
            fail(name, "lie within 64 bits", values[name])
    real("seconds", values.get("seconds", 0.0))
    return values
