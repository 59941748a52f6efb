"""Compiled models are measured like plain ones, and are compiled no more often for it."""

from collections.abc import Callable
from typing import Any

import networks
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from icsbound.measure.capture import capture
from icsbound.measure.monitor import ICSMonitor

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method. is deprecated:DeprecationWarning")


class Net(nn.Module):
    """A module of our own class, as models are: torch compiles none of its own classes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = networks.cnn()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (n, 5)."""
        return self.body(x)


class Counter(CompileCounterWithBackend):
    """Counts compilations (`frame_count`), and how often what was compiled then ran (`runs`)."""

    runs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        """Compile `graph`."""
        fast = super().__call__(graph, inputs)

        def counted(*args: Any) -> Any:
            self.runs += 1
            return fast(*args)

        return counted


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def counter(request: pytest.FixtureRequest) -> Counter:
    torch.compiler.reset()
    return Counter(request.param)


def compiled(model: Net, how: str, counter: Counter) -> nn.Module:
    """`model`, compiled as a wrapper, in place, or in its body alone."""
    if how == "wrapper":
        return torch.compile(model, backend=counter, fullgraph=True)
    if how == "in place":
        model.compile(backend=counter, fullgraph=True)
    else:
        model.body = torch.compile(model.body, backend=counter, fullgraph=True)
    return model


@pytest.mark.parametrize("how", ["wrapper", "in place", "part"])
@pytest.mark.parametrize("law", ["eval", "train"])
def test_capture(how, law, counter) -> None:
    model, probe, x = Net(), networks.images(10), networks.images(4)
    expected = capture(model, probe, law=law, batch_size=4)
    fast = compiled(model, how, counter)
    fast(x).sum().backward()
    assert (counter.frame_count, counter.runs) == (1, 1)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for runs in (1, 2):
            found = capture(fast, probe, law=law, batch_size=4)
            assert counter.runs == runs  # hooks see every layer since plain Python ran ...
            fast(x).sum().backward()
            assert counter.runs == runs + 1  # ... and only meanwhile
    assert counter.frame_count == 1
    assert list(found) == list(expected)
    if law == "train":  # in eval the passes between have moved the running statistics
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("attached", ["before", "after"])
def test_monitored_training_is_the_unmonitored_one(attached, counter) -> None:
    """The same weights bit for bit and the same number of compilations, with dropout in the compiled graph."""
    final = []
    for monitored in (False, True):
        torch.compiler.reset()
        counter.frame_count = counter.runs = 0
        torch.manual_seed(1)
        model, probe = Net(), networks.images(12)
        fast = torch.compile(model, backend=counter, fullgraph=True)
        monitor = ICSMonitor(model if attached == "before" else fast, probe, every=1, batch_size=5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        records = monitor.step(0) if monitored else []
        for step in range(1, 4):
            optimizer.zero_grad()
            fast(networks.images(6)).square().mean().backward()
            optimizer.step()
            records += monitor.step(step) if monitored else []
        final.append(model.state_dict())
        assert (counter.frame_count, counter.runs) == (1, 3)
    assert len(records) == 4 * (1 + 3) + 3 * 2 * 3  # what it cost and the layers, at 4 steps; distances after the first
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in final), strict=True))
