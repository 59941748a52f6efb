"""Triton is not needed to import or run the layer elsewhere, and its absence is said once, with the way out."""

import importlib.util
import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from icsbound.norm import ops
from icsbound.norm.kernels import triton_launch


def loads_triton(code):
    code += "\nimport sys\nprint('triton' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return out.strip() == "True"


def test_the_layer_on_a_cpu_does_not_import_triton():
    assert not loads_triton(
        "import torch, icsbound\n"
        "from icsbound.norm import UnitizedBatchNorm2d, ops\n"
        "UnitizedBatchNorm2d(3)(torch.randn(2, 3, 4, 4)).sum().backward()\n"
        "ops.backend(torch.zeros(2, 3))"
    )


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_test_above_can_fail():
    assert loads_triton("from icsbound.norm.kernels import triton_rows")


@pytest.fixture
def on_cuda(monkeypatch):
    """Something that looks like a CUDA tensor, as far as the choice of a backend looks."""
    tensor = SimpleNamespace(
        is_cuda=True, is_cpu=False, dtype=torch.float32, layout=torch.strided, device="cuda:0",
        numel=lambda: 6, get_device=lambda: 0,
    )  # fmt: skip
    monkeypatch.setattr(triton_launch, "_PLAIN", (SimpleNamespace,))
    monkeypatch.setattr(triton_launch, "kernels", lambda: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    triton_launch.unsuitable.cache_clear()
    yield tensor
    triton_launch.unsuitable.cache_clear()


def test_cuda_tensors_run_on_triton(on_cuda):
    assert triton_launch.usable(on_cuda)
    assert ops.backend(on_cuda) == ("triton", "x is on CUDA, and Triton can be imported")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dtype": torch.int32}, "the Triton kernels have no int32"),
        ({"numel": lambda: 0}, None),
        ({"layout": torch.sparse_coo}, None),
    ],
    ids=["dtype", "empty", "sparse"],
)
def test_what_the_kernels_refuse(on_cuda, change, why):
    vars(on_cuda).update(change)
    assert not triton_launch.usable(on_cuda)
    if why:
        assert ops.backend(on_cuda) == ("aten", why)


def test_a_device_that_is_too_old_is_refused(on_cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    assert ops.backend(on_cuda) == ("aten", "the Triton kernels need compute capability 8.0, and cuda:0 has 7.5")
    triton_launch.unsuitable.cache_clear()
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert ops.backend(on_cuda) == ("aten", "the Triton kernels were made for CUDA, and this torch is for ROCm")


def test_other_tensors_are_left_to_torch(on_cuda, monkeypatch):
    monkeypatch.setattr(triton_launch, "_PLAIN", (torch.Tensor,))
    assert "x is a SimpleNamespace" in triton_launch.refusal(on_cuda)
    assert triton_launch.refusal(torch.zeros(2, 3)) == "the Triton kernels are for CUDA and x is on cpu"


def test_without_triton_torch_runs_and_this_is_said_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.language", None)
    triton_launch.kernels.cache_clear()
    try:
        with caplog.at_level(logging.INFO, "icsbound"):
            reasons = {triton_launch.kernels() for _ in range(3)}
        (reason,) = reasons
        assert isinstance(reason, str)
        assert "pip install 'icsbound[triton]'" in reason
        (record,) = caplog.records
        assert "the layer runs on CUDA by torch alone, slower" in record.message
        with pytest.raises(ImportError, match="Triton cannot be imported"):
            triton_launch.Launcher(torch.zeros(2, 3))
    finally:
        triton_launch.kernels.cache_clear()
