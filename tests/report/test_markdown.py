"""The page as text for a repository."""

import re
from pathlib import Path

import pytest
import recorded

from icsbound import cli, report
from icsbound.report import html, markdown
from icsbound.report.finding import Finding, Group


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded.comparison(tmp_path_factory.mktemp("compare"), arms=("bn", "unitized"))


def test_says_what_the_page_says(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(folder), "--markdown", "--out", str(tmp_path / "text")]) == 0
    path = tmp_path / "text" / "report.md"
    assert capsys.readouterr().out == f"page: {path}\n"
    text, page = path.read_text(encoding="utf-8"), html.made(folder)
    found = [finding for group in page.groups for finding in group.findings]
    assert len(found) > 5
    for finding in found:
        assert f"- {finding.text}" in text
        assert not finding.verdict or f"**{finding.verdict}**" in text
    shown = [table for table in page.tables if not table.folded]
    assert [line[4:] for line in text.splitlines() if line.startswith("### ")] == [table.title for table in shown]
    for table in shown:
        head = text.index("| " + " | ".join(table.columns) + " |")
        assert text[head:].split("\n\n")[0].count("\n") == 1 + len(table.rows)
    assert page.command in text
    assert sorted(p.name for p in path.parent.iterdir()) == ["figures", "report.md"]
    drawn = re.findall(r"^!\[.*\]\(figures/(.+)\.svg\)$", text, re.MULTILINE)
    assert drawn == [figure.name for key in page.sections for figure in page.figures if figure.section == key]
    assert sorted(p.name for p in (path.parent / "figures").iterdir()) == sorted(f"{name}.svg" for name in drawn)
    # a figure with menus says which of their entries it is drawn for, and no other says it
    menus = {figure.name: len(figure.chosen()) for key in page.sections for figure in page.figures}
    assert (menus["shift-brackets"], menus["shift-ratios"], menus["accuracy"]) == (2, 1, 0)
    notes = dict(zip(drawn, re.findall(r"^!\[.*\n\n\*.*?((?: Drawn here: .*)?)$", text, re.MULTILINE), strict=True))
    assert {name: bool(note) for name, note in notes.items()} == {name: count > 0 for name, count in menus.items()}
    assert notes["shift-brackets"] == " Drawn here: arm bn and view pooled; the page has menus for the others."
    assert notes["shift-ratios"] == " Drawn here: view pooled; the page has a menu for the others."


def test_the_command_names_no_folder_of_one_machine() -> None:
    given = "icsbound compare --data cifar10 --data-dir '/of one/machine' --model resnet8"
    assert markdown.anywhere(given) == "icsbound compare --data cifar10 --data-dir DIR --model resnet8"
    assert markdown.anywhere("icsbound train --arm bn") == "icsbound train --arm bn"


def test_the_same_records_give_the_same_text(folder: Path, tmp_path: Path) -> None:
    one, other = (report.build(folder, tmp_path / name, markdown=True) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    figures = [sorted((path.parent / "figures").iterdir()) for path in (one, other)]
    for a, b in zip(*figures, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_a_page_may_be_written_elsewhere(folder: Path, tmp_path: Path) -> None:
    assert report.build(folder, tmp_path / "page") == tmp_path / "page" / "report.html"
    assert (tmp_path / "page" / "figures" / "accuracy.png").is_file()


def test_names_cannot_leave_their_place() -> None:
    group = Group("A <b>\n# title", "", [Finding("one | two\n\n<script>", "holds", "of\nn")])
    assert markdown.findings(group) == ["## A &lt;b> # title", "", "- one \\| two &lt;script> **holds** of n"]
    assert markdown.table([("a", "b"), ("x|y", "1\n2")]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 2 |"
