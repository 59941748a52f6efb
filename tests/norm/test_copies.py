"""Copies, pickles and checkpoints of the layer, and those of batch norm that it loads."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, UnitizedBatchNorm3d


def test_copies_and_pickles():
    layer = UnitizedBatchNorm2d(3, interpolation="geometric", scope="position", alpha_init=0.25, process_group="world")
    layer.process_group = None
    x = torch.randn(4, 3, 5, 6)
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.settings == layer.settings
        assert repr(twin) == repr(layer)
        assert torch.equal(twin.eval()(x), layer.eval()(x))
    assert pickle.loads(pickle.dumps(UnitizedBatchNorm2d(3, process_group="world"))).process_group == "world"


@pytest.mark.parametrize(
    ("cls", "shape"),
    [
        (UnitizedBatchNorm1d, (6, 3)),
        (UnitizedBatchNorm1d, (4, 3, 7)),
        (UnitizedBatchNorm2d, (4, 3, 5, 6)),
        (UnitizedBatchNorm3d, (2, 3, 4, 5, 6)),
    ],
    ids=["dense", "1d", "2d", "3d"],
)
def test_state_dict_round_trip(cls, shape):
    layer = cls(3, alpha_init=0.25)
    layer(torch.randn(shape))
    with torch.no_grad():
        layer.alpha.uniform_()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = cls(3)
    assert not any(other.load_state_dict(torch.load(file, weights_only=True)))
    x = torch.randn(shape)
    assert torch.equal(other.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_a_batch_norm_checkpoint_loads_and_alpha_starts(affine, tracked):
    bn = nn.Sequential(nn.BatchNorm2d(3, affine=affine, track_running_stats=tracked))
    layer = nn.Sequential(UnitizedBatchNorm2d(3, affine=affine, track_running_stats=tracked, alpha_init=0.75))
    with torch.no_grad():
        layer[0].alpha.zero_()
    assert not any(layer.load_state_dict(bn.state_dict()))
    assert layer[0].alpha.tolist() == [0.75] * 3


def test_a_checkpoint_that_knows_no_such_layer_leaves_its_alpha_alone():
    # A batch norm without parameters and statistics has no tensor in its checkpoint, as if it were not there.
    layer = UnitizedBatchNorm2d(3, affine=False, track_running_stats=False)
    with torch.no_grad():
        layer.alpha.fill_(0.3)
    assert layer.load_state_dict({}, strict=False).missing_keys == ["alpha"]
    assert layer.alpha.tolist() == pytest.approx([0.3] * 3)


def test_a_damaged_checkpoint_is_still_reported():
    layer = UnitizedBatchNorm2d(3)
    state = nn.BatchNorm2d(3).state_dict()
    del state["weight"]
    assert set(layer.load_state_dict(state, strict=False).missing_keys) == {"weight", "alpha"}


def test_a_batch_norm_checkpoint_is_assigned_to_a_layer_on_meta():
    layer = UnitizedBatchNorm2d(3, device="meta")
    layer.load_state_dict(nn.BatchNorm2d(3).state_dict(), assign=True)
    assert layer.alpha.device.type == "cpu"
    assert layer.alpha.tolist() == [0.5] * 3
