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
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from icsbound.norm.kernels import cpu
from icsbound.norm.kernels import triton as backend
from icsbound.norm.kernels import triton_primitives as primitives
from icsbound.norm.kernels.aten import Statistics
from icsbound.norm.settings import Settings

TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
seen = {}


def source(kernel, arguments):
    """The kernel, specialized as the launcher does it: to integers of 1, multiples of 16 and aligned pointers."""
    signature, constants, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(kernel.params, arguments, strict=True)):
        aligned = False
        if parameter.is_constexpr or (type(value) is int and value == 1 and not parameter.annotation_type):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
            aligned = value.data_ptr() % 16 == 0
        elif parameter.annotation_type:
            signature[parameter.name] = parameter.annotation_type
        else:
            assert type(value) is int, (kernel.__name__, parameter.name, value)
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0
        if aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def compiled(kernel, *arguments, grid, warmup, num_warps, maxnreg=None, **constants):
    """In place of `JITFunction.run`."""
    assert 0 < grid[0] < 2**31
    arguments = [*arguments, *(constants[p.name] for p in kernel.params[len(arguments) :])]
    code = source(kernel, arguments)
    key = code.hash(), num_warps, maxnreg
    if key not in seen:
        ptx = triton.compile(code, GPUTarget("cuda", 90, 32), {"num_warps": num_warps, "maxnreg": maxnreg}).asm["ptx"]
        seen[key] = {"kernel": kernel.__name__, **measured(ptx)}
    found.append(seen[key] | {"programs": grid[0], "warps": num_warps})


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
    for launch in found:
        print(json.dumps({**problem, **launch}))
