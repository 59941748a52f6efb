"""A run that is killed with SIGKILL and resumed equals one that never was: weights bit by bit, records line by line."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small import config, few_digits, measured

from icsbound.training import checkpoint, loop

# How often each moment comes in an unbroken run: 12 steps; 1 run, 28 layer, 42 distance, 3 transport, 4 cost, 2 epoch
# and 1 result record; config, 6 checkpoints and model are replaced; each is synced with its folder, records before each
# checkpoint and at the end.
MOMENTS = {"step": 12, "record": 81, "replace": 8, "fsync": 8 * 2 + 6 + 1}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        loop.train(config(), out)
    return out


def run(out: Path, moment: str, count: int) -> int:
    program = Path(__file__).with_name("killed.py")
    return subprocess.run([sys.executable, str(program), str(out), moment, str(count)], check=False).returncode


def resumes_as_unbroken(out: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    loop.train(config(), out)
    assert (out / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert measured(out) == measured(unbroken)
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize(
    ("moment", "count", "checkpoints"),
    [
        ("record", 50, 2),  # after the second checkpoint, half a line written
        ("fsync", 12, 3),  # a checkpoint half done
        ("step", 1, 0),  # before the first checkpoint
    ],
)
def test_killed_and_resumed(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch, moment: str, count: int, checkpoints: int
) -> None:
    assert run(tmp_path, moment, count) == -signal.SIGKILL
    assert len(checkpoint.paths(tmp_path / "checkpoints")) == min(2, checkpoints)
    resumes_as_unbroken(tmp_path, unbroken, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(20))
def test_killed_again_and_again(tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(chosen.choice((1, 1, 2, 3))):
        moment = chosen.choice(sorted(MOMENTS))
        count = chosen.randint(1, MOMENTS[moment])
        # a resumed run has fewer moments left, and may be finished before this one comes
        assert run(tmp_path, moment, count) in (-signal.SIGKILL, 0)
    resumes_as_unbroken(tmp_path, unbroken, monkeypatch)


@pytest.mark.full
def test_an_unbroken_run_has_as_many_moments(tmp_path: Path, unbroken: Path) -> None:
    for moment, count in MOMENTS.items():
        assert run(tmp_path / moment, moment, count + 1) == 0
        assert run(tmp_path / f"{moment}-last", moment, count) == -signal.SIGKILL
    assert measured(tmp_path / "step") == measured(unbroken)
