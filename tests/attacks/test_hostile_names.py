"""Names of runs, arms, layers and settings that are markup, commands or paths."""

import json
from pathlib import Path
from typing import Any

import pytest
from hostile import answered, refused
from test_hostile_texts import LINE, RECORDS, RUN

from icsbound import report
from icsbound._check import InputError
from icsbound.training import arms, compare, models
from icsbound.training.compare import CompareConfig
from icsbound.training.config import TrainConfig

NAMES = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "../../outside",
    "/outside",
    "a/../../../outside",
    "$(touch executed)",
    "javascript:alert(1)",
    "\u202eabc\u2066",
    "=cmd|' /C calc'!A0",
    "x" * 5000,
)


def scripts(page: Path) -> int:
    return page.read_text(encoding="utf-8").lower().count("<script")


def records(name: str) -> str:
    lines = []
    for record in RECORDS.values():
        named: dict[str, Any] = dict(record)
        for key in ("run", "arm", "layer", "dataset", "model", "device", "estimator"):
            if key in named:
                named[key] = name
        lines.append(json.dumps(named))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_stay_text_on_the_page_and_out_of_paths(shelf: Path, name: str) -> None:
    for folder, used in (("plain", "plain"), ("hostile", name)):
        (shelf / folder).mkdir()
        (shelf / folder / "records.jsonl").write_text(records(used))
        report.build(shelf / folder)
    assert scripts(shelf / "hostile" / "report.html") == scripts(shelf / "plain" / "report.html")
    text = (shelf / "hostile" / "report.html").read_text(encoding="utf-8")
    for markup in ("<img src=x", "<svg onload", "<script>alert"):
        assert markup not in text
    kept = {path.relative_to(shelf / "hostile") for path in (shelf / "hostile").rglob("*")}
    assert kept == {path.relative_to(shelf / "plain") for path in (shelf / "plain").rglob("*")}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_stay_text_on_the_page_of_a_table(shelf: Path, name: str) -> None:
    for folder, used in (("plain", "plain"), ("hostile", name)):
        (shelf / folder).mkdir()
        lines = []
        for arm in ("bn", used):
            for seed in range(3):
                line = {**LINE, "seed": seed, "accuracy": 0.5 + 0.01 * seed, "setting": used, "dataset": used}
                config = {"recipe": {"lr": 0.1, used: used}, used: used}
                lines.append(
                    json.dumps({**line, "arm": arm, "model": used, "versions": {used: used}, "config": config})
                )
        (shelf / folder / "results.jsonl").write_text("\n".join(lines) + "\n")
        path = shelf / folder / "results.jsonl"
        page = answered(lambda path=path: report.build_results(path, path.parent))
        assert page is not None
    pages = [next((shelf / folder).glob("*.html")) for folder in ("plain", "hostile")]
    assert scripts(pages[0]) == scripts(pages[1])
    for markup in ("<img src=x", "<svg onload", "<script>alert"):
        assert markup not in pages[1].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_arms_and_models_of_such_names_are_refused_or_kept_in_their_folder(name: str) -> None:
    refused(arms.parse, name)
    refused(TrainConfig, arm=name)
    with pytest.raises(InputError):
        models.network(name, arms.parse("bn"), classes=2, channels=1, size=8)
    # settings may hold any text that the layer takes; folders are named by letters and figures alone
    folder = compare.folder_name(f"unitized:{name}-seed0")
    assert "/" not in folder
    assert "\0" not in folder
    assert Path(folder).name == folder
    answered(lambda: CompareConfig(arms=("bn", f"unitized:alpha_init={name}")).runs())


@pytest.mark.parametrize("name", ["a\0b", "\x1b[2J", "\ud800", "\x08", "\ufffe"], ids=range(5))
def test_what_is_no_text_is_refused(shelf: Path, name: str) -> None:
    """A library that draws figures ends the whole process over some of these."""
    (shelf / "records.jsonl").write_text(records(name))
    assert "must be printable text" in refused(report.build, shelf)
    (shelf / "table.jsonl").write_text(json.dumps({**LINE, "config": {"a": {name: 1}}}) + "\n")
    assert "must be of printable text, got 'config'" in refused(report.build_results, shelf / "table.jsonl", shelf)
    # a config is shown on the page, and is no part of a figure
    (shelf / "records.jsonl").write_text(records("plain"))
    (shelf / "config.json").write_text(json.dumps({"a": name, "arm": name, "seed": 3}))
    report.build(shelf)


def test_the_plain_records_are_read(shelf: Path) -> None:
    """Else nothing above would have met the page."""
    assert json.loads(records("plain").splitlines()[0])["run"] == "plain"
    assert RUN["run"] == "bn-seed0"
