"""Where clouds lie: memory, dtype, files."""

import os

import networks
import numpy as np
import pytest
import torch

from icsbound._check import InputError
from icsbound.measure.capture import capture

# Of the clouds of `cnn`, n = 6: layer 1 takes 6·512·4 bytes, layer 4 6·54·4, layer 9 6·5·4.
SIZES = {"1": 12288, "4": 1296, "9": 120}
TOTAL = sum(SIZES.values())


def test_limit() -> None:
    model, probe = networks.cnn(), networks.images(6)
    assert {name: c.nbytes for name, c in capture(model, probe, memory=TOTAL).items()} == SIZES
    batches = []
    model[0].register_forward_hook(lambda *_: batches.append(1))
    message = (
        rf"memory must be at least {TOTAL} bytes for these layers and 6 inputs \(the largest cloud takes 12288\), got "
        rf"{TOTAL - 1}; measure fewer layers or inputs, take view 'pooled' or dtype float16, or name a folder by spill"
    )
    with pytest.raises(InputError, match=message):
        capture(model, probe, memory=TOTAL - 1, batch_size=2)
    assert len(batches) == 1  # known before the rest of the probe runs
    assert len(capture(model, probe, memory=TOTAL // 2, dtype=torch.float16)) == 3


@pytest.mark.parametrize("memory", [None, 1500])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
def test_spill_holds_the_same_numbers_and_leaves_no_file(tmp_path, memory, dtype) -> None:
    model, probe = networks.cnn(), networks.images(6)
    expected = capture(model, probe, dtype=dtype)
    found = capture(model, probe, dtype=dtype, memory=memory, spill=tmp_path, batch_size=4)
    assert os.listdir(tmp_path) == []
    for name, cloud in expected.items():
        assert found[name].dtype == cloud.dtype
        torch.testing.assert_close(found[name], cloud)


def test_spill_takes_the_largest_clouds_first(tmp_path, monkeypatch) -> None:
    maps = []
    memmap = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *args, **kw: maps.append(kw["shape"]) or memmap(*args, **kw))
    capture(networks.cnn(), networks.images(6), memory=1500, spill=tmp_path)
    assert maps == [(12288,)]


def test_memory_bounds_what_a_capture_holds() -> None:
    """Of many batches the clouds alone stay: all else that a pass allocates is freed with it."""
    model, probe = networks.cnn(), networks.images(400)
    limit = sum(cloud.nbytes for cloud in capture(model, probe).values())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        held = capture(model, probe, memory=limit, batch_size=8)
    changes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    running = np.cumsum(changes)
    assert limit <= running.max() <= 1.1 * limit  # a batch is a fiftieth, and passes through ten layers
    assert limit <= running[-1] <= limit + 64
    assert sum(cloud.nbytes for cloud in held.values()) == limit


def test_half_precision_that_overflows_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).eval()
    probe = torch.ones(5, 2)
    probe[3] = 1e6
    message = (
        r"outputs of layer '0' \(view 'sample', or beyond the range of dtype float16\) must be finite, got NaN or "
        r"infinity in 1 of 5 rows \(the first is row 3\)"
    )
    with pytest.raises(InputError, match=message):
        capture(model, probe, dtype=torch.float16)
    assert capture(model, probe, dtype=torch.bfloat16)["0"].dtype == torch.bfloat16


def test_bad_arguments(tmp_path) -> None:
    model, probe = networks.cnn(), networks.images(2)
    with pytest.raises(InputError, match=r"spill must be an existing folder, got '.*none'"):
        capture(model, probe, spill=str(tmp_path / "none"))
    with pytest.raises(
        InputError, match=r"dtype must be None or one of float16, bfloat16, float32, float64, got torch.i"
    ):
        capture(model, probe, dtype=torch.int32)
    with pytest.raises(InputError, match="memory must be an integer of at least 1, got 0"):
        capture(model, probe, memory=0)
