"""What a folder holds: finished, interrupted, missing, damaged and repeated runs, and which arm is whose control."""

from __future__ import annotations

from pathlib import Path

import pytest
import recorded

from icsbound._check import InputError
from icsbound.records import DistanceRecord, LayerRecord
from icsbound.report.runs import load


def test_a_comparison_is_read_whole(tmp_path: Path) -> None:
    study = load(recorded.comparison(tmp_path, arms=("unitized", "bn", "published")))
    assert study.arms == ["bn", "unitized", "published"]  # the control leads
    assert [(run.arm, run.seed) for run in study.runs][:4] == [("bn", 0), ("bn", 1), ("bn", 2), ("unitized", 0)]
    assert study.missing == []
    assert study.unfinished == []
    assert study.notes == []
    assert study.layer_names == list(recorded.LAYERS)
    assert len(study.distances) == 9 * 6 * 3 * 2
    assert len(study.epochs) == 27
    assert len(study.results) == 9


def test_missing_and_unfinished_runs_are_named(tmp_path: Path) -> None:
    recorded.comparison(tmp_path)
    (tmp_path / "unitized-seed2" / "records.jsonl").unlink()
    path = tmp_path / "bn-seed1" / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-5])  # killed while it wrote its last line
    study = load(tmp_path)
    assert study.missing == ["unitized-seed2"]
    assert [(run.arm, run.seed, run.reached) for run in study.unfinished] == [("bn", 1, 36)]
    assert len(study.notes) == 1
    assert study.notes[0].startswith("bn-seed1/records.jsonl: line ")
    assert "was cut off and is left out" in study.notes[0]


def test_a_damaged_file_is_left_out_and_said(tmp_path: Path) -> None:
    recorded.comparison(tmp_path)
    path = tmp_path / "bn-seed1" / "records.jsonl"
    path.write_text("not a record\n" + path.read_text())
    study = load(tmp_path)
    assert study.notes[0].startswith("bn-seed1/records.jsonl: line 1 is not a record")
    assert study.notes[0].endswith("the file is left out.")
    assert study.missing == ["bn-seed1"]


def test_a_repeated_run_is_said(tmp_path: Path) -> None:
    recorded.comparison(tmp_path)
    recorded.save(tmp_path / "copy", recorded.of_run("bn", 1))
    study = load(tmp_path)
    assert study.notes == ["copy/records.jsonl repeats bn, seed 1, of bn-seed1/records.jsonl and is left out."]
    assert len(study.runs) == 6


def test_distances_alone_make_a_measurement(tmp_path: Path) -> None:
    lines = recorded.of_run("bn", 0)
    recorded.save(tmp_path, [line for line in lines if isinstance(line, DistanceRecord | LayerRecord)])
    study = load(tmp_path)
    assert study.arms == ["bn-seed0"]
    assert study.runs[0].info is None
    assert study.runs[0].finished
    assert study.epochs.empty


def test_several_runs_in_one_file_are_kept_apart(tmp_path: Path) -> None:
    recorded.save(tmp_path, [*recorded.of_run("bn", 0), *recorded.of_run("unitized", 0)])
    assert [run.name for run in load(tmp_path).runs] == ["bn-seed0", "unitized-seed0"]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"arms": 3, "seeds": null}', '{"arms": [{}], "seeds": [0]}'])
def test_a_strange_config_does_not_hide_the_records(tmp_path: Path, content: str) -> None:
    recorded.comparison(tmp_path)
    (tmp_path / "config.json").write_text(content)
    study = load(tmp_path)
    assert len(study.runs) == 6
    assert study.missing == []
    assert len(study.notes) == (content in ("", "{"))


@pytest.mark.parametrize(
    ("arms", "arm", "control"),
    [
        (("bn", "unitized"), "unitized", "bn"),
        (("bn", "unitized"), "bn", None),
        (("gn", "unitized"), "unitized", None),  # nothing to compare with was run
        (("bn", "published"), "published", "bn"),  # its own control was not run
        (("bn", "published", "published-batch"), "published", "published-batch"),
        (("bn", "published-batch"), "published-batch", "bn"),
        (("bn", "published:eps=0.1", "published-batch"), "published:eps=0.1", "published-batch"),
    ],
)
def test_control(tmp_path: Path, arms: tuple[str, ...], arm: str, control: str | None) -> None:
    assert load(recorded.comparison(tmp_path, arms=arms, seeds=(0,))).control(arm) == control


def test_config_may_name_the_controls(tmp_path: Path) -> None:
    recorded.comparison(tmp_path, arms=("bn", "gn", "unitized"), seeds=(0,))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"arms"', '"controls": {"unitized": "gn"}, "arms"'))
    study = load(tmp_path)
    assert study.control("unitized") == "gn"
    assert study.control("gn") == "bn"


def test_refusals_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^folder must be an existing folder with records, got '.*nowhere'$"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^folder must hold a records\.jsonl, in itself or below, got "):
        load(tmp_path)
    (tmp_path / "records.jsonl").write_text("nonsense\n")
    with pytest.raises(
        InputError, match=r"^no record below '.*' could be read: records\.jsonl: line 1 is not a record"
    ):
        load(tmp_path)
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(InputError, match=r"could be read: records\.jsonl holds no record yet\.$"):
        load(tmp_path)
