"""Exported programs: what they compute for other batch sizes, what runs in them, what other runtimes make of them."""

import copy
import subprocess
import sys

import pytest
import torch
from problems import assert_near
from torch import nn

from icsbound import _native
from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, decompositions
from icsbound.norm.kernels import cpu

OPERATOR = torch.ops.icsbound.unitize.default

# Deprecations inside torch, met on its own paths.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


class Network(nn.Sequential):
    """The layer in every scope and form, with images and with dense input."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3),
            UnitizedBatchNorm2d(4, activation="relu"),
            UnitizedBatchNorm2d(4, scope="position", target=3.5, interpolation="geometric"),
            UnitizedBatchNorm2d(4, scope="batch", affine=False, momentum=None),
            nn.Flatten(),
            nn.Linear(4 * 16, 5),
            UnitizedBatchNorm1d(5, interpolation="arithmetic", alpha_range=None),
        )
        for _ in range(3):  # running statistics worth exporting
            self(images(16))

    layers = 4


def images(n):
    return torch.randn(n, 3, 6, 6)


def exported(network, strict=False):
    """Exported from four images, for any number of them."""
    return torch.export.export(
        network, (images(4),), dynamic_shapes={"input": {0: torch.export.Dim("batch")}}, strict=strict
    )


def operators_in(program):
    return sum(node.target is OPERATOR for node in program.graph.nodes)


@pytest.mark.parametrize(("strict", "training"), [(True, True), (False, False), (False, True)])
def test_a_program_equals_the_network_for_other_batch_sizes(strict, training):
    network = Network().train(training)
    program = exported(network, strict)
    assert operators_in(program) == (Network.layers if _native.files() else 0)
    plain = program.run_decompositions(decompositions())
    assert operators_in(plain) == 0
    modules = program.module(), plain.module()
    for n in (7, 2, 5) if training else (7, 1):
        x = images(n)
        wanted = network(x)
        for module in modules:
            assert_near(module(x), wanted, 1e-5)
            right = network.state_dict()
            for name, found in module.state_dict().items():  # running statistics move inside of the program
                assert_near(found.double(), right[name].double(), 1e-5)


def test_the_native_kernels_run_inside_of_a_program(monkeypatch):
    program = exported(Network().eval())
    calls = []
    forward = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *args, **kw: calls.append(args) or forward(*args, **kw))
    program.module()(images(3))
    assert len(calls) == (0 if cpu._calls() is None else Network.layers)


def test_a_program_is_saved_and_loaded(tmp_path):
    network = Network().eval()
    torch.export.save(exported(network), tmp_path / "network.pt2")
    x = images(3)
    assert_near(torch.export.load(tmp_path / "network.pt2").module()(x), network(x), 1e-5)


def test_a_program_may_be_given_no_image():
    assert exported(Network().eval()).module()(images(4)[:0]).shape == (0, 5)


@pytest.mark.parametrize("way", ["the model", "a program"])
def test_onnxruntime_agrees(way, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = Network().eval()
    if way == "the model":
        shapes = {"input": {0: torch.export.Dim("batch")}}
        found = torch.onnx.export(network, (images(4),), dynamo=True, dynamic_shapes=shapes, verbose=False)
    else:
        found = torch.onnx.export(exported(network).run_decompositions(decompositions()), dynamo=True, verbose=False)
    found.save(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for n in (7, 1, 4):
        x = images(n)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_near(torch.from_numpy(y), network(x), 1e-5)


@pytest.mark.full
def test_an_aot_inductor_package_agrees(tmp_path):
    network = Network().eval()
    for name, program in (
        ("whole", exported(network)),
        ("plain", exported(network).run_decompositions(decompositions())),
    ):
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / f"{name}.pt2"))
        loaded = torch._inductor.aoti_load_package(path)
        for n in (7, 1):
            x = images(n)
            assert_near(loaded(x), network(x), 1e-5)
    # The second needs nothing of this package, in a process that has never imported it.
    torch.save(x, tmp_path / "x.pt")
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=tmp_path, check=True)
    assert_near(torch.load(tmp_path / "y.pt"), network(x), 1e-5)


ELSEWHERE = """
import sys
import torch
run = torch._inductor.aoti_load_package("plain.pt2")
torch.save(run(torch.load("x.pt")), "y.pt")
assert not any(name.split(".")[0] == "icsbound" for name in sys.modules)
"""


def test_a_copy_of_a_converted_network_trains_as_a_program():
    # Gradients flow through the operator in an exported program as they do in the network itself.
    network = Network()
    twin = copy.deepcopy(network)
    module = exported(network).module()
    x = images(6)
    for run, net in ((module, module), (twin, twin)):
        run(x).square().sum().backward()
        assert all(p.grad is not None for p in net.parameters())
    for found, wanted in zip(module.parameters(), twin.parameters(), strict=True):
        assert_near(found.grad, wanted.grad, 1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")  # checks of the input
@pytest.mark.parametrize("gradients", [True, False], ids=["with gradients", "without"])
def test_a_trace_of_torchscript_agrees(gradients, tmp_path):
    # A native call leaves no trace: a program made of them would return whatever memory held.
    network = Network().eval()
    with torch.set_grad_enabled(gradients):
        torch.jit.save(torch.jit.trace(network, images(4), check_trace=False), tmp_path / "network.pt")
    loaded = torch.jit.load(tmp_path / "network.pt")
    x = images(7)
    assert_near(loaded(x), network(x), 1e-5)
