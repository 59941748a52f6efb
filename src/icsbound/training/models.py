"""Networks by name, and the pre-activation residual networks for small images, with the normalization as an argument.

Shapes: images (N, C, H, W); stage s = 0, 1, 2 works with width·2^s channels at H/2^s × W/2^s; logits (N, classes).

The network is the one of He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016, arXiv 1603.05027): a
3×3 convolution, three stages of n blocks, a last normalization, the mean over positions and a linear layer. Depth 6n
+ 2 has basic blocks (two 3×3 convolutions), depth 164 = 9·18 + 2 has bottlenecks (1×1, 3×3, 1×1 with fourfold
output). Those for ImageNet are in `resnet`, those of other libraries and of the user in `foreign`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icsbound._check import fail, nearest, positive_int, real
from icsbound.training import conversion, foreign, resnet, seeds, spec
from icsbound.training.arms import Arm

Norm = Callable[[int], nn.Module]

# name -> (blocks a stage, bottleneck)
SMALL = {"resnet8": (1, False), "resnet20": (3, False), "resnet110": (18, False), "resnet164": (18, True)}
NETWORKS = (*SMALL, *resnet.NETWORKS)
ELSEWHERE = "timm:NAME, torchvision:NAME, pkg.module:factory"


class Block(nn.Module):
    """A pre-activation block: x + conv(relu(norm(... x))), the shortcut a strided 1×1 convolution where shapes
    differ.

    It takes every stride-th pixel and then all of these: in the backward pass of a strided 1×1 convolution of few
    channels oneDNN writes past its memory (see `session.refuse_overrun`).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        norm: Norm,
        dropout: float = 0.0,
        *,
        dropout_before_norm: bool = False,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        # (channels, kernel, stride) of each convolution; the stride sits on the first 3×3.
        if bottleneck:
            convs = [(outputs // 4, 1, 1), (outputs // 4, 3, stride), (outputs, 1, 1)]
        else:
            convs = [(outputs, 3, stride), (outputs, 3, 1)]
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        channels = inputs
        for width, kernel, step in convs:
            self.norms.append(norm(channels))
            self.convs.append(nn.Conv2d(channels, width, kernel, step, kernel // 2, bias=False))
            channels = width
        self.dropout = nn.Dropout(dropout)
        self.dropout_before_norm = dropout_before_norm
        plain = inputs == outputs and stride == 1
        self.shortcut: nn.Conv2d | None = None if plain else nn.Conv2d(inputs, outputs, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
        h = F.relu(self.norms[0](x))
        # As in the paper, a projection takes the activated input, an identity the input itself.
        y = x if self.shortcut is None else self.shortcut(F.avg_pool2d(h, 1, self.stride))
        h = self.convs[0](h)
        for norm, conv in zip(list(self.norms)[1:], list(self.convs)[1:], strict=True):
            # Dropout stands between two convolutions. Before the norm its change of variance meets that norm's own
            # statistics, after it those of the layers behind the convolution; wide networks are built both ways.
            h = conv(F.relu(norm(self.dropout(h)))) if self.dropout_before_norm else conv(self.dropout(F.relu(norm(h))))
        out: Tensor = y + h
        return out


class PreActResNet(nn.Module):
    """Stem, three stages of `blocks` pre-activation blocks, norm, ReLU, mean over positions, linear."""

    def __init__(
        self,
        blocks: int,
        width: int,
        classes: int,
        *,
        channels: int = 3,
        norm: Norm = nn.BatchNorm2d,
        dropout: float = 0.0,
        dropout_before_norm: bool = False,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        inputs, stages = width, []
        options = {"dropout_before_norm": dropout_before_norm, "bottleneck": bottleneck}
        for stage in range(3):
            outputs = width * 2**stage * (4 if bottleneck else 1)
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(Block(inputs, outputs, stride, norm, dropout, **options))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.norm = norm(inputs)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, classes)."""
        x = F.relu(self.norm(self.blocks(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def initialize(model: nn.Module, seed: int) -> nn.Module:
    """Draw the convolutions and linear layers of `model` anew from `seed` alone, in the order of `named_modules`.

    Weights are normal with variance 2 / fan_out for a convolution (He et al. 2015) and 1 / fan_in for a linear layer,
    biases 0. The normalization layers draw nothing, so that all arms begin at the same weights.
    """
    generator = seeds.generator(seed, "weights")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size) / module.groups
                module.weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, math.sqrt(1.0 / module.in_features), generator=generator)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.zero_()
    return model


def build(name: str, *, classes: int, channels: int, norm: Norm, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    """The network of this project called `name`: one of `NETWORKS`, those for small images also with ``:width=W`` (16
    without) and ``dropout_before_norm=true``: dropout stands before the inner norms instead of after their ReLU.

    Two calls that differ in `norm` alone return equal convolutions and linear weights. The global random state is
    left as it was.
    """
    base, settings = spec.split("model", name)
    if base not in NETWORKS:
        fail("model", "be one of " + ", ".join((*NETWORKS, ELSEWHERE)), base, nearest(base, NETWORKS))
    real("dropout", dropout, 0.0, 1.0)
    for key in settings:
        if base not in SMALL:
            fail(f"the settings of model {base!r}", "be none", key)
        if key not in ("width", "dropout_before_norm"):
            fail(f"a setting of model {base!r}", "be width or dropout_before_norm", key)
    model: nn.Module
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        if base in SMALL:
            width = positive_int("width", settings.get("width", 16))
            blocks, bottleneck = SMALL[base]
            before_norm = settings.get("dropout_before_norm", False)
            if not isinstance(before_norm, bool):
                fail("dropout_before_norm", "be true or false", before_norm)
            model = PreActResNet(
                blocks,
                width,
                classes,
                channels=channels,
                norm=norm,
                dropout=dropout,
                dropout_before_norm=before_norm,
                bottleneck=bottleneck,
            )
        else:
            stages, bottleneck = resnet.NETWORKS[base]
            model = resnet.ResNet(stages, classes, channels=channels, norm=norm, dropout=dropout, bottleneck=bottleneck)
    return initialize(model, seed)


def network(
    name: str,
    arm: Arm,
    *,
    classes: int,
    channels: int,
    size: int,
    seed: int = 0,
    dropout: float = 0.0,
    synchronized: bool = False,
) -> nn.Module:
    """The network called `name`, of this project or from elsewhere, with the layers of `arm`, untrained.

    It is for (N, channels, size, size) images; all arms of one name and seed begin at the same weights. `synchronized`
    layers share their batch statistics over all processes.
    """
    if foreign.split(name) is None:
        norm = arm.make_synchronized if synchronized else arm.make
        model = build(name, classes=classes, channels=channels, norm=norm, seed=seed, dropout=dropout)
        return arm.start(model, seed)
    if dropout:
        fail("dropout", f"be 0 with model {name!r}, whose own settings say where it has some", dropout)
    model = foreign.build(name, classes=classes, channels=channels, size=size, seed=seed)
    return arm.start(conversion.apply(arm, model, synchronized=synchronized), seed)
