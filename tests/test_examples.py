"""Every example runs, and shows what it says it shows."""

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = {path.stem for path in FOLDER.glob("*.py")} - {"common", "pictures"}
DRAWN = EXAMPLES - {"data_parallel", "onnx_runtime"}  # what those two show is a few numbers


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Where pictures go; an example that draws has left one there."""
    monkeypatch.setenv("EXAMPLE_PICTURES", str(tmp_path))
    yield
    if request.node.name.removeprefix("test_") in DRAWN:
        found = list(tmp_path.glob("*.svg"))
        assert found
        assert all(path.read_text(encoding="utf-8").count("<path") > 5 for path in found)


def main_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]()


def commanded(said: str, title: str) -> dict[str, str]:
    """The verdict of every layer in the table that `icsbound measure` prints under `title`."""
    head, *lines = said[said.index(title) :].splitlines()[1:]
    assert head.endswith("verdict")
    return {line.split()[0]: re.split(r"\s{2,}", line)[-1] for line in lines if not line.startswith("page: ")}


def test_fine_tuned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = main_of("fine_tuned", monkeypatch)
    by_command = commanded(capsys.readouterr().out, "tuned.safetensors against base.safetensors, n = 250")
    assert found.keys() == by_command.keys()
    for judged in (found, by_command):
        moved = {layer for layer, verdict in judged.items() if verdict == "moved"}
        # The frozen blocks cannot have moved.
        assert {layer for layer in judged if layer.startswith(("blocks.0.", "blocks.1."))}.isdisjoint(moved)
        assert {"blocks.2.norms.1", "norm"} <= moved


def test_pruned_and_rounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = main_of("pruned_and_rounded", monkeypatch)
    moved = {change: list(verdicts.values()).count("moved") for change, verdicts in found.items()}
    assert moved["prune:0.5"] >= 5
    assert moved["quantize:4"] >= 5
    said = capsys.readouterr().out
    assert said.count("spreads, floor") == 21
    by_command = commanded(said, "pruned.safetensors against full.safetensors, n = 250")
    assert list(by_command.values()).count("moved") >= 5


def test_checkpoints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = main_of("checkpoints", monkeypatch)
    assert len(found) == 7
    assert list(found.values()).count("moved") >= 5
    assert "late.safetensors against early.safetensors" in capsys.readouterr().out


def test_half_precision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = main_of("half_precision", monkeypatch)
    assert len(found) == 7
    assert set(found.values()) == {"below the floor"}  # as no more than the tenth of a spread counts for nothing
    said = capsys.readouterr().out
    spreads = [float(line.split("=")[1].split()[0]) for line in said.splitlines() if "spreads, floor" in line]
    assert 0 < max(spreads) < 0.1
    by_command = commanded(said, "bfloat16.safetensors against float32.safetensors, n = 250")
    assert set(by_command.values()) == {"below the floor"}
    assert found.keys() == by_command.keys()


def test_other_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = main_of("other_data", monkeypatch)
    assert list(found["the same digits with less contrast"].values()).count("moved") >= 5
    assert "moved" not in found["other digits"].values()
    by_command = commanded(capsys.readouterr().out, "digits:shift=contrast,severity=2, n = 250")
    assert list(by_command.values()).count("moved") >= 5


def test_monitored_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    everything = main_of("monitored_loop", monkeypatch)
    moved = [r for r in everything if r.kind == "verdict" and r.verdict == "moved"]
    said = capsys.readouterr().out
    assert said.startswith("a pass over the probe takes ")
    assert moved
    assert all(f"step {r.step_b}: {r.layer} moved by more than 0.5 spreads" in said for r in moved)
    found = [r for r in everything if r.kind == "distance"]
    assert {r.step_b for r in found if r.value is not None} == {20, 40}
    assert {r.step_b for r in found if r.value is None} == {5, 10, 15, 25, 30, 35}


def test_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = main_of("transformer", monkeypatch)
    parts = {f"blocks.layers.{block}.{part}" for block in (0, 1) for part in ("self_attn", "norm1", "norm2")}
    assert {r.layer for r in found} == parts
    assert all(r.value > 0 for r in found)


def test_swap_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped, moved, back = main_of("swap_resnet", monkeypatch)
    assert swapped < 1e-4
    assert back < 1e-4
    assert len(moved) == 20
    assert min(moved) > 0


def test_own_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = main_of("own_bound", monkeypatch)
    assert all(0 < mine <= exact for _, mine, exact, _ in rows)
    assert any(wrong > exact for _, _, exact, wrong in rows), "the false bound is seen to be one"


def test_transport_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    value, paired, share = main_of("transport_picture", monkeypatch)
    assert value < paired
    assert 0 < share < 1


def test_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    found = main_of("onnx_runtime", monkeypatch)
    assert set(found) == {1, 7, 250}
    assert max(found.values()) < 1e-4


@pytest.mark.full  # three processes that import torch; the gallery runs the example too
def test_data_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    found = main_of("data_parallel", monkeypatch)
    assert found["together"] < 1e-12
    assert found["apart"] > 1e-4


def resumed(found: list[Any]) -> None:
    """Distances before and after a break, in one monitor's life: the second is from where the first ended."""
    assert found[0].kind == "cost"
    exact = [(r.step_a, r.step_b) for r in found if r.kind == "distance"]
    assert list(dict.fromkeys(exact)) == [(0, 20), (20, 40)]
    assert all(r.value > 0 for r in found if r.kind == "distance")
    assert [r.step for r in found if r.kind == "cost"] == [0, 20, 40]


@pytest.mark.full  # its library comes with the extra [examples], which `make test-full` installs
def test_lightning_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    found = main_of("lightning_callback", monkeypatch)
    resumed(found)
    assert len({r.layer for r in found if r.kind == "distance"}) == 7


@pytest.mark.full
def test_transformers_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    found = main_of("transformers_callback", monkeypatch)
    resumed(found)
    norms = {"transformer.ln_f", *(f"transformer.h.{block}.ln_{norm}" for block in (0, 1) for norm in (1, 2))}
    assert {(r.layer, r.view) for r in found if r.kind == "distance"} == {
        (norm, view) for norm in norms for view in ("pooled", "position")
    }


def test_every_example_has_its_test() -> None:
    assert len(DRAWN) >= 8
    assert {f"test_{name}" for name in EXAMPLES} <= set(globals())


@pytest.mark.full  # the gallery runs every example as one
def test_an_example_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / "transformer.py")], capture_output=True, text=True, check=True
    )
    assert "moved by" in done.stdout
