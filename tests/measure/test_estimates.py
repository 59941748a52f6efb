"""Estimates by other means: what they are equal to, on which side of W1 they lie, and what they say of themselves."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icsbound import emd
from icsbound._check import InputError
from icsbound.measure.estimates import Estimated, sinkhorn, sliced

Tensor = torch.Tensor
SEEDS = st.integers(0, 10**6)


def test_what_messages_name_is_there_after_importing_the_package() -> None:
    code = "import icsbound; icsbound.measure.estimates.sliced; icsbound.measure.sinks.scalars"
    subprocess.run([sys.executable, "-c", code], check=True)  # what it may load is for the test of the architecture


def clouds(seed: int, n: int = 30, m: int = 30, d: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(k, d, generator=g, dtype=torch.float64) for k in (n, m))
    return a, 1.5 * b + 0.3


@settings(deadline=None, derandomize=True, max_examples=30)
@given(SEEDS, st.integers(1, 40), st.integers(1, 40), st.integers(1, 6))
def test_sliced_never_exceeds_w1_and_on_the_line_is_w1(seed: int, n: int, m: int, d: int) -> None:
    a, b = clouds(seed, n, m, d)
    right, found = emd(a, b).value, sliced(a, b, projections=20, seed=seed)
    assert 0 <= found.value <= right * (1 + 1e-12)
    assert (found.n, found.m, found.d) == (n, m, d)
    if d == 1:
        assert found.value == pytest.approx(right, rel=1e-12)


def test_sliced_of_a_translation_is_the_mean_projection() -> None:
    a, _ = clouds(0, d=3)
    found = sliced(a, a + 2.0, projections=20_000)
    assert found.value == pytest.approx(2 * math.sqrt(3) / 2, rel=0.02)  # E|cos| is 1/2 in three dimensions
    assert sliced(a, a + 2.0, seed=1) == sliced(a, a + 2.0, seed=1) != sliced(a, a + 2.0, seed=2)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(SEEDS, st.integers(1, 25), st.integers(1, 25))
def test_sinkhorn_that_converged_lies_above_w1_and_comes_down_to_it(seed: int, n: int, m: int) -> None:
    a, b = clouds(seed, n, m)
    right = emd(a, b).value
    coarse, fine = (sinkhorn(a, b, regularization=r, iterations=20_000) for r in (1.0, 0.1))
    assert "stopped" not in coarse.estimator
    assert right * (1 - 1e-6) <= coarse.value
    assert "stopped" in fine.estimator or right * (1 - 1e-6) <= fine.value <= coarse.value * (1 + 1e-6)
    assert fine.value == pytest.approx(right, rel=0.1)


@pytest.mark.parametrize("exponent", [-150, 150])
def test_scale_changes_nothing(exponent: int) -> None:
    a, b = clouds(3)
    unit = 2.0**exponent
    for estimate in (sliced, sinkhorn):
        assert estimate(a * unit, b * unit).value == pytest.approx(estimate(a, b).value * unit, rel=1e-9)


def test_estimates_say_what_they_are() -> None:
    a, b = clouds(4)
    assert sliced(a, b, projections=7).estimator == "sliced W1 over 7 directions (POT)"
    assert sinkhorn(a, b, regularization=0.5).estimator == "Sinkhorn, regularization 0.5 of the mean cost (POT)"
    stopped = sinkhorn(a, b, regularization=0.01, iterations=10).estimator
    assert stopped.startswith("Sinkhorn, regularization 0.01 of the mean cost (POT), stopped after 10 iterations with")
    assert sinkhorn(a[:1], a[:1]).value == sliced(a[:1], a[:1]).value == 0.0
    assert {f.name for f in dataclasses.fields(Estimated)}.isdisjoint({"lower", "gap", "certified"})


@pytest.mark.parametrize("estimate", [sliced, sinkhorn])
def test_bad_clouds_are_named(estimate: object) -> None:
    assert callable(estimate)
    a, _ = clouds(5)
    bad = a.clone()
    bad[3, 1] = math.nan
    with pytest.raises(
        InputError, match=r"b must be finite, got NaN or infinity in 1 of 30 rows \(the first is row 3\)"
    ):
        estimate(a, bad)
    with pytest.raises(InputError, match="a must have at least one row and one column"):
        estimate(a[:0], a)
    with pytest.raises(InputError, match="a and b must have the same number of columns, got 4 and 3"):
        estimate(a, a[:, :3])


def test_bad_numbers_are_named() -> None:
    a, b = clouds(6)
    with pytest.raises(InputError, match="projections must be an integer of at least 1, got 0"):
        sliced(a, b, projections=0)
    with pytest.raises(InputError, match="seed must be an integer of at least 0, got -1"):
        sliced(a, b, seed=-1)
    with pytest.raises(InputError, match=r"regularization must lie in \[1e-06, 1000\], got 0"):
        sinkhorn(a, b, regularization=0)
    with pytest.raises(InputError, match="iterations must be an integer of at least 1"):
        sinkhorn(a, b, iterations=0)
    with pytest.raises(InputError, match="max_bytes must be at least 7,200 for the cost matrix of 30 x 30 rows"):
        sinkhorn(a, b, max_bytes=100)


@pytest.mark.parametrize(("estimate", "name"), [(sliced, "sliced distance"), (sinkhorn, "Sinkhorn estimate")])
def test_missing_pot_names_the_extra(estimate: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(estimate)
    monkeypatch.setitem(sys.modules, "ot", None)  # importing it raises ImportError
    with pytest.raises(InputError, match=rf"the {name} needs POT.*pip install 'icsbound\[emd\]'"):
        estimate(*clouds(7))
