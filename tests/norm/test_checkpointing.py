"""Activation checkpointing repeats the forward pass: `nn.BatchNorm` counts the batch twice then, this layer once."""

import copy

import pytest
import torch
from problems import assert_near
from torch import nn
from torch.utils.checkpoint import checkpoint

from icsbound.norm import UnitizedBatchNorm1d, unitized_batch_norm


def step(network, x, reentrant=None):
    """One training step's gradients; with checkpointing unless `reentrant` is None."""
    leaf = x.clone().requires_grad_()
    y = network(leaf) if reentrant is None else checkpoint(network, leaf, use_reentrant=reentrant)
    return torch.autograd.grad(y.square().sum(), [leaf]) if reentrant is None else _backward(y, leaf)


def _backward(y, leaf):  # the reentrant variant supports .backward() only
    y.square().sum().backward()
    return (leaf.grad,)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("last", [True, False], ids=["layer last", "layer inside"])
def test_statistics_move_once(reentrant, last):
    # Recomputation may stop early when the last layer has saved its tensors, so its place in the segment matters.
    layers = [nn.Linear(3, 3), UnitizedBatchNorm1d(3, debias=True)] + ([] if last else [nn.Tanh()])
    network = nn.Sequential(*layers).double()
    plain = copy.deepcopy(network)
    for _ in range(3):
        x = torch.randn(6, 3, dtype=torch.float64)
        assert_near(step(network, x, reentrant)[0], step(plain, x)[0], 1e-14)
        for found, wanted in zip(network.buffers(), plain.buffers(), strict=True):
            assert torch.equal(found, wanted)
    assert network[1].num_batches_tracked == 3


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_batch_norm_moves_them_twice(reentrant):
    # The documented difference; should torch change it, the documentation must follow.
    bn = nn.BatchNorm1d(3).double()
    step(nn.Sequential(bn, nn.Tanh()), torch.randn(6, 3, dtype=torch.float64), reentrant)
    assert bn.num_batches_tracked == 2


def test_the_function_moves_them_once():
    mean, var, alpha = torch.zeros(3), torch.ones(3), torch.full((3,), 0.5)
    x = torch.randn(6, 3, requires_grad=True)

    def normalize(t):
        return unitized_batch_norm(t, mean, var, None, None, alpha, training=True).tanh()

    checkpoint(normalize, x, use_reentrant=False).sum().backward()
    assert_near(mean, 0.1 * x.mean(0), 1e-6)
