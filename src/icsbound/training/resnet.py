"""Residual networks for ImageNet, with the normalization as an argument and torchvision's names for every tensor.

Shapes: images (N, C, H, W), 224×224 in the paper; the stem leaves H/4 × W/4, stage s = 1 ... 4 works with 64·2^(s-1)
channels (four times as many out of a bottleneck) at H/2^(s+1); logits (N, classes).

The networks are those of He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv 1512.03385), with
the stride of a bottleneck on its 3×3 convolution, as all public weights have it. Modules bear torchvision's names, so
that its ``state_dict`` loads as it is: ``conv1``, ``bn1``, ``layer1.0.conv1`` ..., ``layer2.0.downsample.0``, ``fc``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]

# name -> (blocks of each stage, bottleneck)
NETWORKS: dict[str, tuple[tuple[int, int, int, int], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """relu(shortcut(x) + norm(conv(... relu(norm(conv(x)))))): two 3×3 convolutions, or 1×1, 3×3, 1×1."""

    def __init__(
        self, inputs: int, width: int, stride: int, norm: Norm, dropout: float = 0.0, *, bottleneck: bool = False
    ) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            self.conv1, self.bn1 = _conv(inputs, width, 1), norm(width)
            self.conv2, self.bn2 = _conv(width, width, 3, stride), norm(width)
            self.conv3, self.bn3 = _conv(width, outputs, 1), norm(outputs)
        else:
            self.conv1, self.bn1 = _conv(inputs, width, 3, stride), norm(width)
            self.conv2, self.bn2 = _conv(width, outputs, 3), norm(outputs)
        self.bottleneck = bottleneck
        self.dropout = nn.Dropout(dropout)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
        # Dropout stands between two convolutions, where its change of variance meets the next layer's statistics.
        y = self.conv2(self.dropout(F.relu(self.bn1(self.conv1(x)))))
        y = self.bn2(y)
        if self.bottleneck:
            y = self.bn3(self.conv3(self.dropout(F.relu(y))))
        out: Tensor = F.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class ResNet(nn.Module):
    """7×7 convolution of stride 2, norm, ReLU, 3×3 maximum of stride 2, four stages, mean over positions, linear."""

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        classes: int,
        *,
        channels: int = 3,
        norm: Norm = nn.BatchNorm2d,
        dropout: float = 0.0,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = norm(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, count in enumerate(blocks):
            width, made = 64 * 2**stage, []
            for block in range(count):
                stride = 2 if stage and not block else 1
                made.append(Block(inputs, width, stride, norm, dropout, bottleneck=bottleneck))
                inputs = width * 4 if bottleneck else width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, classes)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
