"""Twelve of the fifteen corruptions of CIFAR-10-C, made anew from clean images with the published constants.

Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR
2019, arXiv 1903.12261), constants and steps of the authors' ``make_cifar_c.py``. Left out are motion blur and snow,
which need ImageMagick, and frost, which needs photographs. The random numbers are ours and fixed by a seed, so the
images agree with the published ones in law and not in every pixel: results on them are called "regenerated". Images
of another size than 32×32 get the same constants.

Shapes inside: x (N, H, W, C) float64 in 0...1; results are clipped, scaled to 0...255 and cut down (not rounded) to
uint8, as there.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icsbound._check import InputError, fail, nearest
from icsbound.training import seeds

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
# Images are corrupted in portions of so many, each with its own random stream: memory stays small, and so do the
# streams' names.
_PORTION = 1000


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """`images` (N, C, H, W) uint8, C = 1 or 3, with corruption `name` at `severity` 1...5; the same for the same
    `seed`.
    """
    if name not in CORRUPTIONS:
        fail("shift", "be one of " + ", ".join(CORRUPTIONS), name, nearest(name, CORRUPTIONS))
    if severity not in range(1, 6):
        fail("severity", "be 1, 2, 3, 4 or 5", severity)
    out = []
    for number, portion in enumerate(images.split(_PORTION)):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        rng = np.random.default_rng(seeds.number(seed, name, severity, number))
        x = portion.permute(0, 2, 3, 1).numpy() / 255.0
        y = np.clip(CORRUPTIONS[name](x, severity - 1, rng), 0.0, 1.0) * 255.0
        # A value that stands for a whole number of grey levels must not fall below it by rounding of the division
        # above.
        out.append(torch.from_numpy(np.floor(y + 1e-9).astype(np.uint8)).permute(0, 3, 1, 2).contiguous())
    return torch.cat(out)


def _gaussian_noise(x: Array, s: int, rng: np.random.Generator) -> Array:
    return x + rng.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[s], size=x.shape)


def _shot_noise(x: Array, s: int, rng: np.random.Generator) -> Array:
    photons = (500, 250, 100, 75, 50)[s]
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Array, s: int, rng: np.random.Generator) -> Array:
    hit = rng.random(x.shape) < (0.01, 0.02, 0.03, 0.05, 0.07)[s]
    return np.where(hit, rng.random(x.shape) < 0.5, x)


def _defocus_blur(x: Array, s: int, rng: np.random.Generator) -> Array:
    from scipy import ndimage

    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[s]
    line = np.arange(-8, 9)
    disk = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    taps = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)  # three taps, as there
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, taps / taps.sum(), axis=axis, mode="mirror")
    kernel = disk[5:12, 5:12]  # all that is not 0
    return np.asarray(ndimage.correlate(x, kernel[None, :, :, None], mode="mirror"))


def _blurred(x: Array, sigma: float) -> Array:
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest", truncate=4.0))


def _glass_blur(x: Array, s: int, rng: np.random.Generator) -> Array:
    sigma, delta, times = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[s]
    x = np.floor(_blurred(x, sigma) * 255.0) / 255.0
    n, height, width = x.shape[:3]
    image = np.arange(n)
    for _ in range(times):
        for h in range(height - delta, delta, -1):
            for w in range(width - delta, delta, -1):
                dx, dy = rng.integers(-delta, delta, (2, n))
                # Written there as a swap of two views, which moves one pixel and leaves the other: so do the
                # published images.
                x[:, h, w] = x[image, h + dy, w + dx]
    return _blurred(x, sigma)


def _zoom_blur(x: Array, s: int, rng: np.random.Generator) -> Array:
    from scipy import ndimage

    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[s], 0.01)
    size = x.shape[1]
    # Linear zooming is a matrix along each axis, what it makes of the identity; all of it together is one matrix on
    # pixels.
    blur = np.eye(size * size)
    for factor in factors:
        crop = int(np.ceil(size / factor))
        top = (size - crop) // 2
        along = ndimage.zoom(np.eye(crop), (factor, 1), order=1)
        trim = (len(along) - size) // 2
        whole = np.zeros((size, size))
        whole[:, top : top + crop] = along[trim : trim + size]
        blur += np.kron(whole, whole)
    pixels = x.transpose(1, 2, 0, 3).reshape(size * size, -1)
    mixed = (blur @ pixels / (len(factors) + 1)).reshape(size, size, len(x), -1)
    return np.asarray(mixed.transpose(2, 0, 1, 3))


def _fog(x: Array, s: int, rng: np.random.Generator) -> Array:
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[s]
    brightest = x.max((1, 2, 3), keepdims=True)
    clouds = _plasma(len(x), x.shape[1], decay, rng)
    return np.asarray((x + amount * clouds[..., None]) * brightest / (brightest + amount))


def _plasma(n: int, size: int, decay: float, rng: np.random.Generator) -> Array:
    """n height maps (n, size, size) in 0...1 by the diamond-square algorithm on a torus, cut from the next power of
    two.
    """
    whole = 1 << (size - 1).bit_length()
    heights = np.zeros((n, whole, whole))
    step, wobble = whole, 100.0

    def displaced(total: Array) -> Array:
        return total / 4 + wobble * rng.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        heights[:, half::step, half::step] = displaced(pairs + np.roll(pairs, -1, 2))
        centres = heights[:, half::step, half::step]
        corners = heights[:, ::step, ::step]
        above_below = corners + np.roll(corners, -1, 1)
        left_right = corners + np.roll(corners, -1, 2)
        heights[:, ::step, half::step] = displaced(left_right + centres + np.roll(centres, 1, 1))
        heights[:, half::step, ::step] = displaced(above_below + centres + np.roll(centres, 1, 2))
        step, wobble = half, wobble / decay
    heights -= heights.min((1, 2), keepdims=True)
    heights /= heights.max((1, 2), keepdims=True)
    return np.asarray(heights[:, :size, :size])


def _brightness(x: Array, s: int, rng: np.random.Generator) -> Array:
    # Value in HSV is the largest channel; with hue and saturation kept, all channels keep their ratio to it.
    value = x.max(3, keepdims=True)
    raised = np.clip(value + (0.05, 0.1, 0.15, 0.2, 0.3)[s], 0.0, 1.0)
    return np.asarray(np.where(value > 0, x / np.where(value > 0, value, 1.0), 1.0) * raised)


def _contrast(x: Array, s: int, rng: np.random.Generator) -> Array:
    mean = x.mean((1, 2), keepdims=True)
    return np.asarray((x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[s] + mean)


def _elastic_transform(x: Array, s: int, rng: np.random.Generator) -> Array:
    from scipy import ndimage

    strength, smooth, corner = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[s]
    n, size = x.shape[:2]
    # Three points, each moved at random, fix an affine map; the image is read at the inverse map's places.
    centre, arm = size // 2, size // 3
    points = np.array([[centre + arm, centre + arm], [centre + arm, centre - arm], [centre - arm, centre - arm]], float)
    moved = points + rng.uniform(-corner * size, corner * size, (n, 3, 2))
    back = np.linalg.solve(np.concatenate([moved, np.ones((n, 3, 1))], 2), np.broadcast_to(points, (n, 3, 2)))
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    here = np.stack([columns, rows, np.ones_like(rows)], -1).astype(float)  # (x, y, 1)
    affine = _read_at(x, np.einsum("hwk,nkd->nhwd", here, back), centred=True)
    shift = rng.uniform(-1, 1, (n, size, size, 2))
    shift = ndimage.gaussian_filter(shift, (0, smooth * size, smooth * size, 0), mode="reflect", truncate=3.0)
    return _read_at(affine, here[..., :2] + shift * strength * size, centred=False)


def _read_at(x: Array, places: Array, *, centred: bool) -> Array:
    """x (N, H, W, C) at `places` (N, H, W, 2) = (column, row), bilinear; mirrored at border pixels (`centred`) or
    their outer edges.
    """
    size = x.shape[1]
    grid = 2 * places / (size - 1) - 1 if centred else (2 * places + 1) / size - 1
    values = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    read = F.grid_sample(values, torch.from_numpy(grid), padding_mode="reflection", align_corners=centred)
    return np.asarray(read.numpy().transpose(0, 2, 3, 1))


def _each(x: Array, change: Callable[[Any], Any]) -> Array:
    """`change` on every image as a pillow image, back as floats."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise InputError("this shift must have pillow, which is not installed; pip install 'icsbound[data]'") from None
    pixels = (x * 255.0 + 0.5).astype(np.uint8)
    flat = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in flat])
    return np.asarray(changed.reshape(x.shape) / 255.0)


def _pixelate(x: Array, s: int, rng: np.random.Generator) -> Array:
    from PIL.Image import Resampling

    height, width = x.shape[1:3]
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[s]
    small = (int(width * share), int(height * share))
    return _each(x, lambda image: image.resize(small, Resampling.BOX).resize((width, height), Resampling.BOX))


def _jpeg_compression(x: Array, s: int, rng: np.random.Generator) -> Array:
    from PIL import Image

    def packed(image: Any) -> Any:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[s])
        return Image.open(file)

    return _each(x, packed)


CORRUPTIONS: dict[str, Callable[[Array, int, np.random.Generator], Array]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
