"""`icsbound measure` as a user types it: the table, the page, JSON lines, exit codes, going on."""

import json
import re
from pathlib import Path

import pytest

from icsbound import cli, records
from icsbound.training import checkpoint, models, weights

QUICK = ["--probe", "24", "--view", "pooled", "--jobs", "1", "--quiet"]
NAMED = ["--model", "resnet8:width=2", "--data", "digits"]


def run(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two networks that differ in one layer alone."""
    folder = tmp_path_factory.mktemp("files")
    state = models.build("resnet8:width=2", classes=10, channels=1, norm=_norm).state_dict()
    checkpoint.write_model(folder / "base.safetensors", state)
    checkpoint.write_model(folder / "tuned.safetensors", {**state, "norm.weight": 2 * state["norm.weight"]})
    return folder / "base.safetensors", folder / "tuned.safetensors"


def _norm(channels: int) -> object:
    from torch import nn

    return nn.BatchNorm2d(channels)


@pytest.fixture(scope="module")
def measured(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured") / "m"
    assert run("measure", *files, *NAMED, *QUICK, "--out", out) == 0
    return out


def test_the_table_says_which_layer_moved(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("measure", "--resume", measured, "--quiet") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "tuned.safetensors against base.safetensors, n = 24"
    columns = ["layer", "view", "d", "EM", "in spreads", "floor", "W1 at least", "p", "verdict"]
    assert re.split(r"\s{2,}", said[1]) == columns
    verdicts = {line.split()[0]: re.split(r"\s{2,}", line)[-1] for line in said[2:-1]}
    assert verdicts.pop("norm") == "moved"
    assert set(verdicts.values()) == {"below the floor"}
    assert len(verdicts) == 6
    assert said[-1] == f"page: {measured / 'report.html'}"


def test_the_page_says_it_too(measured: Path) -> None:
    page = (measured / "report.html").read_text(encoding="utf-8")
    tally = "of 7 distances, 1 moved and 6 below the floor."
    assert f"tuned.safetensors against base.safetensors, pooled view: {tally}" in page
    assert "Furthest moved norm, by " in page
    assert "at most 5 % are expected to be false" in page
    assert "Verdicts by layer" in page


def test_json_is_one_object_a_distance(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("measure", "--resume", measured, "--quiet", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 7
    last = next(row for row in rows if row["layer"] == "norm")
    assert last["verdict"] == "moved"
    assert last["bound"] <= last["value"] <= last["paired"]
    assert last["spreads"] == pytest.approx(last["value"] / last["spread"])
    assert {"floor", "error", "disjoint", "p", "rate", "n", "d", "step_a", "step_b"} <= last.keys()


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [(["moved"], 3), (["below the floor"], 3), (["not resolved"], 0), (["not resolved", "moved"], 3), ([], 0)],
)
def test_fail_on(measured: Path, capsys: pytest.CaptureFixture[str], verdicts: list[str], code: int) -> None:
    flags = [word for verdict in verdicts for word in ("--fail-on", verdict)]
    assert run("measure", "--resume", measured, "--quiet", *flags) == code
    said = capsys.readouterr().err
    if code:
        pair = r"tuned\.safetensors against base\.safetensors"
        assert re.match(rf"icsbound measure: layer \S+, pooled view, {pair}: (moved|below)", said)
    else:
        assert said == ""


def test_smallest_says_what_counts(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last layer's scale is doubled: it moved by some spreads, which is more than a half and less than twenty."""
    out = tmp_path / "m"
    for smallest, code in (("0.5", 3), ("20", 0)):
        flags = ["--layers", "norm", "--smallest", smallest, "--fail-on", "moved", "--out", out, "--force"]
        assert run("measure", *files, *NAMED, *QUICK, *flags) == code
        said = capsys.readouterr()
        assert ("moved by more than 0.5 spreads (p" in said.err) == bool(code)
        assert said.out.splitlines()[2].endswith("  moved" if code else "  below the floor")
        page = (out / "report.html").read_text(encoding="utf-8")
        assert re.search(
            f"exceeds {smallest}(.0)? times the layer.{{1,6}}s spread, the smallest shift that counts", page
        )
        assert f"--smallest {float(smallest)}" in page
    assert run("measure", "--resume", out, "--quiet", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["smallest"], row["verdict"]) == (20.0, "below the floor")
    assert run("measure", *files, *NAMED, *QUICK, "--smallest", "-1", "--out", tmp_path / "none") == 2
    assert "smallest must lie in [0, inf], got -1.0" in capsys.readouterr().err


def test_outputs_in_files_give_the_same_numbers(
    files: tuple[Path, Path], measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    flags = ["--memory", "0.2k", "--spill", spill, "--dtype", "float32"]
    assert run("measure", *files, *NAMED, *QUICK, *flags, "--out", tmp_path / "m") == 0
    assert list(spill.iterdir()) == []
    kept, plain = (
        [records.without_clock(r) for r in records.read(out / "records.jsonl")] for out in (tmp_path / "m", measured)
    )
    assert kept == plain
    assert "--dtype float32" in (tmp_path / "m" / "report.html").read_text(encoding="utf-8")
    assert run("measure", "--resume", tmp_path / "m", "--quiet", *flags[:4]) == 0
    for words, message in (
        (["--memory", "1k"], "memory must be at least 2880 bytes for 7 clouds of 24 inputs (the largest, of layer "),
        (["--memory", "lots"], "--memory must be a number of bytes, such as 800M or 2G, got 'lots'"),
        (["--spill", tmp_path / "none"], "spill must be an existing folder, got "),
        (["--dtype", "half"], "dtype must be one of 'float16', 'bfloat16', 'float32', 'float64', got 'half'"),
    ):
        capsys.readouterr()
        assert run("measure", *files, *NAMED, *QUICK, *words, "--out", tmp_path / "none") == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not (tmp_path / "none").exists()


def test_a_training_is_measured_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [
        "--model",
        "resnet8:width=2",
        "--epochs",
        2,
        "--batch-size",
        1000,
        "--threads",
        1,
        "--quiet",
    ]
    assert run("train", "--arm", "bn", *small, "--no-monitor", "--snapshots", 1, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    assert run("measure", tmp_path / "run", *QUICK, "--out", tmp_path / "m") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in said[1:-1]] == ["2"] * 7  # pairs: untrained, and after each epoch
    shifts = [r for r in records.read(tmp_path / "m" / "records.jsonl") if isinstance(r, records.ShiftRecord)]
    assert {(r.step_a, r.step_b) for r in shifts} == {(0, 4), (4, 8)}


def test_an_interrupted_measurement_shows_what_it_has(measured: Path, tmp_path: Path) -> None:
    for name in ("config.json", "records.jsonl"):
        (tmp_path / name).write_bytes((measured / name).read_bytes())
    kept = [line for line in (tmp_path / "records.jsonl").read_text().splitlines() if '"kind": "verdict"' not in line]
    (tmp_path / "records.jsonl").write_text("\n".join(kept) + "\n")
    assert run("report", tmp_path) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "7 distances have no verdict yet: the measurement was interrupted before its end." in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("measure", "checkpoints must be one or two files or runs, got ()"),
        (
            "measure a.pt b.pt --data digits --model resnet8",
            "a checkpoint must be a file of weights or the folder",
        ),
        ("measure a.pt b.pt c.pt --data digits --model resnet8", "checkpoints must be one or two files or runs"),
        ("measure a.pt b.pt --fail-on unknown", "argument --fail-on: invalid choice: 'unknown'"),
        ("measure --resume nowhere", "nowhere must be the folder of a run, and holds no config.json"),
        ("measure --resume nowhere --probe 64", "nowhere/config.json: leave out --probe"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words.split(), "--quiet") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert message in said
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_only_by_what_can_be_measured(
    files: tuple[Path, Path], measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    assert run("measure", *files, *NAMED, *QUICK, "--out", out) == 0
    assert run("measure", *files, *NAMED, *QUICK, "--out", out) == 2
    assert "--out must be a fresh folder" in capsys.readouterr().err
    before = (out / "records.jsonl").read_bytes()
    assert run("measure", *files, *NAMED, *QUICK, "--arm", "unitized", "--out", out, "--force") == 2
    assert (out / "records.jsonl").read_bytes() == before
    assert run("measure", *files, *NAMED, *QUICK, "--layers", "norm", "--out", out, "--force") == 0
    # Two states of one layer, transport, distance, shift, verdict.
    assert len(records.read(out / "records.jsonl")) == 6


def test_the_weights_differ_where_the_fixture_says(files: tuple[Path, Path]) -> None:
    a, b = (weights.read(path) for path in files)
    assert [name for name in a if not (a[name] == b[name]).all()] == ["norm.weight"]
