"""The layer where torchvision and timm build their networks of it, as their `norm_layer`."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from problems import assert_near
from torch import nn

from icsbound.norm import UnitizedBatchNorm2d

sys.path.append(str(Path(__file__).parents[1] / "training"))

import vision  # beside the tests of training

BUILDERS = {
    "torchvision": lambda norm: vision.torchvision().models.resnet18(num_classes=5, norm_layer=norm),
    "timm": lambda norm: vision.timm().create_model("resnet18", num_classes=5, norm_layer=norm),
}


@pytest.mark.parametrize("library", BUILDERS)
def test_a_network_built_of_the_layer_is_that_of_batch_norm_at_alpha_zero(library):
    results = []
    for norm in (nn.BatchNorm2d, partial(UnitizedBatchNorm2d, alpha_init=0.0)):
        torch.manual_seed(0)
        net = BUILDERS[library](norm).double()
        x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        y = net(x)
        y.square().sum().backward()
        grads = [p.grad for name, p in net.named_parameters() if not name.endswith("alpha")]
        results.append([y, *grads, net.eval()(x)])
    assert sum(isinstance(m, UnitizedBatchNorm2d) for m in net.modules()) == 20
    for found, wanted in zip(*results, strict=True):
        assert_near(found, wanted, 1e-9)
