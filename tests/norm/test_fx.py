"""The layer in graphs that `torch.fx` traces: one node, as torch's own layers are."""

import pytest
import torch
from problems import assert_near
from torch import fx, nn

from icsbound._check import InputError
from icsbound.norm import UnitizedBatchNorm2d, UnitizedBatchNormAct2d, UnitizedSyncBatchNorm, unitized_batch_norm


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.stages = nn.ModuleList(
            [
                UnitizedBatchNorm2d(4),
                UnitizedBatchNormAct2d(4, act=nn.SiLU()),
                UnitizedSyncBatchNorm(4, process_group=None),
            ]
        )
        self.alpha = nn.Parameter(torch.rand(4))

    def forward(self, x):
        x = self.conv(x)
        for stage in self.stages:
            x = stage(x)
        return unitized_batch_norm(x, None, None, None, None, self.alpha, training=True, scope="position")


def test_each_layer_is_one_node():
    network = Network()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    graph = fx.symbolic_trace(network).graph
    assert [n.target for n in graph.nodes if n.op == "call_module"] == ["conv", "stages.0", "stages.1", "stages.2"]
    assert [n.target for n in graph.nodes if n.op == "call_function"] == [unitized_batch_norm]
    for name, t in network.state_dict().items():  # tracing ran nothing
        assert torch.equal(t, before[name])


def test_a_traced_network_computes_the_same():
    network = Network()
    traced = fx.symbolic_trace(network)
    traced = fx.symbolic_trace(traced)  # a graph can be traced again
    x = torch.randn(5, 3, 2, 6)
    network.eval()
    traced.eval()
    assert_near(traced(x), network(x), 0)


def test_a_layer_alone_is_refused():
    with pytest.raises(
        InputError, match=r"^a UnitizedBatchNorm2d is a leaf for torch.fx: trace a module that holds it$"
    ):
        fx.symbolic_trace(UnitizedBatchNorm2d(3))


def test_a_layer_with_a_forward_pass_of_its_own_is_never_doubled():
    class Doubled(UnitizedBatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(fx.proxy.TraceError):  # its node would hold what its own forward pass does once more
        fx.symbolic_trace(nn.Sequential(Doubled(3)))
