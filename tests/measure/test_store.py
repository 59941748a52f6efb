"""Where clouds lie: memory, dtype, files."""

import os

import networks
import numpy as np
import pytest
import torch
from torch import nn

from icsbound._check import InputError
from icsbound.measure.capture import capture
from icsbound.measure.monitor import ICSMonitor

# Of the clouds of `cnn`, n = 6: layer 1 takes 6·512·4 bytes, layer 4 6·54·4, layer 9 6·5·4.
SIZES = {"1": 12288, "4": 1296, "9": 120}
TOTAL = sum(SIZES.values())


def sizes_run(model: nn.Module) -> list[int]:
    """How many inputs reach `model` in each pass from here on."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def test_limit_is_refused_before_the_probe_runs() -> None:
    model, probe = networks.cnn(), networks.images(6)
    assert {name: c.nbytes for name, c in capture(model, probe, memory=TOTAL).items()} == SIZES
    assert len(capture(model, probe, memory=TOTAL // 2, dtype=torch.float16)) == 3
    seen, buffers = sizes_run(model), [b.clone() for b in model.buffers()]
    message = (
        rf"memory must be at least {TOTAL} bytes for 3 clouds of 6 inputs \(the largest, of layer '1' in view "
        rf"'sample', takes 12288\), got {TOTAL - 1}; measure fewer layers or inputs, take view 'pooled' or dtype "
        "float16, or name a folder by spill"
    )
    statistics = networks.images(5)
    for law in ("eval", "train", "frozen"):
        with pytest.raises(InputError, match=message):
            capture(model, probe, memory=TOTAL - 1, law=law, statistics=statistics if law == "frozen" else None)
    assert seen == [2, 2, 2]
    pooled = 6 * (8 + 6 + 5) * 4
    with pytest.raises(InputError, match=f"memory must be at least {TOTAL + pooled} bytes for 6 clouds of 6 inputs"):
        ICSMonitor(model, probe, memory=TOTAL)  # two views, and known before the training starts
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))


def test_a_limit_changes_no_number() -> None:
    """Two inputs run first to tell the widths: under law "train" they would leave statistics, and dropout draws."""
    model, probe = networks.cnn(), networks.images(6)
    for law in ("eval", "train"):
        free, limited = (capture(model, probe, law=law, memory=memory) for memory in (None, TOTAL))
        assert all(torch.equal(free[name], limited[name]) for name in SIZES)


def test_a_layer_that_the_first_inputs_pass_by_is_measured_under_a_limit() -> None:
    """Two inputs tell the widths: they need not reach every expert, and a layer that none reaches is named."""
    model = networks.Lambda(
        lambda self, x: self.expert(x) if bool((x > 0).any()) else x, expert=nn.Linear(2, 3), idle=nn.Linear(2, 3)
    )
    probe = torch.tensor([[-1.0, -1], [-1, -1], [1, 1]])
    assert capture(model, probe, "expert", memory=36)["expert"].shape == (3, 3)
    with pytest.raises(InputError, match="layers must run on the probe; layer 'idle' never ran on the probe: "):
        capture(model, probe, ["expert", "idle"], memory=36)


def test_a_model_of_one_batch_size_is_refused_in_its_first_batch_before_more_is_held() -> None:
    model = networks.Lambda(
        lambda self, x: self.last(self.norm(x.reshape(3, 2, 4).reshape(6, 4)).repeat(1, 1000)),
        norm=nn.BatchNorm1d(4),
        last=nn.Identity(),
    )
    probe, largest = torch.randn(6, 4), 6 * 4000 * 4
    assert capture(model, probe, ["norm", "last"], memory=6 * 16 + largest)["last"].nbytes == largest
    seen = sizes_run(model)
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
        pytest.raises(InputError, match=rf"at least {96 + largest} bytes for 2 clouds of 6 .* of layer 'last'"),
    ):
        capture(model, probe, ["norm", "last"], memory=largest)
    assert seen == [2, 6]
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert np.cumsum(changes).max() < 1.5 * largest  # the model's own output, and no copy of it


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


def test_a_disk_without_room_is_named_before_the_probe_has_run(tmp_path) -> None:
    resource = pytest.importorskip("resource")
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("files cannot be given their room in advance here")
    model = networks.cnn()
    seen, (soft, hard) = sizes_run(model), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a disk that is full
    try:
        with pytest.raises(InputError, match=r"spill must be a folder with room for a file of 1296 bytes, got .*: \w+"):
            capture(model, networks.images(6), ["4"], spill=tmp_path, batch_size=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert seen == [2]
    assert os.listdir(tmp_path) == []


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
