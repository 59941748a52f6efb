"""What this installation runs on, and why: `icsbound doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from icsbound import _native, _version
from icsbound.norm import ops

EXTRAS = {
    "emd": ["POT"],
    "train": ["accelerate", "safetensors", "rich", "mlxtend", "scipy"],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "triton": ["triton"],
    "report": ["altair", "vl-convert-python", "jinja2", "scipy", "pandas"],
}


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backend_on_cuda() -> dict[str, str] | None:
    """What the layer runs on for CUDA tensors; None without a device."""
    if not torch.cuda.is_available():
        return None
    return ops.backend(torch.zeros(2, 1, device="cuda"))._asdict()


def examine() -> dict[str, Any]:
    """Versions, devices, the native library and the extras, as plain values."""
    library, misfit = _native.library(), _native.opened()[1]
    packages = {extra: {name: _version_of(name) for name in names} for extra, names in EXTRAS.items()}
    return {
        "icsbound": _version.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "devices": [
            "cpu",
            *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())),
            *(["mps"] if torch.backends.mps.is_available() else []),
        ],
        "native_library": None if library is None else library._name,
        "native_library_left_out": misfit,
        "layer_backend": ops.backend(torch.zeros(2, 1))._asdict(),
        "layer_backend_cuda": _backend_on_cuda(),
        "extras": packages,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """`found` as lines to read."""
    native, cpu, cuda = found["native_library"], found["layer_backend"], found["layer_backend_cuda"]
    said = [
        f"icsbound {found['icsbound']}, torch {found['torch']}, Python {found['python']} on {found['platform']}",
        f"{found['cores']} cores, torch uses {found['torch_threads']} threads; devices: {', '.join(found['devices'])}",
        "native library: "
        + (
            native
            or (found["native_library_left_out"] or "none was built (no C++ compiler at install?)")
            + "; the layer runs on torch and the distance on POT, slower"
        ),
        f"layer on the CPU: {cpu['name']} ({cpu['why']})",
        f"layer on CUDA: {cuda['name']} ({cuda['why']})" if cuda else "layer on CUDA: no device here",
        "layer under torch.compile and torch.export: "
        + ("on the CPU one operator, with the native kernels inside; elsewhere " if native else "")
        + "plain operations, which the compiler fuses",
    ]
    for extra, packages in found["extras"].items():
        missing = [name for name, version in packages.items() if version is None]
        said.append(
            f"extra {extra!r}: complete"
            if not missing
            else f"extra {extra!r}: {', '.join(missing)} missing; pip install 'icsbound[{extra}]'"
        )
    return said
