"""Everything is measured where the clouds lie, whatever device torch has as its default.

With "meta" as the default, a tensor of which no device was said holds no values: whatever reads it raises, or hands the
native library a pointer to nothing.
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
