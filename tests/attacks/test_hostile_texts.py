"""Configs, records, tables of results: text that people hand to each other."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hostile import TEXTS, VALUES, answered, refused

from icsbound import cli, records, report, results
from icsbound.study.run import StudyConfig
from icsbound.training import evaluate, loop, measure
from icsbound.training.compare import CompareConfig
from icsbound.training.config import MonitorConfig, TrainConfig
from icsbound.training.states import MeasureConfig
from icsbound.training.sweep import SweepConfig

TRAIN = TrainConfig(monitor=MonitorConfig()).to_dict()
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "train": (TrainConfig.load, TRAIN),
    "compare": (CompareConfig.load, CompareConfig().to_dict()),
    "sweep": (SweepConfig.load, SweepConfig(arms=("bn",), seeds=(0,), batch_sizes=(8,)).to_dict()),
    "measure": (measure.load, MeasureConfig(checkpoints=("a", "b"), data="digits").to_dict()),
    "study": (StudyConfig.load, StudyConfig(studies=("noise",), seeds=(0, 1)).to_dict()),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_no_config_at_all(shelf: Path, kind: str, text: str) -> None:
    (shelf / "config.json").write_text(TEXTS[text])
    refused(CONFIGS[kind][0], shelf)


def changed(values: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """`values` with another value at one place."""
    key, *below = place
    return {**values, key: changed(values[key], tuple(below), value) if below else value}


def places(values: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every place in `values`, inner ones too."""
    found = []
    for key, value in values.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += places(value, (*above, key))
    return found


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_value_in_any_place_of_a_config(shelf: Path, kind: str) -> None:
    """Each is taken, as what it may well be, or refused in one sentence."""
    load, values = CONFIGS[kind]
    (shelf / "config.json").write_text(json.dumps(values))
    load(shelf)
    for place in places(values):
        for value in VALUES:
            (shelf / "config.json").write_text(json.dumps(changed(values, place, value)))
            answered(load, shelf)


@pytest.mark.parametrize(
    "model",
    ["os:system:command='touch executed'", "subprocess:getoutput:cmd='touch executed'", "timm:x:pretrained=true",
     "timm:hf-hub:someone/evil", "torchvision:resnet18:weights=DEFAULT", "posix:system"],
)  # fmt: skip
def test_code_that_a_config_names_is_not_run(shelf: Path, model: str) -> None:
    (shelf / "config.json").write_text(json.dumps({**TRAIN, "model": model}))
    (shelf / "records.jsonl").write_text(
        '{"kind": "result", "schema": 1, "run": "r", "step": 3, "split": "test", "accuracy": 0.5, "loss": 1.0, '
        '"seconds": 1.0, "peak_memory": 1}\n'
    )
    (shelf / "model.safetensors").touch()
    for load in (TrainConfig.load, loop.resume, evaluate.load):
        assert "which is code that would be run: if you trust it, name it again by --model" in refused(load, shelf)
    for load, values in (CONFIGS["compare"], CONFIGS["sweep"]):
        place = ("model",) if "model" in values else ("base", "model")
        (shelf / "config.json").write_text(json.dumps(changed(values, place, model)))
        refused(load, shelf)
    values = CONFIGS["measure"][1]
    if not model.startswith("t"):
        text = ":".join(model.split(":")[:2])
        for place in ("model", "data"):
            (shelf / "config.json").write_text(json.dumps({**values, place: text}))
            assert f"again by --{place}" in refused(measure.load, shelf)
    (shelf / "config.json").write_text(json.dumps({**TRAIN, "model": model}))
    assert TrainConfig.load(shelf, (model,)).model == model


def test_the_command_line_asks_to_name_it_again(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "config.json").write_text(json.dumps({**TRAIN, "model": "posix:system"}))
    assert cli.main(["train", "--resume", str(shelf)]) == 2
    assert "name it again by --model" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(shelf), "--model", "nets:other"]) == 2
    assert "name it again by --model" in capsys.readouterr().err
    (shelf / "config.json").write_text(json.dumps(TRAIN))
    assert cli.main(["train", "--resume", str(shelf), "--model", "resnet20"]) == 2
    assert "--model must be left out with --resume, or be 'resnet8' as in config.json" in capsys.readouterr().err


