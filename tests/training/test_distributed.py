"""Two processes train what one trains, the uneven last batch of each epoch included."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import measured
from two_processes import main

from icsbound import records
from icsbound.training import checkpoint, loop

HERE = Path(__file__).parent


def in_a_group(out: Path, arm: str, stop: int = 0) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = [str(HERE / "two_processes.py"), str(out), arm, str(stop)]
    return subprocess.run([*torchrun, *program], check=False, capture_output=True, text=True)


def losses(out: Path) -> list[float]:
    return [r.train_loss for r in measured(out) if isinstance(r, records.EpochRecord)]


def same_training(two: Path, one: Path) -> None:
    assert loop.finished(two) is not None
    assert losses(two) == pytest.approx(losses(one), rel=1e-10)
    expected, found = (load_file(folder / "model.safetensors") for folder in (one, two))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10)
    # the monitor runs in the first process alone and writes each record once
    assert [(r.kind, r.run) for r in measured(two)] == [(r.kind, r.run) for r in measured(one)]


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    main(tmp_path / "one", "unitized", 0)
    done = in_a_group(tmp_path / "two", "unitized")
    assert done.returncode == 0, done.stderr
    same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.full
@pytest.mark.parametrize("arm", ["published", "unitized-position", "arithmetic"])
def test_two_processes_stop_together_and_go_on(tmp_path: Path, arm: str) -> None:
    main(tmp_path / "one", arm, 0)
    done = in_a_group(tmp_path / "two", arm, stop=9)
    assert done.returncode == 0, done.stderr
    assert checkpoint.paths(tmp_path / "two" / "checkpoints")[0].name == "step-000000009.pt"
    done = in_a_group(tmp_path / "two", arm)
    assert done.returncode == 0, done.stderr
    same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.full
def test_batch_norm_on_several_cpu_processes_is_refused(tmp_path: Path) -> None:
    done = in_a_group(tmp_path, "bn")
    assert done.returncode != 0
    assert "arm must be another on several CPU processes" in done.stderr
    assert not (tmp_path / "config.json").exists()


def launched(*words: str) -> list[str]:
    """The command line as the README has it: two processes of one `icsbound train`."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*torchrun, "-m", "icsbound.cli", "train", "--tracker", "none", "--quiet", *words]


def workers(launcher: int) -> list[int]:
    """The processes that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(pid) for pid in children.read_text().split()]


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes by /proc")
@pytest.mark.parametrize("whom", ["the launcher", "one process"])
def test_a_group_that_is_told_to_end_saves_and_goes_on(tmp_path: Path, whom: str) -> None:
    words = (
        "--arm",
        "unitized",
        "--model",
        "resnet8:width=2",
        "--epochs",
        "2",
        "--batch-size",
        "64",
    )
    common = (
        *words,
        "--threads",
        "1",
        "--device",
        "cpu",
        "--probe",
        "16",
        "--captures",
        "2",
        "--checkpoint-every",
        "20",
    )
    whole = subprocess.run(launched(*common, "--out", str(tmp_path / "whole")), check=False)
    assert whole.returncode == 0
    out = tmp_path / "stopped"
    with subprocess.Popen(
        launched(*common, "--out", str(out)),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    ) as group:
        while not checkpoint.paths(out / "checkpoints"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                group.wait(0.05)
                pytest.fail("it ended before it was told to")
        os.kill(group.pid if whom == "the launcher" else workers(group.pid)[0], signal.SIGTERM)
        _, said = group.communicate()
    # torchrun ends with 1 of its own; what its processes end with stands in its report.
    assert group.returncode == 1
    if whom == "one process":
        assert re.search(r"exitcode\s*: 143", said), said
    newest = int(checkpoint.paths(out / "checkpoints")[0].stem.removeprefix("step-"))
    assert 20 <= newest < 126
    assert loop.finished(out) is None
    done = subprocess.run(launched("--resume", str(out), "--checkpoint-every", "20"), check=False)
    assert done.returncode == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert measured(out) == measured(tmp_path / "whole")
