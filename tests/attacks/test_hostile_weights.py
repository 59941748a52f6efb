"""Checkpoints and files of weights."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import Bomb, bombs, refused, safetensors_files, torch_files
from torch import nn

from icsbound.training import checkpoint, evaluate, loop, published, states, weights
from icsbound.training.config import TrainConfig
from icsbound.training.pretrained import Pretrained
from icsbound.training.states import MeasureConfig

BOMBS = ("system", "eval", "exec", "open", "subprocess", "inside")
FORMATS = ("zip", "legacy", "pickle")


def finished_run(shelf: Path) -> Path:
    """A run's folder that looks finished, but for its weights."""
    run = shelf / "run"
    run.mkdir()
    config = TrainConfig(model="resnet8:width=2", arm="bn", threads=1).resolved()
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    (run / "records.jsonl").write_text(
        '{"kind": "result", "schema": 1, "run": "bn-seed0", "step": 3, "split": "test", "accuracy": 0.5, "loss": 1.0, '
        '"seconds": 1.0, "peak_memory": 1}\n'
    )
    (run / "model.safetensors").touch()
    return run


def begin_at(path: Path) -> None:
    """Let a fresh network begin at the weights of `path`, as a training does."""
    Pretrained(file=str(path), new_head=True).resolved().put_into(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), 2)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", BOMBS)
def test_no_loader_unpickles_code(shelf: Path, mark: Path, name: str, kind: str) -> None:
    content = torch_files(bombs(mark)[name])[kind]
    (shelf / "model.pt").write_bytes(content)
    assert "nothing in it was run" in refused(weights.read, shelf / "model.pt")
    # with the checksum that a checkpoint of ours has
    path = shelf / "step-000000003.pt"
    path.write_bytes(hashlib.sha256(content).digest() + content)
    for load in (checkpoint.load, weights.read, begin_at):
        assert "is not a checkpoint of icsbound" in refused(load, path)
    assert "nothing in it was run" in refused(begin_at, shelf / "model.pt")
    # and under the name of a format that holds no code
    run = finished_run(shelf)
    (run / "model.safetensors").write_bytes(content)
    refused(weights.read, run / "model.safetensors")
    refused(begin_at, run)
    refused(evaluate.weights, run)
    measure = MeasureConfig(checkpoints=(str(run),), data_b=("digits:shift=contrast",), probe=8)
    refused(states.States, measure)


def test_the_bombs_are_live(mark: Path, shelf: Path) -> None:
    """They do leave a mark where a careless loader reads them: else no test here could fail."""
    for name in ("eval", "exec"):
        pickle.loads(pickle.dumps(bombs(mark)[name]))
        assert mark.exists()
        mark.unlink()
    (shelf / "a.pt").write_bytes(torch_files(bombs(mark)["eval"])["zip"])
    torch.load(shelf / "a.pt", weights_only=False)
    assert mark.exists()
    mark.unlink()


@pytest.mark.parametrize("name", safetensors_files())
def test_headers_that_lie(shelf: Path, name: str) -> None:
    run = finished_run(shelf)
    (run / "model.safetensors").write_bytes(safetensors_files()[name])
    refused(weights.read, run / "model.safetensors")
    refused(begin_at, run)
    if name != "no tensors":
        refused(evaluate.weights, run)
    refused(evaluate.load, run)
    refused(states.States, MeasureConfig(checkpoints=(str(run),), data_b=("digits:shift=contrast",), probe=8))


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"step": 3},
        {"step": "three", "seconds": 0.0},
        {"model": 3, "optimizer": {}, "step": 1},
        {"model": {"stem.weight": torch.zeros(1)}, "optimizer": {}, "step": 1},
    ],
    ids=["empty", "step", "word", "number", "shape"],
)
def test_checkpoints_of_something_else(shelf: Path, state: Any) -> None:
    run = shelf / "run"
    config = TrainConfig(model="resnet8:width=2", arm="bn", threads=1).resolved()
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    content = torch_files(state)["zip"]
    (run / "checkpoints" / "step-000000003.pt").write_bytes(hashlib.sha256(content).digest() + content)
    assert "is no checkpoint of this run" in refused(loop.resume, run)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(1).expand(2**40),
        torch.full((3, 2), float("inf")),
        torch.zeros(3, 2).to_sparse(),
        torch.zeros(3, 2, device="meta"),
        torch.zeros(3, 2, dtype=torch.complex64),
    ],
    ids=["endless", "infinite", "sparse", "meta", "complex"],
)
def test_tensors_that_no_network_has(shelf: Path, weight: torch.Tensor) -> None:
    state = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).state_dict()
    torch.save({**state, "0.weight": weight}, shelf / "a.pt")
    assert "a.pt must" in refused(begin_at, shelf / "a.pt")


@pytest.mark.parametrize("state", [[1, 2], torch.zeros(3), None, "step"], ids=["list", "tensor", "none", "text"])
def test_checkpoints_of_no_state(shelf: Path, state: Any) -> None:
    content = torch_files(state)["zip"]
    (shelf / "step-000000003.pt").write_bytes(hashlib.sha256(content).digest() + content)
    assert "is not a checkpoint of icsbound" in refused(checkpoint.load, shelf / "step-000000003.pt")


def test_a_checkpoint_that_lies_about_the_records(shelf: Path) -> None:
    run = shelf / "run"
    config = TrainConfig(model="resnet8:width=2", arm="bn", threads=1).resolved()
    counted = iter(range(1, 9))
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, run, stop=lambda: next(counted) == 2)
    path = run / "checkpoints" / "step-000000002.pt"
    for change in ({"offset": 10**12}, {"offset": -5}, {"step": -1}, {"step": 10**9}, {"loss_sum": "much"}):
        state = {**checkpoint.load(path), **change}
        content = torch_files(state)["zip"]
        changed = hashlib.sha256(content).digest() + content
        kept = path.read_bytes()
        path.write_bytes(changed)
        refused(loop.resume, run)
        path.write_bytes(kept)


def test_published_images_are_arrays_alone(shelf: Path, mark: Path) -> None:
    test = evaluate.data.Dataset(
        "few", torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), 1
    )
    np.save(shelf / "labels.npy", np.zeros(5, np.uint8))
    np.save(shelf / "objects.npy", np.array([Bomb(eval, f"open({str(mark)!r}, 'w')")], dtype=object), allow_pickle=True)
    with open(shelf / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**60,)})
    (shelf / "header.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535)
    (shelf / "zip.npy").write_bytes(b"PK\x03\x04 cut short")
    for name in ("objects", "huge", "header", "zip"):
        assert f"{name}.npy must be " in refused(published.part, shelf, name, 1, test)