RUN = {
    "kind": "run", "schema": 1, "run": "bn-seed0", "arm": "bn", "seed": 0, "dataset": "digits", "model": "resnet8",
    "parameters": 10, "train_size": 10, "evaluation_size": 10, "split": "test", "epochs": 1, "steps": 3,
    "batch_size": 4, "device": "cpu", "versions": {"torch": "2"},
}  # fmt: skip
EPOCH = {
    "kind": "epoch", "schema": 1, "run": "bn-seed0", "epoch": 0, "step": 3, "train_loss": 1.0, "loss": 1.0,
    "accuracy": 0.5, "seconds": 1.0, "images_per_second": 3.0,
}  # fmt: skip
DISTANCE = {
    "kind": "distance", "schema": 1, "run": "bn-seed0", "layer": "norm", "side": "outputs", "view": "pooled",
    "law": "eval", "step_a": 0, "step_b": 3, "n": 8, "d": 2, "value": 1.0, "lower": 1.0, "paired": 2.0,
    "independent": 3.0, "mean_shift": 0.5, "norms": 0.1, "scale": 1.0, "scale_free": 1.0, "estimator": "exact",
    "seconds": 0.1,
}  # fmt: skip
LAYER = {
    "kind": "layer", "schema": 1, "run": "bn-seed0", "layer": "norm", "step": 3, "alpha_mean": 0.5, "alpha_min": 0.1,
    "alpha_max": 0.9, "weight_mean": 1.0, "weight_max": 1.0, "bound": "Infinity",
}  # fmt: skip
RECORDS = {"run": RUN, "epoch": EPOCH, "distance": DISTANCE, "layer": LAYER}


@pytest.mark.parametrize("text", TEXTS)
def test_lines_that_are_no_records(shelf: Path, text: str) -> None:
    if text == "empty":
        return
    (shelf / "records.jsonl").write_text(json.dumps(RUN) + "\n" + TEXTS[text] + "\n" + json.dumps(EPOCH) + "\n")
    assert "line 2 is not a record" in refused(records.read, shelf / "records.jsonl")
    assert "line 2 is not a record" in refused(report.build, shelf)


@pytest.mark.parametrize("schema", [0, 2, 10**30, -1, 1.0, "1", None, [1], True])
def test_other_schemas_are_refused(shelf: Path, schema: Any) -> None:
    (shelf / "records.jsonl").write_text(json.dumps({**RUN, "schema": schema}) + "\n")
    assert "schema must be 1" in refused(records.read, shelf / "records.jsonl")


def test_numbers_that_are_none_are_refused(shelf: Path) -> None:
    for value in ("NaN", "-NaN", "nan", '"NaN"'):
        (shelf / "records.jsonl").write_text(json.dumps(EPOCH).replace('"loss": 1.0', f'"loss": {value}') + "\n")
        refused(records.read, shelf / "records.jsonl")


@pytest.mark.parametrize("kind", RECORDS)
def test_any_value_in_any_place_of_a_record(shelf: Path, kind: str) -> None:
    for key in RECORDS[kind]:
        for value in VALUES:
            (shelf / "records.jsonl").write_text(json.dumps({**RECORDS[kind], key: value}) + "\n")
            for record in answered(records.read, shelf / "records.jsonl") or ():
                assert not any(isinstance(v, float) and math.isnan(v) for v in vars(record).values())


def test_the_page_of_wild_numbers(shelf: Path) -> None:
    """Whatever numbers a valid record holds, there is a page, or one sentence."""
    draw = random.Random(0)
    wild = [0, -1, 10**18, 10**30, 1e308, -1e308, 5e-324, math.inf, -math.inf, 0.0]
    for _ in range(6):
        lines = []
        for record in RECORDS.values():
            values: dict[str, Any] = dict(record)
            for key, value in record.items():
                if key != "schema" and isinstance(value, int | float) and draw.random() < 0.3:
                    values[key] = draw.choice(wild if isinstance(value, float) else wild[:4])
            lines.append(json.dumps(values).replace("Infinity", '"Infinity"').replace('-"', '"-').replace('""', '"'))
        (shelf / "records.jsonl").write_text("\n".join(lines) + "\n")
        answered(report.build, shelf)


LINE = {
    "setting": "s", "phase": "explore", "dataset": "digits", "model": "resnet8", "arm": "bn", "seed": 0,
    "batch_size": 8, "epochs": 1, "split": "test", "shift": "none", "severity": 0, "eval_batch": 0,
    "perturbation": "none", "remedy": "none", "accuracy": 0.5, "seconds": 1.0, "device": "cpu",
    "versions": {"torch": "2"}, "config": {"recipe": {"lr": 0.1}},
}  # fmt: skip


def test_any_value_in_any_place_of_a_table(shelf: Path) -> None:
    path = shelf / "results.jsonl"
    path.write_text(json.dumps(LINE) + "\n")
    assert len(results.read(path)) == 1
    for key in LINE:
        for value in VALUES:
            path.write_text(json.dumps({**LINE, key: value}) + "\n")
            answered(results.read, path)


def test_lines_that_are_no_results(shelf: Path) -> None:
    path = shelf / "results.jsonl"
    for name, text in TEXTS.items():
        path.write_text(text + "\n" + json.dumps(LINE) + "\n")
        if name in ("a list", "a number", "nothing", "a lone surrogate", "deep list", "deep object"):
            assert "line 1 is no line of results" in refused(results.read, path)
        elif name != "empty":  # what a killed process may have left
            with pytest.warns(UserWarning, match=r"line 1 was cut off and is left out$"):
                assert len(results.read(path)) == 1
