"""The layer where torchvision and timm build their networks of it, as their `norm_layer`."""

from functools import partial

import pytest
import torch
import zoo
from problems import assert_near
from torch import nn

from icsbound.norm import UnitizedBatchNorm2d


@pytest.mark.zoo
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_network_built_of_the_layer_is_that_of_batch_norm_at_alpha_zero(library):
    results = []
    for norm in (nn.BatchNorm2d, partial(UnitizedBatchNorm2d, alpha_init=0.0)):
        torch.manual_seed(0)
        net = zoo.zoo(library)["resnet18"](num_classes=5, norm_layer=norm).double()
        x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        y = net(x)
        y.square().sum().backward()
        grads = [p.grad for name, p in net.named_parameters() if not name.endswith("alpha")]
        results.append([y, *grads, net.eval()(x)])
    assert sum(isinstance(m, UnitizedBatchNorm2d) for m in net.modules()) == 20
    for found, wanted in zip(*results, strict=True):
        assert_near(found, wanted, 1e-9)
