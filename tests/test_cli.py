"""Commands as a user types them: what they leave, what they print, how they refuse."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icsbound import cli, records

# The smallest training there is: two narrow networks, one pass in large batches, two captures of a small probe.
SMALL = ["--model", "resnet8:width=4", "--epochs", "1", "--batch-size", "500"]
TINY = [*SMALL, "--probe", "16", "--captures", "2"]
QUICK = [*TINY, "--threads", "1", "--quiet"]
BARE = [*SMALL, "--threads", "1", "--quiet"]


def run(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "compared"
    assert run("compare", "--arms", "bn", "unitized", "--seeds", 0, 1, "--jobs", 1, *QUICK, "--out", out) == 0
    return out


def test_compare_leaves_a_page_and_the_records_it_was_made_from(compared: Path) -> None:
    assert {p.name for p in compared.iterdir()} >= {"config.json", "report.html", "bn-seed0", "unitized-seed1"}
    read = records.read(compared / "unitized-seed1" / "records.jsonl")
    assert [r.kind for r in (read[0], read[-1])] == ["run", "result"]
    layers = {r.layer for r in read if isinstance(r, records.DistanceRecord)}
    assert len(layers) == 7  # two in each of three blocks, one at the end
    assert {r.view for r in read if isinstance(r, records.DistanceRecord)} == {"pooled", "sample"}


def test_a_finished_comparison_is_left_as_it_is(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in compared.rglob("*.jsonl")}
    assert run("compare", "--resume", compared, "--quiet", "--jobs", 1, "--json") == 0
    assert {p: p.read_bytes() for p in compared.rglob("*.jsonl")} == before
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["arm"], row["seeds"]) for row in rows] == [("bn", 2), ("unitized", 2)]
    assert rows[1]["difference"]["seeds"] == 2


def test_report_makes_the_same_page_again(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (compared / "report.html").read_bytes()
    (compared / "report.html").unlink()
    assert run("report", compared) == 0
    assert str(compared / "report.html") in capsys.readouterr().out
    assert (compared / "report.html").read_bytes() == page


def test_a_taken_folder_is_refused_and_force_replaces_a_run_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    alone = ["--arm", "bn", "--no-monitor", "--no-picture", *BARE]
    assert run("train", *alone, "--out", out) == 0
    assert run("train", "--arm", "bn", *QUICK, "--out", out) == 2
    assert re.search(r"--out must be a fresh folder, got '.*run'; --force replaces", capsys.readouterr().err)
    (out / "old.txt").write_text("x")
    assert run("train", *QUICK, "--batch-size", 1, "--out", out, "--force") == 2
    for wrong in (("--tracker", "nothing"), ("--checkpoint-every", 0), ("--snapshots", "x")):
        assert run("train", *QUICK, *wrong, "--out", out, "--force") == 2
    for wrong in (("--jobs", 0), ("--arms", "bn", "gn:group_size=3")):
        assert run("compare", *QUICK, *wrong, "--out", out, "--force") == 2
    assert (out / "old.txt").exists()  # a run that cannot be trained replaces nothing
    capsys.readouterr()
    assert run("train", *alone, "--arm", "unitized", "--out", out, "--force") == 0
    assert not (out / "old.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert run("train", *QUICK, "--out", tmp_path / "mine", "--force") == 2
    assert "--out must hold a run to be replaced by --force" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "compare --arms bn unitised",
            "arm must be one of bn, published, .* got 'unitised' (did you mean 'unitized'?)",
        ),
        ("train --arm unitized:alfa_init=0", "alpha_init', .*|'alfa_init' (did you mean 'alpha_init'?)"),
        ("train --data mnist", "data must be one of .* got 'mnist'"),
        ("train --data cifar10 --data-dir no", "data_dir must be the folder with the parquet files of cifar10, got"),
        ("train --data cifar10 --data-dir nowhere", "nowhere"),
        (
            "train --batch-size 1",
            "batch_size must be at least 2, since batch statistics of one image do not exist, got 1",
        ),
        ("compare --probe 5000", "probe must be at most the 1000 images of the test part, got 5000"),
        (
            "train --no-monitor --picture norm",
            "--picture must be left out with --no-monitor: without a monitor no layer is measured, got 'norm'",
        ),
        ("train --no-monitor --every 5", "--every must be left out with --no-monitor: without a monitor no layer is"),
        (
            "sweep --arms bn --seeds 0 --probe 64",
            "--probe must come with --monitor: without a monitor no layer is measured, got 64",
        ),
        ("train --device cuda", "device must be one that torch can use here"),
        ("train --epochs 0", "epochs must be at least 1 where no weights are given to begin, and end, at, got 0"),
        ("train --seed one", "argument --seed: invalid int value: 'one'"),
        ("compare --seeds 1 1", "seeds must name at least one, each once, got (1, 1)"),
        ("report nowhere", "PATH must be the folder of a run or a file of results, got 'nowhere'"),
        ("train --resume nowhere", "nowhere must be the folder of a run, and holds no config.json"),
        ("measures", "invalid choice: 'measures'"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [] if words.startswith(("report", "measures")) or "--resume" in words else ["--quiet", "--out", "out"]
    assert run(*words.split(), *flags) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert any(
        re.search(part.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?"), said) for part in message.split("|")
    ), said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("train", *QUICK, "--out", tmp_path / "file" / "run") == 2
    assert re.search(r"out must be a folder that can be written, got '.*run'", capsys.readouterr().err)


def test_resume_takes_its_choices_from_the_run(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "--resume", compared, "--lr", 0.5) == 2
    assert "config.json: leave out --lr" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    said = capsys.readouterr().out
    assert "native library: " in said
    assert run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["extras"]["emd"]["POT"]
    backend = found["layer_backend"]
    assert backend["name"] == ("native" if found["native_library"] else "aten")
    assert backend["why"]
    assert f"layer on the CPU: {backend['name']} ({backend['why']})\n" in said


def test_ctrl_c_keeps_what_was_measured_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [
        "compare",
        "--arms",
        "bn",
        "unitized",
        "--seeds",
        "0",
        *TINY,
        "--batch-size",
        "16",
        "--quiet",
        "--out",
        out,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "icsbound.cli", *map(str, words)], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    records_of_first = out / "bn-seed0" / "records.jsonl"
    end = time.monotonic() + 120
    while not (records_of_first.exists() and records_of_first.stat().st_size) and time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)  # polls another process; no assertion depends on the length
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert f"go on with: icsbound compare --resume {out}" in said
    assert "page of what was measured so far" in said
    assert "Traceback" not in said
    assert "did not finish" in (out / "report.html").read_text(encoding="utf-8")
    assert run("compare", "--resume", out, "--quiet") == 0
    assert isinstance(records.read(records_of_first)[-1], records.ResultRecord)
