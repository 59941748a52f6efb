"""The pairs of laws have the moments and the distances that theory says."""

import math
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch

from icsbound._check import InputError
from icsbound.measure import bounds
from icsbound.measure.emd import emd
from icsbound.study import laws
from icsbound.study.dimension import normalized
from icsbound.study.unitization import layer, through

Pair: TypeAlias = Callable[[int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]
GOLDEN = (1 + math.sqrt(5)) / 2


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(int(torch.randint(1 << 30, ())))


@pytest.mark.parametrize("d", [1, 2, 4, 8, 64])
def test_hadamard_rows_are_orthogonal_signs(d: int) -> None:
    h = laws.hadamard(d)
    assert torch.equal(h @ h.T, d * torch.eye(d, dtype=torch.float64))
    assert torch.equal(h.abs(), torch.ones(d, d, dtype=torch.float64))


def test_hadamard_needs_a_power_of_two() -> None:
    with pytest.raises(InputError, match=r"^d must be a power of 2, got 12$"):
        laws.hadamard(12)


@pytest.mark.parametrize("d", [4, 16, 64])
def test_cube_and_cross_polytope_lie_where_theory_says(d: int) -> None:
    a, b = laws.cube_and_cross(d)
    for z in (a, b):
        assert torch.allclose(z.T @ z / len(z), torch.eye(d, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(z.norm(dim=1), torch.full((2 * d,), math.sqrt(d), dtype=torch.float64))
    assert emd(a, b).value == pytest.approx(math.sqrt(2 * d - 2 * math.sqrt(d)), rel=1e-12)


def test_the_mirrored_pair_attains_its_maximum_on_the_line() -> None:
    assert pytest.approx(4 * GOLDEN**-2.5) == laws.MIRRORED
    assert pytest.approx(1.2011, abs=1e-4) == laws.MIRRORED
    p = (3 - math.sqrt(5)) / 4  # exactly, with weights
    h = math.sqrt(p / (1 - p))
    atoms = torch.tensor([[1 / h], [-h]], dtype=torch.float64)
    weights = torch.tensor([p, 1 - p], dtype=torch.float64)
    found = emd(atoms, -atoms, weights_a=weights, weights_b=weights)
    assert found.value == pytest.approx(laws.MIRRORED, rel=1e-12)
    a, b = laws.mirrored(1, generator())
    assert emd(a, b).value == pytest.approx(laws.MIRRORED, rel=1e-7)


def test_spikes_cost_what_theory_says_in_one_and_in_two_dimensions() -> None:
    a, b = laws.spiked(1, generator())
    assert emd(a, b).value == pytest.approx(1.125, rel=1e-12)
    assert float(b.pow(4).mean()) == pytest.approx(16)
    # The whole product law: every pair of the 32 atoms of two coordinates, 1,024 equally likely points.
    products = [torch.cartesian_prod(z[:, 0], z[:, 0]) for z in (a, b)]
    value = emd(*products).value
    assert 1.125 * math.sqrt(2) <= value <= 2
    assert bounds.marginals(*products) == pytest.approx(1.125 * math.sqrt(2), rel=1e-12)


@pytest.mark.parametrize("d", [1, 3, 20])
@pytest.mark.parametrize(("make", "least"), [(laws.mirrored, laws.MIRRORED), (laws.spiked, laws.SPIKED)])
def test_batch_norm_cannot_tell_the_pairs_apart(make: Pair, least: float, d: int) -> None:
    a, b = make(d, generator())
    for z in (a, b):
        assert torch.allclose(z.mean(0), torch.zeros(d, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(z.square().mean(0), torch.ones(d, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(normalized(z), z, atol=1e-12)
    assert least * math.sqrt(d) * (1 - 1e-6) <= emd(a, b).value <= math.sqrt(2 * d)


@pytest.mark.parametrize("sigma", [1.0, 0.3, 1e-3, 1e-6])
def test_the_amplified_pair_has_equal_variance_and_a_known_distance(sigma: float) -> None:
    a, b = laws.amplified(sigma)
    for z in (a, b):
        assert float(z.square().mean(0).sum()) == pytest.approx(2)
        assert float((z[:, 0] * z[:, 1]).mean()) == pytest.approx(0, abs=1e-15)
    assert emd(a, b).value == pytest.approx(1.125 * sigma, rel=1e-9)
    assert emd(normalized(a), normalized(b)).value == pytest.approx(1.125, rel=1e-6)


def test_flipping_samples_are_blown_up_by_unitization() -> None:
    a, b = laws.flipping(16)
    for z in (a, b):
        assert math.sqrt(float(z.square().sum(1).mean())) == pytest.approx(4.0, rel=1e-3)
    assert emd(a, b).value == pytest.approx(0.0768, rel=1e-3)
    unitized = (through(layer(16, "harmonic", 1.0), z) for z in (a, b))
    assert emd(*unitized).value == pytest.approx(7.68, rel=1e-3)


def test_rows_of_the_sphere_have_one_norm() -> None:
    z = laws.sphere(50, 7, generator())
    assert torch.allclose(z.norm(dim=1), torch.full((50,), math.sqrt(7), dtype=torch.float64))
