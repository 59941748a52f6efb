"""Around every attack: a folder outside that must stay as it is, and a mark that must not appear."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that code in a hostile file would create."""
    return tmp_path / "executed"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder for the hostile files themselves."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


@pytest.fixture(autouse=True)
def _nothing_outside(tmp_path: Path, shelf: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is executed, asked of a network, or written anywhere but on the shelf."""
    (tmp_path / "precious").write_text("precious")
    monkeypatch.chdir(tmp_path)

    def forbidden(*arguments: Any, **_: Any) -> NoReturn:
        mark.touch()
        raise AssertionError(f"a hostile file had something done: {arguments!r}")

    monkeypatch.setattr(os, "system", forbidden)
    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    yield
    assert not mark.exists()
    assert (tmp_path / "precious").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "shelf"]
