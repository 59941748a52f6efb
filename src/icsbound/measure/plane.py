"""One layer on a plane, to be looked at: where its outputs lie at each step, and how the best transport moves them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from icsbound import _check
from icsbound.measure.emd import EMDResult, emd


class Plane:
    """The plane through the mean of a cloud (n, d) along its two directions of largest variance, d >= 2.

    It is fixed by that cloud, so that later ones of the same layer are seen from the same side. `share` is how much of
    the cloud's variance lies in it. Signs are those that make the largest entry of each direction positive.
    """

    def __init__(self, cloud: Tensor) -> None:
        _check.cloud("cloud", cloud)
        if cloud.shape[1] < 2:
            _check.fail("cloud", "have at least two columns to be seen on a plane", cloud)
        points = cloud.detach().cpu().double()
        self.mean = points.mean(0)
        # In the smaller of both spaces: a layer may put out many more values than there are inputs.
        _, values, directions = torch.linalg.svd(points - self.mean, full_matrices=False)
        directions = directions[:2] if len(directions) > 1 else torch.cat([directions, torch.zeros_like(directions)])
        largest = directions.abs().argmax(1, keepdim=True)
        signs = directions.gather(1, largest).sign()
        self.directions: Tensor = (directions * torch.where(signs == 0, 1.0, signs)).contiguous()
        total = float(values.square().sum())
        self.share = float(values[:2].square().sum()) / total if total > 0 else 1.0

    def state(self) -> dict[str, Tensor]:
        """What `restored` makes the same plane from."""
        return {
            "mean": self.mean,
            "directions": self.directions,
            "share": torch.tensor(self.share, dtype=torch.float64, device="cpu"),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Tensor]) -> Plane:
        """The plane of `state`. Raises KeyError where something is missing."""
        plane = cls.__new__(cls)
        plane.mean, plane.directions = state["mean"], state["directions"]
        plane.share = float(state["share"])
        return plane

    def place(self, cloud: Tensor) -> Tensor:
        """The rows of `cloud` (m, d) on the plane: (m, 2), in the units of the cloud, the mean at the origin."""
        _check.cloud("cloud", cloud)
        if cloud.shape[1] != len(self.mean):
            _check.fail("cloud", f"have {len(self.mean)} columns as the first one", cloud)
        return (cloud.detach().cpu().double() - self.mean) @ self.directions.T


def transported(a: Tensor, b: Tensor) -> tuple[EMDResult, Tensor]:
    """The exact transport between two clouds of points (n, 2), and `b` in the order in which `a` is moved onto it."""
    result = emd(a, b)
    assert result.matching is not None  # equal sizes, no weights
    return result, b[result.matching]
