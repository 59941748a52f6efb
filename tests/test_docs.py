"""Every snippet of the README and of the documentation's pages does what it says."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from icsbound import __version__, cli
from icsbound.report.studies.panels import CLAIMS, PANELS
from icsbound.study.registry import STUDIES

ROOT = Path(__file__).parents[1]
# The pages of the gallery are made from the examples, which have tests of their own.
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "gallery")]
SNIPPETS = [
    (page.relative_to(ROOT).as_posix(), language, code)
    for page in PAGES
    for language, code in re.findall(
        r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
]
PYTHON = [(page, code) for page, language, code in SNIPPETS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for _, language, code in SNIPPETS
    if language == "sh"
    for line in code.splitlines()
    if line.strip()
]
# The protocol and the tables of results have theirs as indented lines.
INDENTED = [
    shlex.split(line)
    for page in PAGES
    for line in re.findall(r"^ {4}(icsbound .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


# A deprecation inside torch, met where it copies an exported program.
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_python_runs(page: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out, "a snippet shows something"


def test_there_are_snippets() -> None:
    assert len(PYTHON) >= 6
    assert len(COMMANDS) >= 6
    assert {words[1] for words in INDENTED} >= {"sweep", "evaluate", "report"}
    assert {language for _, language, _ in SNIPPETS} <= {"python", "sh"}, "only these are checked here"


def test_the_ten_lines_are_ten() -> None:
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Ten lines\n")
    code = next(code for page, code in PYTHON if page == "README.md")
    assert code in section
    assert sum(bool(line.strip()) for line in code.splitlines()) == 10


@pytest.mark.parametrize("words", [c for c in [*COMMANDS, *INDENTED] if c[0] == "icsbound"], ids=" ".join)
def test_commands_are_understood(words: list[str]) -> None:
    assert isinstance(cli.parser().parse_args(words[1:]), argparse.Namespace)


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] == "torchrun"], ids=" ".join)
def test_launches_are_understood(words: list[str]) -> None:
    launch = get_args_parser().parse_args(words[1:])
    assert (launch.module, launch.training_script) == (True, "icsbound.cli")
    assert isinstance(cli.parser().parse_args(launch.training_script_args), argparse.Namespace)


@pytest.mark.parametrize("words", [c for c in COMMANDS if c[0] == "make"], ids=" ".join)
def test_make_targets_exist(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)


def test_the_page_of_studies_tells_each_with_its_claim_and_figures() -> None:
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(sections) == list(STUDIES) == list(CLAIMS)
    for name, study in STUDIES.items():
        assert f"\n> {CLAIMS[name]}\n" in sections[name]
        assert f"*{study.seeds} seeds, {'trains' if study.trains else 'a simulation'}" in sections[name]
        figures = re.findall(r"\*\*(.*?)\*\*", sections[name])
        assert figures == [panel.title for panel in PANELS if panel.study == name]


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
