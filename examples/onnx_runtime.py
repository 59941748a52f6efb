"""A unitized network exported to ONNX for any batch size, and run in onnxruntime without PyTorch.

The exporter writes the layer as plain operations, so the file needs nothing of this package. α > 0 here, so that no
layer is batch normalization in disguise.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from pathlib import Path

import common
import onnxruntime
import torch
from torch import nn

import icsbound


def exported(model: nn.Module, path: Path) -> Counter[str]:
    """Write `model` to `path`; returns how often the file has each kind of operation."""
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        program = torch.onnx.export(model, (common.PROBE[:4],), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    assert program is not None
    program.save(path)
    return Counter(node.op_type for node in program.model.graph)


def main() -> dict[int, float]:
    model = icsbound.convert(common.network(), alpha_init=0.5)
    common.train(model, steps=20)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        kinds = exported(model, path)
        print(f"{len(kinds)} kinds of operations: {', '.join(sorted(kinds))}")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (name,) = (given.name for given in session.get_inputs())
        for n in (1, 7, 250):
            images = common.PROBE[:n]
            (logits,) = session.run(None, {name: images.numpy()})
            with torch.no_grad():
                found[n] = (torch.from_numpy(logits) - model(images)).abs().max().item()
            print(f"{n:3} images: logits differ from PyTorch's by at most {found[n]:.0e}")
    return found


if __name__ == "__main__":
    main()
