"""The problems that every implementation of the layer is run through: settings × shapes, with seeded tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from icsbound.norm import reference
from icsbound.norm.kernels.aten import Statistics
from icsbound.norm.settings import Settings

INTERPOLATIONS = ("harmonic", "arithmetic", "geometric")
SCOPES = ("sample", "position", "batch")

SHAPES = {
    "image": (5, 3, 4, 6),  # the usual case, with H != W so that swapped axes show
    "dense": (4, 3),  # no positions at all: L = 1
    "sequence": (3, 2, 7),  # one spatial axis, of odd size
    "volume": (2, 4, 3, 2, 5),  # three spatial axes
    "one sample": (1, 3, 4, 4),  # the mean over samples is that of one
    "one channel": (6, 1, 3, 3),  # the norm is over a single channel
    "one position": (3, 5, 1, 1),  # an image whose H·W is 1: row variances vanish
}


def problems_of(interpolation: str, scope: str) -> Iterator[tuple[Problem, Settings]]:
    """Every shape, and all settings: each of the 24 with images, each of them with two of the other six shapes."""
    for i, (name, shape) in enumerate(SHAPES.items()):
        p = problem(shape, seed=i)
        for j, settings in enumerate(settings_of(interpolation, scope)):
            if name == "image" or j % 3 == i % 3:
                yield p, settings


def settings_of(interpolation: str, scope: str) -> Iterator[Settings]:
    """Every target × variance × activation × shrink_only, for one interpolation and scope."""
    for target, variance, activation, shrink_only in itertools.product(
        ("rms", "paper", 2.5), ("biased", "published"), (None, "relu"), (False, True)
    ):
        yield Settings(
            eps=1e-3,
            norm_eps=2e-3,  # unlike eps, so that one taken for the other shows
            interpolation=interpolation,
            scope=scope,
            target=target,
            shrink_only=shrink_only,
            variance=variance,
            activation=activation,
        )


@dataclass
class Problem:
    """Inputs of one call, all requiring gradients, and a gradient for its output."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    alpha: Tensor
    stored: Statistics
    dy: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [t for t in (self.x, self.weight, self.bias, self.alpha) if t is not None]


def problem(
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    affine: bool = True,
    edges: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Values of order one about a mean of two; α inside (0, 1), with channels at both ends if `edges`.

    The samples differ in size by a factor of about ten, so that unitization has something to do.
    """
    g = torch.Generator().manual_seed(seed)
    C = shape[1]

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=dtype)

    x = normal(*shape) * torch.exp(0.8 * normal(shape[0], *(1,) * (len(shape) - 1))) + 2
    alpha = 0.1 + 0.8 * torch.rand(C, generator=g, dtype=dtype)
    if edges:
        alpha[0], alpha[-1] = 0.0, 1.0
    weight, bias = 1 + 0.5 * normal(C), normal(C)
    stored = Statistics(2 + 0.3 * normal(C), torch.exp(0.5 * normal(C)))
    leaves = [t.requires_grad_() for t in (x, weight, bias, alpha)]
    return Problem(leaves[0], *(leaves[1:3] if affine else (None, None)), leaves[3], stored, normal(*shape))


def composite(p: Problem, settings: Settings, training: bool) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of the definition, by autograd."""
    y = reference.unitize(p.x, p.weight, p.bias, p.alpha, None if training else p.stored, settings)
    return y.detach(), list(torch.autograd.grad(y, p.leaves, p.dy))


def trained(net: nn.Module, shape: tuple[int, ...] = (6, 2, 5, 5)) -> nn.Module:
    """`net` with running statistics and parameters away from their initial values."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    for _ in range(3):
        net(torch.randn(shape, dtype=next(net.parameters()).dtype))
    return net


def assert_near(found: Tensor, wanted: Tensor, tolerance: float = 1e-10) -> None:
    """`found` equals `wanted` to `tolerance` times the largest entry (at least 1)."""
    found, wanted = found.detach(), wanted.detach()
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max([1.0, *wanted.abs().flatten().tolist()]))
