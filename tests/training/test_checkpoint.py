import os
import pickle
from pathlib import Path

import pytest
import torch

from icsbound._check import InputError
from icsbound.training import checkpoint


def test_keeps_the_newest_and_reads_back_what_was_written(tmp_path: Path) -> None:
    tensor = torch.randn(5, dtype=torch.float64)
    for step in (9, 10, 100):
        checkpoint.save(tmp_path, step, {"x": tensor * step, "nested": {"a": (1, 2.5), "none": None}}, keep=2)
    assert [p.name for p in checkpoint.paths(tmp_path)] == ["step-000000100.pt", "step-000000010.pt"]
    (path, state), _ = checkpoint.newest(tmp_path)
    assert path.name == "step-000000100.pt"
    assert isinstance(state, dict)
    assert torch.equal(state["x"], tensor * 100)
    assert state["nested"] == {"a": (1, 2.5), "none": None}
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_told_from_a_sound_one(tmp_path: Path, damage: str) -> None:
    checkpoint.save(tmp_path, 1, {"x": torch.arange(1000)})
    path = checkpoint.save(tmp_path, 2, {"x": torch.arange(1000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:500]), "empty": b""}[damage])
    (_, bad), (older, good) = checkpoint.newest(tmp_path)
    assert isinstance(bad, InputError)
    assert str(bad) == f"{path} is damaged: its content does not match its checksum"
    assert isinstance(good, dict)
    assert older.name == "step-000000001.pt"


def test_no_code_in_a_checkpoint_runs(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    # Whoever can write the file can also write its checksum: loading must be safe without it.
    import hashlib
    import io

    buffer = io.BytesIO()
    torch.save({"x": Bomb()}, buffer)
    for content in (buffer.getvalue(), pickle.dumps(Bomb())):
        path = tmp_path / "step-000000001.pt"
        path.write_bytes(hashlib.sha256(content).digest() + content)
        with pytest.raises(InputError, match="is not a checkpoint of icsbound"):
            checkpoint.load(path)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "exploded").exists()  # the bomb is live: unpickled in earnest, it goes off


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    checkpoint.write(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written: No space left on device$"):
        checkpoint.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_clears_checkpoints_and_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 1, {})
    checkpoint.clear(folder)
    assert not folder.exists()
    checkpoint.save(folder, 1, {})
    (folder / "mine.txt").write_text("kept")
    checkpoint.clear(folder)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
