"""The plane on which a layer is drawn, and the transport there."""

import math

import pytest
import torch

from icsbound._check import InputError
from icsbound.measure.emd import emd
from icsbound.measure.plane import Plane, transported


@pytest.mark.parametrize(("n", "d"), [(40, 2), (40, 9), (12, 300), (8, 8)])
def test_it_lies_along_the_largest_variances(n: int, d: int) -> None:
    cloud = torch.randn(n, d, dtype=torch.float64) * torch.logspace(0, -2, d, dtype=torch.float64) + 5
    plane = Plane(cloud)
    assert torch.allclose(plane.directions @ plane.directions.T, torch.eye(2, dtype=torch.float64), atol=1e-12)
    seen = plane.place(cloud)
    assert torch.allclose(seen.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-12)
    values = torch.linalg.eigvalsh((cloud - cloud.mean(0)).T @ (cloud - cloud.mean(0)) / n)
    assert torch.allclose(seen.square().mean(0), values[-2:].flip(0))
    assert plane.share == pytest.approx(float(values[-2:].sum() / values.sum()))


def test_it_shows_distances_no_larger_than_they_are() -> None:
    a, b = torch.randn(2, 30, 6, dtype=torch.float64)
    plane = Plane(a)
    found, moved = transported(plane.place(a), plane.place(b))
    assert found.value <= emd(a, b).value + 1e-12
    assert float((plane.place(a) - moved).norm(dim=1).mean()) == pytest.approx(found.value)
    assert torch.equal(moved.sort(0).values, plane.place(b).sort(0).values)


def test_it_is_the_same_for_the_same_cloud_in_any_precision() -> None:
    cloud = torch.randn(20, 5)
    one, other = Plane(cloud), Plane(cloud.double())
    assert torch.allclose(one.directions, other.directions)
    assert bool((one.directions.gather(1, one.directions.abs().argmax(1, keepdim=True)) > 0).all())


def test_a_shift_is_seen_as_one() -> None:
    cloud = torch.randn(25, 3, dtype=torch.float64)
    plane = Plane(cloud)
    shift = 2 * plane.directions[0] + 1.5 * plane.directions[1]
    found, moved = transported(plane.place(cloud), plane.place(cloud + shift))
    assert found.value == pytest.approx(math.hypot(2, 1.5))
    assert torch.allclose(moved - plane.place(cloud), torch.tensor([2.0, 1.5], dtype=torch.float64).expand(25, 2))


def test_clouds_without_variance_have_a_place() -> None:
    for cloud in (torch.ones(6, 3), torch.ones(1, 3)):
        plane = Plane(cloud)
        assert plane.share == 1.0
        assert torch.equal(plane.place(cloud), torch.zeros(len(cloud), 2, dtype=torch.float64))


def test_what_is_no_cloud_is_named() -> None:
    with pytest.raises(
        InputError, match=r"^cloud must have at least two columns to be seen on a plane, got a tensor of "
    ):
        Plane(torch.randn(5, 1))
    with pytest.raises(
        InputError, match=r"^cloud must have 3 columns as the first one, got a tensor of shape \(5, 4\)"
    ):
        Plane(torch.randn(5, 3)).place(torch.randn(5, 4))
