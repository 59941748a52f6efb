"""What the Triton kernels become on a GPU, found without one: every launch of a problem is compiled instead of run.

A script, as kernels that run in Triton's interpreter cannot be compiled in the same process. It takes problems as JSON
from standard input and prints a line for each launch: the kernel, the widest load and store of global memory in bytes
a thread, and what ptxas says of registers and spills.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from icsbound.norm.kernels import cpu
from icsbound.norm.kernels import triton as backend
from icsbound.norm.kernels import triton_primitives as primitives
from icsbound.norm.kernels.aten import Statistics
from icsbound.norm.settings import Settings

PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
launch = JITFunction.run


class NoDevice:
    """A driver as far as compiling needs one."""

    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))


def compiled(kernel, *arguments, grid, warmup, **constants):
    """In place of `JITFunction.run`: all that it does, to the point where a GPU is needed."""
    assert 0 < grid[0] < 2**31
    ready = launch(kernel, *arguments, grid=grid, warmup=True, **constants)
    if ready.hash not in seen:
        seen[ready.hash] = {"kernel": kernel.__name__, **measured(ready.asm["ptx"])}
    found.append(seen[ready.hash] | {"programs": grid[0], "warps": ready.metadata.num_warps})


def measured(ptx):
    def widest(what):
        widths = [int(n or 1) * int(bits) // 8 for n, bits in re.findall(what + r"[\w.]*?(?:\.v(\d))?\.b(\d+)", ptx)]
        return max(widths, default=0)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        said = subprocess.run(
            [PTXAS, "-v", "-arch=sm_90a", path, "-o", path.with_suffix(".cubin")],
            check=True, capture_output=True, text=True,
        ).stderr  # fmt: skip
    return {
        "load": widest("ld.global"),
        "store": widest("st.global"),
        "atomics": len(re.findall(r"\b(?:atom|red)\.(?!sync)", ptx)),
        "registers": int(re.search(r"Used (\d+) registers", said)[1]),
        "spilled": int(re.search(r"(\d+) bytes spill stores", said)[1]),
    }


seen = {}
triton.runtime.driver.set_active(NoDevice())
JITFunction.run = compiled
torch.set_default_device("meta")
for problem in json.load(sys.stdin):
    shape, training = problem["shape"], problem["training"]
    dtype, settings = getattr(torch, problem["dtype"]), Settings(**problem["settings"])
    found = []
    x = torch.empty(shape, dtype=dtype)  # without values or memory
    if problem["pixels"]:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight, bias, alpha, mean, var = torch.ones(5, shape[1])
    parameters = cpu.Parameters(weight, bias, alpha)
    stored = None if training else Statistics(mean, var)
    _, _, saved = backend.forward(x, parameters, stored, settings)
    backend.backward(torch.empty_like(x), x, parameters, saved, training, settings)
    if training and settings.scope == "sample":
        dy, pivot = torch.empty_like(x), torch.zeros(shape[1], dtype=saved.dtype)
        a = torch.ones(shape[:2], dtype=saved.dtype)
        primitives.row_affine(x, pivot, a, a)
        primitives.group_dots(dy, x, pivot)
        primitives.row_affine2(dy, x, pivot, a, a, a)
    for result in found:
        print(json.dumps({**problem, **result}))
