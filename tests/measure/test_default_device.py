"""Everything is measured where the clouds lie, whatever device torch has as its default.

With "meta" as the default, a tensor of which no device was said holds no values: whatever reads it raises, or hands the
native library a pointer to nothing. Where there is a GPU, what lies there is measured as on the CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import networks
import pytest
import torch

from icsbound import records
from icsbound.measure import bounds, estimates, views
from icsbound.measure.capture import capture
from icsbound.measure.emd import emd
from icsbound.measure.entries import judged
from icsbound.measure.floor import shift_report
from icsbound.measure.layer_bounds import Unitized, layer_bound
from icsbound.measure.monitor import ICSMonitor
from icsbound.norm.modules import UnitizedBatchNorm2d

Tensor = torch.Tensor
GPU = torch.device("cuda")
# A skip, since `make test` passes without a GPU, and on the CPU alone nothing could end up on another device.
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def both(measured: Callable[[], Any]) -> tuple[Any, Any]:
    """What is measured, and what is measured where new tensors have no values."""
    plain = measured()
    with torch.device("meta"):
        return plain, measured()


def cloud(seed: int, n: int = 40, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A, B = cloud(0), cloud(1) + 0.5
FEW = A.repeat(3, 1)  # every point three times
PAIRS = {
    "identity": (A, A + 0.1),
    "assigned": (A, B),
    "line": (A[:, :1], B[:, :1]),
    "transport": (A, B[:-1]),
    "line, unequal": (A[:, :1], B[:-1, :1]),
    "shared points": (FEW, torch.cat([FEW[:60], B.repeat(2, 1)[:60]])),
    "repeated points": (FEW, B.repeat(3, 1)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_emd(pair: str) -> None:
    plain, there = both(lambda: emd(*PAIRS[pair]))
    assert (there.value, there.lower, there.estimator) == (plain.value, plain.lower, plain.estimator)
    assert there.certified
    for name in ("matching", "u", "v"):
        one, other = getattr(plain, name), getattr(there, name)
        assert one is other is None or (other.device == A.device and torch.equal(one, other))


def test_bounds_reports_and_estimates() -> None:
    for a, b in ((A, B), (A, B[:-1])):
        plain, there = both(lambda a=a, b=b: bounds.bracket(a, b))
        assert there == plain
    plain, there = both(lambda: str(shift_report(A, B)))
    assert there == plain
    plain, there = both(lambda: (estimates.sliced(A, B), estimates.sinkhorn(A, B)))
    assert there == plain
    layer, norms = UnitizedBatchNorm2d(4), Unitized("arithmetic", 0.5, 2.0, norms=1.0)
    plain, there = both(lambda: (layer_bound(layer, layer, positions=9), norms.radius()))
    assert there == plain


@pytest.mark.parametrize("view", views.VIEWS)
def test_capture(view: str) -> None:
    model, probe = networks.cnn(), networks.images(10)
    for law in ("eval", "train", "frozen"):
        statistics = {"statistics": probe} if law == "frozen" else {}
        views.projection.cache_clear()
        plain, there = both(lambda law=law, more=statistics: capture(model, probe, view=view, law=law, **more))
        assert there.keys() == plain.keys()
        assert all(torch.equal(there[layer], plain[layer]) for layer in plain)


def test_monitor() -> None:
    probe = networks.images(12)

    def found(model: torch.nn.Module) -> list[records.Record]:
        monitor = ICSMonitor(model, probe, every=1, views=views.VIEWS, verdicts=True, picture=True)
        lines = monitor.step(0)
        with torch.no_grad():
            model[9].bias += 1
        resumed = ICSMonitor(model, probe, every=1, views=views.VIEWS, verdicts=True, picture=True)
        resumed.load_state_dict(monitor.state_dict())
        lines += resumed.step(1)
        return [records.without_clock(line) for line in [*lines, *judged(lines)]]

    start = networks.cnn()
    plain, there = both(lambda: found(copy.deepcopy(start)))
    assert there == plain


@on_a_gpu
@pytest.mark.parametrize("pair", PAIRS)
def test_emd_on_a_gpu(pair: str) -> None:
    plain, there = emd(*PAIRS[pair]), emd(*(z.to(GPU) for z in PAIRS[pair]))
    assert there.certified
    assert there.value == pytest.approx(plain.value, rel=1e-12)
    assert there.paired == (None if plain.paired is None else pytest.approx(plain.paired, rel=1e-12))
    held = [z for z in (there.matching, there.u, there.v) if z is not None]
    assert {z.device.type for z in held} == {GPU.type}


@on_a_gpu
def test_bounds_and_reports_on_a_gpu() -> None:
    for a, b in ((A, B), (A, B[:-1])):
        plain, there = (bounds.bracket(*z).bounds for z in ((a, b), (a.to(GPU), b.to(GPU))))
        assert [one.name for one in there] == [one.name for one in plain]
        assert [one.value for one in there] == pytest.approx([one.value for one in plain], rel=1e-6)
    plain, there = shift_report(A, B), shift_report(A.to(GPU), B.to(GPU))
    for name in ("error", "floor", "disjoint", "spread"):
        assert getattr(there, name) == pytest.approx(getattr(plain, name), rel=1e-6)
    assert there.p() == pytest.approx(plain.p(), rel=1e-6)


@on_a_gpu
def test_a_network_on_a_gpu() -> None:
    model, probe = networks.cnn().double(), networks.images(12).double()
    clouds = {view: capture(model, probe, view=view) for view in views.VIEWS}
    model, probe = model.to(GPU), probe.to(GPU)
    for view, plain in clouds.items():
        for layer, cloud in capture(model, probe, view=view).items():
            assert cloud.device.type == GPU.type
            torch.testing.assert_close(cloud.cpu(), plain[layer])
    monitor = ICSMonitor(model, probe, every=1, views="pooled", verdicts=True)
    monitor.step(0)
    with torch.no_grad():
        model[9].bias += 1
    found = {r.layer: r.value for r in monitor.step(1) if isinstance(r, records.DistanceRecord)}
    assert found == pytest.approx({"1": 0.0, "4": 0.0, "9": 5**0.5}, abs=1e-9)
