"""Every snippet of the README does what it says."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from icsbound import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for language, code in BLOCKS
    if language == "sh"
    for line in code.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.split("\n")[0])
def test_python_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_there_are_snippets() -> None:
    assert len(PYTHON) >= 2
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] == "icsbound"], ids=" ".join)
def test_commands_are_understood(words: list[str]) -> None:
    assert isinstance(cli.parser().parse_args(words[1:]), argparse.Namespace)


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] == "make"], ids=" ".join)
def test_make_targets_exist(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
