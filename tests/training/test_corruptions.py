import colorsys
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from icsbound._check import InputError
from icsbound.training import data
from icsbound.training.corruptions import CORRUPTIONS, corrupt


def photographs(n: int = 30, channels: int = 3, size: int = 32) -> torch.Tensor:
    """Smooth random images that use the whole range of grey levels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(n, channels, size, size)), (0, 0, 3, 3))
    noise -= noise.min((1, 2, 3), keepdims=True)
    return torch.from_numpy((noise / noise.max((1, 2, 3), keepdims=True) * 255).astype(np.uint8))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_fixed_by_its_seed_and_changes_the_images(name: str) -> None:
    images = photographs()
    kept = images.clone()
    once = corrupt(images, name, 3, seed=1)
    assert torch.equal(images, kept)
    assert once.shape == images.shape
    assert once.dtype == torch.uint8
    assert torch.equal(once, corrupt(images, name, 3, seed=1))
    assert distance(once, images) > 0.1
    random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert torch.equal(once, corrupt(images, name, 3, seed=2)) != random
    # the elastic transform trades its affine part for its local one, so that severities differ in kind, not in pixels
    if name != "elastic_transform":
        assert distance(corrupt(images, name, 1), images) < distance(corrupt(images, name, 5), images)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_digits_are_corrupted_too(name: str) -> None:
    digits = data.load("digits").test.images[:20]
    assert corrupt(digits, name, 5).shape == (20, 1, 28, 28)


def test_noises_have_their_variances() -> None:
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    level = 128 / 255
    for severity, scale in ((1, 0.04), (5, 0.10)):
        noise = corrupt(grey, "gaussian_noise", severity).double() / 255 - level
        assert float(noise.std()) == pytest.approx(scale, rel=0.02)
    shot = corrupt(grey, "shot_noise", 4).double() / 255 - level
    assert float(shot.std()) == pytest.approx(math.sqrt(level / 75), rel=0.02)  # Poisson: variance = mean / photons
    impulse = corrupt(grey, "impulse_noise", 5)
    assert float((impulse == 0).double().mean()) == pytest.approx(0.035, rel=0.1)
    assert float((impulse == 255).double().mean()) == pytest.approx(0.035, rel=0.1)


def test_contrast_moves_every_channel_towards_its_mean() -> None:
    images = photographs()
    x = images.double()
    mean = x.mean((2, 3), keepdim=True)
    expected = (x - mean) * 0.4 + mean
    assert float((corrupt(images, "contrast", 3).double() - expected).abs().max()) <= 1.0


def test_brightness_raises_the_value_in_hsv() -> None:
    images = photographs(4)
    images[0, :, 0, 0] = 0  # black has no hue
    bright = corrupt(images, "brightness", 2)
    for n, h, w in ((0, 0, 0), (0, 5, 6), (3, 20, 31)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[n, :, h, w].double() / 255).tolist())
        expected = [255 * c for c in colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.1))]
        assert bright[n, :, h, w].double().numpy() == pytest.approx(expected, abs=1.0)


def test_zoom_blur_is_the_mean_of_the_image_and_its_zooms() -> None:
    image = photographs(1)
    x = image[0].permute(1, 2, 0).numpy() / 255.0
    total = x.copy()
    factors = np.arange(1, 1.11, 0.01)
    for factor in factors:  # image by image, as the published script has it
        crop = int(np.ceil(32 / factor))
        top = (32 - crop) // 2
        zoomed = ndimage.zoom(x[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
        trim = (zoomed.shape[0] - 32) // 2
        total += zoomed[trim : trim + 32, trim : trim + 32]
    expected = total / (len(factors) + 1) * 255
    assert np.abs(corrupt(image, "zoom_blur", 2)[0].permute(1, 2, 0).numpy() - expected).max() <= 1.0


def test_a_blur_of_one_pixel_keeps_it_and_wider_ones_spread_it() -> None:
    point = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    point[0, 0, 16, 16] = 255
    spread = [corrupt(point, "defocus_blur", severity)[0, 0].double() for severity in (1, 5)]
    assert float(spread[0][16, 16]) > 200
    # a disk of radius 1.5 has nine pixels
    assert int((spread[1] > 20).sum()) == 9
    assert float(spread[1].sum()) == pytest.approx(255, abs=10)
    assert torch.equal(spread[1], spread[1].T)


def test_fog_whitens_within_the_range_of_the_image() -> None:
    dark = (photographs() // 2).clamp_max(100)
    fogged = corrupt(dark, "fog", 5)
    assert int(fogged.max()) <= 101
    black = corrupt(torch.zeros(3, 1, 32, 32, dtype=torch.uint8), "fog", 5)
    assert int(black.max()) == 0


def test_glass_moves_pixels_next_door() -> None:
    # columns of one grey level each: after moves by at most one pixel up or left, every pixel is of a near column
    ramp = (torch.arange(32) * 8).to(torch.uint8).expand(2, 1, 32, 32).contiguous()
    moved = corrupt(ramp, "glass_blur", 1).double() / 8 - torch.arange(32)
    assert float(moved.max()) < 0.2
    assert float(moved.min()) < -0.9
    assert bool((moved[..., 0] > -0.2).all())  # the border stays


def test_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"^shift must be one of .*, got 'fogg' \(did you mean 'fog'\?\)$"):
        corrupt(photographs(1), "fogg", 1)
    with pytest.raises(InputError, match=r"^severity must be 1, 2, 3, 4 or 5, got 6$"):
        corrupt(photographs(1), "fog", 6)
