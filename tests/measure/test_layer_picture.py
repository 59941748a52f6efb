"""Which layer a monitor draws: the one that is named, or the last; a name that is no measured layer's is refused."""

import networks
import pytest
import torch

from icsbound._check import InputError
from icsbound.measure.monitor import ICSMonitor
from icsbound.measure.picture import Picture
from icsbound.records import TransportRecord


def drawn(picture: bool | str, **settings: object) -> list[TransportRecord]:
    model, probe = networks.cnn(), networks.images(8)
    monitor = ICSMonitor(model, probe, every=1, picture=picture, **settings)
    return [record for step in (0, 1) for record in monitor.step(step) if isinstance(record, TransportRecord)]


@pytest.mark.parametrize(("picture", "layers"), [("1", ["1"]), ("4", ["4"]), ("9", ["9"]), (True, ["9"]), (False, [])])
def test_the_named_layer_is_drawn(picture: bool | str, layers: list[str]) -> None:
    assert [(r.layer, r.view) for r in drawn(picture)] == [(layer, "pooled") for layer in layers]


def test_a_layer_that_is_asked_for_by_its_kind_can_be_drawn() -> None:
    (found,) = drawn("0", layers=["0", "9"], views="sample")
    assert (found.layer, found.view) == ("0", "sample")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("44", r"^picture must name one of the layers that are measured, got '44': the nearest are '4'$"),
        ("0", r"^picture must name one of the layers that are measured, got '0': there are '1', '4', '9'$"),
        ("", r"^picture must name one of the layers that are measured, got '': there are '1', '4', '9'$"),
        (3, r"^picture must name one of the layers that are measured, got 3: True draws the last one$"),
    ],
)
def test_what_is_no_measured_layer_is_refused_at_once(picture: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        drawn(picture)


def test_a_layer_that_did_not_run_is_named_when_it_is_missed() -> None:
    with pytest.raises(InputError, match=r"^picture must name .* measured, got 'norm': there are 'other'$"):
        Picture("pooled", "norm").see({("norm", "sample"): torch.randn(9, 2), ("other", "pooled"): torch.randn(9, 2)})
