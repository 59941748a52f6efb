"""Every example runs, and shows what it says it shows."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = {path.stem for path in FOLDER.glob("*.py")} - {"common", "pictures"}


def main_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]()


def test_fine_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    found = main_of("fine_tuned", monkeypatch)
    moved = {layer for layer, verdict in found.items() if verdict == "moved"}
    # The frozen blocks cannot have moved.
    assert {layer for layer in found if layer.startswith(("blocks.0.", "blocks.1."))}.isdisjoint(moved)
    assert {"blocks.2.norms.1", "norm"} <= moved


def test_pruned_and_rounded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = main_of("pruned_and_rounded", monkeypatch)
    moved = {change: list(verdicts.values()).count("moved") for change, verdicts in found.items()}
    assert moved["prune:0.5"] >= 5
    assert moved["quantize:4"] >= 5
    assert capsys.readouterr().out.count("spreads") == 21


def test_half_precision(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(main_of("half_precision", monkeypatch)) == 7
    spreads = [float(line.split("=")[1].split()[0]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert 0 < max(spreads) < 0.1


def test_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    found = main_of("other_data", monkeypatch)
    assert list(found["the same digits with less contrast"].values()).count("moved") >= 5
    assert "moved" not in found["other digits"].values()


def test_monitored_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [r for r in main_of("monitored_loop", monkeypatch) if r.kind == "distance"]
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


def test_transport_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXAMPLE_PICTURES", str(tmp_path))
    value, paired, share = main_of("transport_picture", monkeypatch)
    assert value < paired
    assert 0 < share < 1
    assert (tmp_path / "transport.svg").read_text(encoding="utf-8").startswith("<svg")


def test_every_example_has_its_test() -> None:
    assert {f"test_{name}" for name in EXAMPLES} <= set(globals())


def test_an_example_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / "transformer.py")], capture_output=True, text=True, check=True
    )
    assert "moved by" in done.stdout
