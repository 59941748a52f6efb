"""Clouds from outputs, against what each view says in plain loops."""

import pytest
import torch

from icsbound._check import InputError
from icsbound.measure import views
from icsbound.measure.emd import emd

N = 12


def cloud(x: torch.Tensor, view: str, axis: int | None = 1, rows: slice = slice(0, N)) -> torch.Tensor:
    return views.cloud(x, view, axis, "conv", rows, N, dimension=4, seed=3)


# Channels second (images), last (tokens), none besides (dense).
@pytest.mark.parametrize(("shape", "axis"), [((N, 3, 4, 5), 1), ((N, 5, 3), -1), ((N, 4, 5, 3), 3), ((N, 3), 1)])
def test_against_loops(shape, axis) -> None:
    x = torch.randn(shape)
    positions = [p.flatten(0, -2) if axis != 1 else p.flatten(1).T for p in x] if x.ndim > 2 else [r[None] for r in x]
    assert torch.equal(cloud(x, "sample", axis), x.reshape(N, -1))
    torch.testing.assert_close(cloud(x, "pooled", axis), torch.stack([p.mean(0) for p in positions]))
    rows = cloud(x, "position", axis)
    assert all((p == row).all(1).any() for p, row in zip(positions, rows, strict=True))
    assert views.positions(x, axis) == len(positions[0])


def test_position_is_drawn_evenly_and_fixed_by_the_seed() -> None:
    n, length = 4000, 5
    x = torch.arange(length).expand(n, 1, length).double()
    drawn = views.cloud(x, "position", 1, "conv", slice(0, n), n, 1, seed=0).flatten()
    again = views.cloud(x, "position", 1, "conv", slice(0, n), n, 1, seed=0).flatten()
    other = views.cloud(x, "position", 1, "conv", slice(0, n), n, 1, seed=1).flatten()
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)
    counts = torch.bincount(drawn.long(), minlength=length)
    deviation = (n * (1 / length) * (1 - 1 / length)) ** 0.5
    assert (counts - n / length).abs().max() < 5 * deviation


@pytest.mark.parametrize("view", views.VIEWS)
def test_batches_join_to_the_whole(view) -> None:
    x = torch.randn(N, 3, 4, 5, dtype=torch.float64)
    parts = [cloud(x[rows], view, rows=rows) for rows in (slice(0, 5), slice(5, 6), slice(6, N))]
    torch.testing.assert_close(torch.cat(parts), cloud(x, view))


def test_projection_is_orthonormal_and_never_raises_the_distance() -> None:
    basis = views.projection(40, 7, 0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(7, dtype=torch.float64))
    a, b = torch.randn(N, 40, dtype=torch.float64), torch.randn(N, 40, dtype=torch.float64)
    assert emd(cloud(a, "projection"), cloud(b, "projection")).value < emd(a, b).value
    few = a[:, :3]  # no more columns than directions: turned, and W1 as it was
    assert emd(cloud(few, "projection"), cloud(b[:, :3], "projection")).value == pytest.approx(emd(few, b[:, :3]).value)


def test_means_and_projections_of_half_precision_are_taken_in_float32() -> None:
    x = torch.full((N, 1, 4096), 100.0, dtype=torch.float16)  # their sum is beyond float16
    pooled = cloud(x, "pooled")
    assert pooled.dtype == cloud(x, "projection").dtype == torch.float32
    assert (pooled == 100).all()


def test_autocast_rounds_no_view() -> None:
    x = torch.randn(N, 3, 4, 5)
    for view in views.VIEWS:
        plain = cloud(x, view)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(cloud(x, view), plain), view


def test_unknown_channel_axis() -> None:
    x = torch.randn(N, 3, 4)
    assert cloud(x, "sample", None).shape == (N, 12)
    assert views.positions(x, None) is None
    with pytest.raises(
        InputError, match=r"channel_axis must be given for layer 'conv', whose type does not tell it and"
    ):
        cloud(x, "pooled", None)
    for axis in (0, 3, -3):
        with pytest.raises(InputError, match=rf"channel_axis must be an axis other than 0 .* \(12, 3, 4\), got {axis}"):
            cloud(x, "pooled", axis)
