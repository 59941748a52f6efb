"""The gate's script: what it leaves to be looked at is named however the tests end."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

GATE = Path(__file__).parents[1] / ".ci" / "run"


@pytest.mark.parametrize("code", [0, 3])
def test_it_says_where_the_screenshots_are_and_ends_as_the_tests_did(tmp_path: Path, code: int) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(GATE, tmp_path / ".ci" / "run")
    for name, body in (("make", f"echo tested; exit {code}"), ("id", "echo 1000")):  # no root: nothing to set up
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "run"],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "ICSBOUND_SCREENSHOTS"} | {"PATH": path},
    )
    said = f"pictures of the pages, to be looked at: {tmp_path / 'runs' / 'screenshots'}"
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (code, ["tested", said], "")
