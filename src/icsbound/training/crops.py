"""Random-resized crops: a part of a picture of random area and shape, scaled to one size.

The law is that of Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015, arXiv 1409.4842), as every ImageNet
recipe has it: the crop's area is a share of the picture's, uniform in [scale, 1]; the logarithm of its width over its
height is uniform in ± log ratio; of ten draws the first that fits is taken, and its place is uniform. Where none fits,
it is the largest crop about the middle whose shape is allowed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_TRIES = 10


def boxes(n: int, height: int, width: int, scale: float, ratio: float, generator: torch.Generator) -> Tensor:
    """n crops of pictures of height × width pixels, (n, 4) int64: top, left, height, width."""
    share, shape = torch.rand(2, n, _TRIES, generator=generator, dtype=torch.float64, device="cpu")
    area = height * width * (scale + (1.0 - scale) * share)
    aspect = torch.exp((2.0 * shape - 1.0) * math.log(ratio))
    sizes = torch.stack([torch.sqrt(area / aspect), torch.sqrt(area * aspect)], -1).round().long()  # (n, tries, 2)
    picture = torch.tensor([height, width], device="cpu")
    fits = ((sizes > 0) & (sizes <= picture)).all(-1)
    first = fits.int().argmax(1)  # the first of the largest, which are those that fit
    size = sizes[torch.arange(n, device="cpu"), first]
    whole = torch.tensor([min(height, round(width * ratio)), min(width, round(height * ratio))], device="cpu")
    found = fits.any(1)
    size = torch.where(found[:, None], size, whole.clamp_min(1))
    room = picture - size
    place = torch.rand(n, 2, generator=generator, dtype=torch.float64, device="cpu")
    corner = torch.where(found[:, None], (place * (room + 1)).long(), room // 2)
    return torch.cat([corner, size], 1)


def resized(images: Tensor, boxes: Tensor) -> Tensor:
    """`images` (B, C, H, W) uint8, each its own crop of `boxes` (B, 4) scaled back to H × W, bilinear, rounded."""
    height, width = images.shape[2:]
    top, left, high, wide = boxes.to(images.device, torch.float32).unbind(1)
    down, across = _places(top, high, height), _places(left, wide, width)  # (B, H), (B, W)
    shape = (len(images), height, width)
    grid = torch.stack([across[:, None, :].expand(shape), down[:, :, None].expand(shape)], -1)
    read = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return read.round_().clamp_(0, 255).to(torch.uint8)


def _places(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where `size` pixels of a crop are read along one axis, (B, size), in grid_sample's -1...1; none beyond it."""
    steps = (torch.arange(size, device=start.device) + 0.5) / size
    pixels = (start[:, None] + steps * length[:, None]).clamp(start[:, None] + 0.5, (start + length)[:, None] - 0.5)
    return 2.0 * pixels / size - 1.0
