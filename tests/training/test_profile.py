"""The profile of a few steps: what it writes, that its shares are those of the step, and that it changes no number."""

import json
from pathlib import Path

import pytest
from small import config, few_digits, measured

from icsbound.training import loop, profile
from icsbound.training.config import MonitorConfig
from icsbound.training.progress import Event


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    monkeypatch.setattr(profile, "WARM_UP", 2)
    monkeypatch.setattr(profile, "STEPS", 4)


def test_it_says_where_the_time_of_a_step_goes(tmp_path: Path) -> None:
    notes: list[str] = []

    def listen(event: Event) -> None:
        if event.note:
            notes.append(event.note)

    # The layers are measured after step 3: the monitor has a share among steps 3 to 6.
    made = config(monitor=MonitorConfig(probe=12, every=3))
    loop.train(made, tmp_path / "profiled", profile=True, progress=listen)
    folder = tmp_path / "profiled" / "profile"
    assert sorted(p.name for p in folder.iterdir()) == ["operators.txt", "shares.json", "trace.json"]
    found = json.loads((folder / "shares.json").read_text())
    assert (found["steps"], found["warm_up"]) == (4, 2)
    assert list(found["shares"]) == [*profile.PARTS, "rest"]
    assert all(0 < share < 1 for share in found["shares"].values())
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["shares"]["forward"] > 0.02
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = [event.get("name", "") for event in events]
    for part in ("forward", "backward", "optimizer"):
        assert names.count(f"icsbound: {part}") == 4
    assert "aten::convolution" in (folder / "operators.txt").read_text()
    assert notes == [n for n in notes if n.startswith("profile of 4 steps after 2: input ")]
    assert len(notes) == 1
    loop.train(made, tmp_path / "plain")
    assert measured(tmp_path / "profiled") == measured(tmp_path / "plain")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("profiled", "plain")]
    assert models[0] == models[1]


def test_a_run_shorter_than_that_writes_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "STEPS", 100)
    loop.train(config(monitor=None, recipe={"epochs": 1}), tmp_path, profile=True)
    assert json.loads((tmp_path / "profile" / "shares.json").read_text())["steps"] == 4
    monkeypatch.setattr(profile, "WARM_UP", 100)
    loop.train(config(monitor=None, recipe={"epochs": 1}), tmp_path / "shorter", profile=True)
    assert not (tmp_path / "shorter" / "profile").exists()
