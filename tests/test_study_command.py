"""`icsbound study` as a user types it: verdicts, the page, JSON lines, exit codes, going on."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from icsbound import cli
from icsbound._check import InputError
from icsbound.records import PointRecord
from icsbound.study.registry import STUDIES
from icsbound.study.setting import Setting, Study


def run(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


def test_a_study_gives_its_verdict_and_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s"
    assert run("study", "dimension", "--seeds", "0", "1", "--out", out, "--quiet") == 0
    verdict, page = capsys.readouterr().out.splitlines()
    assert verdict.startswith("dimension: ")
    assert "None of 41 predicted points contradicts the prediction" in verdict
    assert page == f"page: {out / 'report.html'}"
    assert "<pre>icsbound study dimension --seeds 0 1</pre>" in (out / "report.html").read_text(encoding="utf-8")

    assert run("report", out) == 0
    assert capsys.readouterr().out == f"page: {out / 'report.html'}\n"
    before = (out / "records.jsonl").read_bytes()
    assert run("study", "--resume", out, "--json", "--quiet") == 0
    said = capsys.readouterr()
    assert len([json.loads(line) for line in said.out.splitlines()]) == 41
    assert said.err == f"page: {out / 'report.html'}\n"
    assert (out / "records.jsonl").read_bytes() == before

    assert run("study", "dimension", "--out", out) == 2
    assert "--out must be a fresh folder" in capsys.readouterr().err
    assert run("study", "dimension", "--seeds", "3", "--out", out, "--force", "--quiet") == 0
    assert json.loads((out / "config.json").read_text())["seeds"] == [3]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "NAME must be all, or any of dimension, noise, "),
        (["all", "noise"], "NAME must be all alone, or names of studies, got 'all noise'"),
        (["nose"], "got 'nose' (did you mean 'noise'?)"),
        (["noise", "--seeds", "1.5"], "invalid int value: '1.5'"),
        (["noise", "--jobs", "0"], "jobs must be an integer of at least 1, got 0"),
        (["shift", "--runs", "nowhere"], "runs must be a folder with finished runs"),
        (["noise", "--resume", "x"], "leave out --studies"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("study", *words, "--quiet") == 2
    said = capsys.readouterr().err
    assert said.startswith(("icsbound study: ", "icsbound: "))
    assert why in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_a_page_of_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = STUDIES["dimension"]

    def stopped(seed: int, setting: Setting) -> Iterator[PointRecord]:
        for number, point in enumerate(whole.points(seed, setting)):
            if (seed, number) == (1, 4):
                signal.raise_signal(signal.SIGINT)
            yield point

    monkeypatch.setitem(STUDIES, "dimension", Study("dimension", stopped, 3))
    assert run("study", "dimension", "--out", tmp_path / "s", "--quiet") == 130
    said = capsys.readouterr().err
    assert f"go on with: icsbound study --resume {tmp_path / 's'}" in said
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert "dimension was interrupted: of 3 seeds, 2 not finished (1 and 2)." in page
    monkeypatch.setitem(STUDIES, "dimension", whole)
    assert run("study", "--resume", tmp_path / "s", "--quiet") == 0
    assert "was interrupted" not in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")


def test_input_that_turns_out_bad_half_way_leaves_a_page_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = STUDIES["dimension"]

    def damaged(seed: int, setting: Setting) -> Iterator[PointRecord]:
        yield next(whole.points(seed, setting))
        raise InputError("model.safetensors is not a file of safetensors")

    monkeypatch.setitem(STUDIES, "dimension", Study("dimension", damaged, 3))
    assert run("study", "dimension", "--out", tmp_path / "s", "--quiet") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[0] == f"page of what was measured so far: {tmp_path / 's' / 'report.html'}"
    assert said[1].endswith("model.safetensors is not a file of safetensors")
    assert "of 3 seeds, 3 not finished" in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
