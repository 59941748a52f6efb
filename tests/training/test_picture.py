"""What a measurement draws: one transport for each pair of states, of the last layer in the first view."""

from pathlib import Path

import pytest
import small
import torch

from icsbound import records
from icsbound._check import InputError
from icsbound.measure.emd import emd
from icsbound.records import DistanceRecord, TransportRecord
from icsbound.training import compare, loop
from icsbound.training.config import MonitorConfig, TrainConfig
from icsbound.training.measure import measure
from icsbound.training.picture import Picture
from icsbound.training.states import MeasureConfig, Pair, State


def test_every_pair_of_states_is_drawn_on_one_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.few_digits(monkeypatch)
    loop.train(small.config(monitor=None), tmp_path / "run", snapshots=1)
    config = MeasureConfig(checkpoints=(str(tmp_path / "run"),), views=("pooled", "sample"), probe=20)
    measure(config, tmp_path / "m", jobs=1)
    found = records.read(tmp_path / "m" / "records.jsonl")
    first, second = (r for r in found if isinstance(r, TransportRecord))
    assert (first.layer, first.view, first.d, first.n) == ("norm", "pooled", 8, 20)
    assert (first.step_a, first.step_b, second.step_a, second.step_b) == (0, 6, 6, 12)
    # Both see the state between them at the same places, whatever the order that the transport gave it.
    assert sorted(zip(first.x_b, first.y_b, strict=True)) == sorted(zip(second.x_a, second.y_a, strict=True))
    whole = next(r.value for r in found if isinstance(r, DistanceRecord) and r.layer == "norm" and r.view == "pooled")
    assert whole is not None
    assert 0 < first.value <= whole * (1 + 1e-4)  # five digits are kept

    lines = (tmp_path / "m" / "records.jsonl").read_bytes().splitlines(keepends=True)
    cut = [line for line in lines if b'"verdict"' not in line][:-3]
    (tmp_path / "m" / "records.jsonl").write_bytes(b"".join(cut))
    measure(config, tmp_path / "m", jobs=1)
    again = records.read(tmp_path / "m" / "records.jsonl")
    assert [r for r in again if isinstance(r, TransportRecord)] == [first, second]


def test_the_layer_that_is_drawn_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.few_digits(monkeypatch)
    name = "blocks.1.norms.0"

    def drawn(folder: Path) -> set[tuple[str, str]]:
        found = records.read(folder / "records.jsonl")
        return {(r.layer, r.view) for r in found if isinstance(r, TransportRecord)}

    loop.train(small.config(monitor=MonitorConfig(probe=12, captures=1, picture=name)), tmp_path / "run")
    assert drawn(tmp_path / "run") == {(name, "pooled")}
    config = MeasureConfig(checkpoints=(str(tmp_path / "run"),), views=("sample",), probe=12, picture=name)
    measure(config, tmp_path / "m", jobs=1)
    assert drawn(tmp_path / "m") == {(name, "sample")}


def test_a_name_that_no_measured_layer_has_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.few_digits(monkeypatch)
    unknown = "blocks.1.norms.9"
    said = r"^picture must name one of the layers that are .*, got 'blocks\.1\.norms\.9': the nearest are 'blocks\.1\.n"
    asked = small.config(monitor=MonitorConfig(probe=12, captures=1, picture=unknown))
    with pytest.raises(InputError, match=said):
        compare.compare(compare.CompareConfig(arms=("bn",), seeds=(0,), base=asked), tmp_path / "compare")
    loop.train(small.config(monitor=None), tmp_path / "run")
    with pytest.raises(InputError, match=said):
        measure(MeasureConfig(checkpoints=(str(tmp_path / "run"),), probe=12, picture=unknown), tmp_path / "m")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_config_of_before_a_layer_could_be_named_is_that_of_today() -> None:
    assert "picture" not in small.config().to_dict()["monitor"]
    assert "picture" not in MeasureConfig(checkpoints=("run",)).to_dict()
    for picture in ("norm", False):
        config = small.config(monitor=MonitorConfig(picture=picture))
        assert TrainConfig.from_dict(config.to_dict()) == config


def test_few_rows_are_drawn_and_moved_as_cheaply_as_can_be() -> None:
    picture = Picture(MeasureConfig(checkpoints=("a", "b"), views=("pooled",)))
    states = [State(step, None, None, None) for step in (0, 1)]
    a, b = torch.randn(2, 500, 4)
    clouds = [{("early", "pooled"): x + 9, ("late", "pooled"): x, ("late", "sample"): x} for x in (a, b)]
    (found,) = picture.of(Pair("r", *states), *clouds)
    assert isinstance(found, TransportRecord)
    assert (found.layer, found.view, found.n, len(found.x_a), len(found.y_b)) == ("late", "pooled", 160, 160, 160)
    start, end = (torch.tensor(z, dtype=torch.float64).T for z in ((found.x_a, found.y_a), (found.x_b, found.y_b)))
    assert float((start - end).norm(dim=1).mean()) == pytest.approx(emd(start, end).value, rel=1e-4)
    assert found.value == pytest.approx(emd(start, end).value, rel=1e-4)


def test_a_single_value_an_input_is_not_drawn() -> None:
    picture = Picture(MeasureConfig(checkpoints=("a", "b"), views=("pooled",)))
    states = [State(step, None, None, None) for step in (0, 1)]
    assert (
        picture.of(Pair("r", *states), {("x", "pooled"): torch.randn(9, 1)}, {("x", "pooled"): torch.randn(9, 1)}) == []
    )
