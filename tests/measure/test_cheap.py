"""The bracket from one pass equals the bounds taken one by one."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icsbound._check import InputError
from icsbound.measure import bounds
from icsbound.measure.cheap import cheap_bracket


def by_one(a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
    """The same numbers from `bounds`, and the spread written out."""
    a, b = a.double(), b.double()
    found = {f.__name__: f(a, b) for f in (bounds.paired, bounds.independent, bounds.mean_shift, bounds.norms)}
    largest = max(float(a.abs().max()), float(b.abs().max())) or 1.0
    variances = [(z / largest).var(0, correction=0).sum() for z in (a, b)]
    return {**found, "scale": math.sqrt(float(sum(variances)) / 2) * largest}


@given(
    n=st.integers(1, 40),
    d=st.integers(1, 30),
    power=st.sampled_from([-150, -20, 0, 20, 150]),
    offset=st.sampled_from([0.0, 1e4]),
    moved=st.sampled_from([0.0, 1e-6, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_equals_the_bounds(n, d, power, offset, moved, dtype, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=generator, dtype=torch.float64) + offset
    b = a + moved * torch.randn(n, d, generator=generator, dtype=torch.float64)
    scale = 10.0**power if dtype == torch.float64 else 10.0 ** (power / 10)
    a, b = (a * scale).to(dtype), (b * scale).to(dtype)
    rounding = 1e-11 * offset * scale * math.sqrt(d)  # of means of large columns
    expected = by_one(a, b)
    for name, number in dataclasses.asdict(cheap_bracket(a, b)).items():
        assert number == pytest.approx(expected[name], rel=1e-9, abs=rounding + 1e-12 * expected["independent"])


def test_many_blocks_of_columns() -> None:
    a = torch.randn(600, 1500)
    b = a + 0.1 * torch.randn(600, 1500) + 0.01
    found = dataclasses.asdict(cheap_bracket(a, b))
    assert found == pytest.approx(by_one(a, b), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(dtype) -> None:
    a, b = torch.randn(20, 7).to(dtype), torch.randn(20, 7).to(dtype)
    assert cheap_bracket(a, b) == cheap_bracket(a.double(), b.double())


def test_clouds_that_coincide() -> None:
    a = torch.randn(9, 4) + 1e6
    found = cheap_bracket(a, a.clone())
    assert found.paired == found.mean_shift == found.norms == 0
    constant = torch.full((7, 4), 0.1, dtype=torch.float64)  # whose mean, as a sum, is not 0.1
    assert cheap_bracket(constant, constant).scale == 0


def test_a_large_common_offset_costs_no_digits() -> None:
    a, b = torch.randint(-8, 9, (2, 50, 6)).double()  # exact beside the offset
    near, far = cheap_bracket(a, b), cheap_bracket(a + 2.0**40, b + 2.0**40)
    assert dataclasses.asdict(far) == pytest.approx(dataclasses.asdict(near), rel=1e-13)


def test_shapes_that_differ() -> None:
    with pytest.raises(InputError, match=r"a and b must be clouds of one shape, got \(3, 2\) and \(4, 2\)"):
        cheap_bracket(torch.ones(3, 2), torch.ones(4, 2))
