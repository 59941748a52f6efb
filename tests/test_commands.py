"""`sweep` and `evaluate` as a user types them."""

import json
from pathlib import Path

import pytest

from icsbound import cli, flags
from icsbound.training import results

TINY = ["--model", "resnet8:width=1", "--epochs", "1", "--threads", "1", "--quiet"]


def run(*words: str | Path | int) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("commands") / "swept"
    arms = ("--arms", "bn", "gn", "--seeds", 0, 1, "--batch-sizes", 1000)
    options = ("--jobs", 1, "--snapshots", 1, "--setting", "tiny")
    for job in ("1/2", "2/2"):
        assert run("sweep", *arms, *TINY, *options, "--shard", job, "--out", out) == 0
    return out


def test_the_jobs_of_an_array_fill_one_table(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = results.read(swept / "results.jsonl")
    assert {(one.arm, one.seed, one.batch_size, one.setting) for one in table} == {
        (arm, seed, 1000, "tiny") for arm in ("bn", "gn") for seed in (0, 1)
    }
    assert table[0].config["recipe"]["lr"] == pytest.approx(0.1 * 1000 / 32)
    assert len(list(swept.glob("*/snapshots/step-*.safetensors"))) == 4  # one epoch of four runs
    assert run("sweep", "--resume", swept, "--jobs", 1, "--quiet") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("bn: ")
    assert printed[1].startswith("gn: ")
    assert " to bn (95 %: " in printed[1]
    assert printed[-2] == f"table: {swept / 'results.jsonl'}"
    assert printed[-1] == f"page: {swept / 'report.html'}"
    assert "gn reaches" in (swept / "report.html").read_text()
    assert (swept / "figures" / "tiny-differences.svg").is_file()
    before = (swept / "report.html").read_bytes()
    assert run("report", swept) == 0
    assert (swept / "report.html").read_bytes() == before
    assert len(results.read(swept / "results.jsonl")) == 4


def test_a_file_of_results_has_a_page_and_a_text(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kept.jsonl"
    file.write_bytes((swept / "results.jsonl").read_bytes())
    assert run("report", file, "--out", tmp_path / "docs", "--markdown") == 0
    assert capsys.readouterr().out == f"page: {tmp_path / 'docs' / 'results.md'}\n"
    assert sorted(p.name for p in (tmp_path / "docs").iterdir()) == ["figures", "results.md"]
    assert run("report", file) == 0
    assert (tmp_path / "report.html").is_file()
    assert run("report", swept / "bn-batch1000-seed0", "--claims", file) == 2
    assert "--claims must go with a table of results, got '" in capsys.readouterr().err
    assert run("report", tmp_path / "nowhere") == 2
    assert "PATH must be the folder of a run or a file of results, got '" in capsys.readouterr().err


def test_force_replaces_a_table_only_by_what_can_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "results.jsonl").write_text("")
    sweep = ("sweep", "--arms", "bn", "--seeds", 0, *TINY, "--out", tmp_path, "--force")
    assert run(*sweep, "--batch-sizes", 1) == 2
    assert "batch_size must be at least 2" in capsys.readouterr().err
    assert run(*sweep, "--batch-sizes", 1000, 1) == 2
    assert run(*sweep, "--batch-sizes", 1000, "--jobs", 0) == 2
    assert run(*sweep, "--batch-sizes", 1000, "--jobs", 2, "--launcher", "ray") == 2
    assert (tmp_path / "results.jsonl").exists()


def test_evaluate_takes_runs_or_folders_of_runs(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--threads", 1, "--quiet", "--out", tmp_path, "--json")
    assert run("evaluate", swept, "--shift", "none", "contrast:5", *common) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 8
    assert {(one["shift"], one["severity"]) for one in lines} == {("none", 0), ("contrast", 5)}
    first = swept / "bn-batch1000-seed0"
    assert run("evaluate", first, "--perturb", "prune:0.5", "--recalibrate", 100, *common) == 0
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["perturbation"], line["remedy"]) == ("prune:0.5", "recalibrate:100")
    assert len(results.read(tmp_path / "results.jsonl")) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--arms", "bn"], "icsbound sweep: --arms and --seeds must be given, got ['bn']"),
        (
            ["sweep", "--arms", "bn", "--seeds", "0", "--snapshots", "0"],
            "icsbound sweep: snapshots must be a number of epochs, such as 1, or of steps, such as '50steps', got '0'",
        ),
        (
            ["sweep", "--arms", "bn", "--seeds", "0", "--shard", "3"],
            "icsbound sweep: --shard must read I/N, such as 2/8, got '3'",
        ),
        (
            ["sweep", "--arms", "bn", "--seeds", "0", "--phase", "confirm", "--split", "validation"],
            "split must be 'test' in phase confirm",
        ),
        (
            ["evaluate", "nowhere", "--out", "x"],
            "icsbound evaluate: RUN must be the folder of a finished run, got 'nowhere'",
        ),
        (
            ["evaluate", ".", "--shift", "rain", "--out", "x"],
            "icsbound evaluate: shift must be one of 'gaussian_noise'",
        ),
        (["evaluate", ".", "--out", "x"], "must be the folder of a run, and holds no config.json"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_every_value_of_a_recipe_is_a_flag() -> None:
    words = [
        "train",
        "--data",
        "cifar10",
        "--momentum",
        "0.8",
        "--no-flip",
        "--milestones",
        "3",
        "5",
        "--factors",
        "0.1",
        "0.01",
    ]
    args = cli.parser().parse_args(
        [*words, "--clip-norm", "2", "--accumulate", "2", "--ema", "0.9", "--precision", "bf16"]
    )
    made = flags.configured(args, cli.TrainConfig())
    recipe = made.recipe
    assert (recipe.momentum, recipe.flip, recipe.milestones, recipe.factors) == (0.8, False, (3, 5), (0.1, 0.01))
    assert (recipe.clip_norm, recipe.accumulate, recipe.ema, made.precision) == (2.0, 2, 0.9, "bf16")
    assert recipe.batch_size == 128  # the recipe's value for photographs
    assert recipe.nesterov


def test_several_processes_must_share_a_folder_that_none_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run("train") == 2
    assert capsys.readouterr().err == "icsbound train: --out must be given, so that all processes share it, got None\n"
    assert run("train", "--out", tmp_path / "run", "--force") == 2
    assert "--force must be left out where several processes start at once" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
