"""Batch norm swapped in a ResNet-18 without loss, what α = 0.5 then changes layer by layer, and the way back.

The network is torchvision's where torchvision imports beside this torch, and else the same one built here, under the
same parameter names, so that torchvision's weights load either way; these are random ones. A network that is built
anew needs no conversion: `torchvision.models.resnet18(norm_layer=icsbound.UnitizedBatchNorm2d)`.
"""

from __future__ import annotations

import pictures
import torch
from torch import nn

import icsbound
from icsbound.norm.upkeep import refresh_statistics
from icsbound.training import models


def network() -> nn.Module:
    """A ResNet-18 with batch norms, untrained."""
    try:
        from torchvision.models import resnet18
    except (ImportError, RuntimeError):  # not installed, or made for another build of torch
        return models.build("resnet18", classes=1000, channels=3, norm=nn.BatchNorm2d)
    made: nn.Module = resnet18()  # weights="DEFAULT" has the trained ones
    return made


def set_alpha(model: nn.Module, value: float) -> None:
    """The same α in every unitized layer."""
    for layer in model.modules():
        if isinstance(layer, icsbound.UnitizedBatchNorm2d):
            nn.init.constant_(layer.alpha, value)


def main() -> tuple[float, list[float], float]:
    torch.manual_seed(0)
    model = network().eval()
    images = torch.randn(24, 3, 64, 64)
    refresh_statistics(model, [images])  # statistics that fit what the layers see, as after a training
    with torch.no_grad():
        logits = model(images)
        before = icsbound.capture(model, images, view="pooled")

        icsbound.convert(model)  # α = 0
        swapped = (model(images) - logits).abs().max().item()
        print(f"in the network of {type(model).__module__}", end=" ")
        print(f"the swap changes no logit by more than {swapped:.1e} of {logits.abs().max():.1f}")

        set_alpha(model, 0.5)
        after = icsbound.capture(model, images, view="pooled")
        moved = [icsbound.emd(cloud, after[name]).value / cloud.std(0).norm().item() for name, cloud in before.items()]
        for name, ratio in zip(before, moved, strict=True):
            print(f"α = 0.5 moves {name:<24} by {ratio:.3f} of its spread")
        drawn = {"α = 0.5": dict(zip(before, moved, strict=True))}
        pictures.by_layer(drawn, "swapped", "moved by, in spreads")

        set_alpha(model, 0.0)
        icsbound.revert(model)  # refused while any α is not 0
        back = (model(images) - logits).abs().max().item()
        print(f"and back: {back:.1e}, {type(model.bn1).__name__}")
    return swapped, moved, back


if __name__ == "__main__":
    main()
