"""Files that are whole or not there: atomic writes, and checkpoints that load without running code.

A file is written beside its place, forced to the disk and renamed over it; a process killed at any moment leaves the
old file or the new one. Checkpoints carry a SHA-256 of their content, and loading one runs no pickle code
(``weights_only=True``).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from icsbound._check import InputError

_NAME = re.compile(r"step-(\d{9})\.pt")
_DIGEST = hashlib.sha256().digest_size


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path` atomically and durably."""
    part = path.with_name(f".{path.name}.part")  # one name, so that what a killed process left is written over
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def _sync_folder(folder: Path) -> None:
    # A rename is durable once the folder is; some file systems and systems refuse to sync a folder, and then do it
    # themselves.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `state` as the checkpoint of `step` into `folder`, then delete all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:09d}.pt"
    write(path, hashlib.sha256(content).digest() + content)
    for old in paths(folder)[keep:]:
        old.unlink(missing_ok=True)
    _sweep(folder)
    return path


def _sweep(folder: Path) -> None:
    for part in folder.glob(".*.part"):  # left by a process that was killed while writing
        part.unlink(missing_ok=True)


def write_model(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write a model's `state` as safetensors: the same bytes for the same tensors, whatever else differs."""
    import safetensors.torch

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write(path, safetensors.torch.save(tensors, {"format": "pt"}))


def clear(folder: Path) -> None:
    """Delete the checkpoints in `folder` and the folder, if nothing else is in it."""
    for path in paths(folder):
        path.unlink(missing_ok=True)
    _sweep(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def paths(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    return sorted((p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)), reverse=True)


def load(path: Path) -> dict[str, Any]:
    """The state in the checkpoint at `path`. Raises InputError where the file is damaged or holds more than plain
    values and tensors.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    digest, content = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise InputError(f"{path} is damaged: its content does not match its checksum")
    try:
        state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a hostile file makes it meet
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint of icsbound: {first}") from None
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a checkpoint of icsbound: it holds a {type(state).__name__}")
    return state


def newest(folder: Path) -> Iterator[tuple[Path, dict[str, Any] | InputError]]:
    """The checkpoints in `folder`, newest first, each as its state or as what is wrong with it."""
    for path in paths(folder):
        try:
            yield path, load(path)
        except InputError as error:
            yield path, error
