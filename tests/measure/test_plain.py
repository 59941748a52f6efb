"""Measuring inside of blocks that change torch's arithmetic, and of clouds that still have their gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from icsbound.measure import bounds, estimates, floor
from icsbound.measure.cheap import cheap_bracket
from icsbound.measure.emd import emd
from icsbound.measure.plain import plain

Tensor = torch.Tensor
WAYS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "emd": lambda a, b: emd(a, b).value,
    "transport": lambda a, b: emd(a, b[:-1]).value,
    "bracket": bounds.bracket,
    "cheap_bracket": cheap_bracket,
    "shift_report": lambda a, b: str(floor.shift_report(a, b)),
    "held_out": floor.held_out,
    "noise_floor": lambda a, b: floor.noise_floor(a),
    "disjoint_emd": floor.disjoint_emd,
    "sliced": lambda a, b: estimates.sliced(a, b, projections=3),
    "sinkhorn": lambda a, b: estimates.sinkhorn(a, b, iterations=20),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "block",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", torch.float16),
        torch.enable_grad,
        torch.inference_mode,
    ],
    ids=["bfloat16", "float16", "gradients", "inference"],
)
def test_a_block_around_changes_no_number(
    way: str, dtype: torch.dtype, block: Callable[[], AbstractContextManager[object]]
) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(40, 3, generator=g).relu().to(dtype) for _ in range(2))
    right = WAYS[way](a, b)
    with block():
        assert WAYS[way](a.clone().requires_grad_(), 1 * b.clone().requires_grad_()) == right


def test_the_block_goes_on_behind_it() -> None:
    @plain
    def seen() -> tuple[bool, bool]:
        return torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()

    with torch.autocast("cpu", torch.bfloat16):
        assert seen() == (False, False)
        assert (torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()) == (True, True)
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
