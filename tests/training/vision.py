"""torchvision and timm where they are installed, and the few operators that torchvision asks for on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

_KEPT: list[Any] = []  # a library's operators live as long as it does


def torchvision() -> Any:
    """torchvision; without its compiled operators where they do not fit this torch. Skips where it is not installed."""
    try:
        return pytest.importorskip("torchvision")
    except (RuntimeError, ImportError) as error:
        if "nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    return pytest.importorskip("torchvision")


def timm() -> Any:
    """timm, which imports torchvision. Skips where either is not installed."""
    torchvision()
    return pytest.importorskip("timm")
