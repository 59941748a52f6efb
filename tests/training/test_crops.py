import math

import pytest
import torch

from icsbound.training import crops, seeds


def draw(n: int = 4000, height: int = 300, width: int = 400, scale: float = 0.08, ratio: float = 4 / 3) -> torch.Tensor:
    return crops.boxes(n, height, width, scale, ratio, seeds.generator(0, "crops"))


def test_crops_lie_within_the_picture_and_have_the_law_of_their_source() -> None:
    boxes = draw()
    top, left, high, wide = boxes.double().unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + high <= 300) & (left + wide <= 400) & (high > 0) & (wide > 0)).all())
    share, shape = high * wide / (300 * 400), wide / high
    # a side of 85 pixels is rounded by up to half of one
    assert float(share.min()) > 0.08 * 0.98
    assert float(shape.min()) > 0.75 * 0.98
    assert float(shape.max()) < 4 / 3 * 1.02
    # areas are uniform; of the largest some fit in no draw or only in few of the shapes
    small = share[share < 0.5]
    assert float(small.mean()) == pytest.approx((0.08 + 0.5) / 2, rel=0.03)
    # the logarithm of the shape is uniform: mean 0, standard deviation log(4/3) / √3 where every shape fits
    logs = torch.log(shape[share < 0.5])
    assert float(logs.mean()) == pytest.approx(0, abs=0.01)
    assert float(logs.std()) == pytest.approx(math.log(4 / 3) / math.sqrt(3), rel=0.05)
    # and so is the place, from one edge to the other
    room = (300 - high)[share < 0.5]
    assert float((top[share < 0.5] / room).mean()) == pytest.approx(0.5, abs=0.02)
    assert bool((top == 0).any())
    assert bool((top + high == 300).any())


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (10, 400, [0, 193, 10, 13]),  # much wider than any shape allowed: full height, the middle
        (400, 10, [193, 0, 13, 10]),
        (1, 1, [0, 0, 1, 1]),
    ],
)
def test_where_no_draw_fits_it_is_the_middle(height: int, width: int, box: list[int]) -> None:
    assert draw(3, height, width, scale=0.9).tolist() == [box] * 3


def test_draws_are_fixed_by_the_generator() -> None:
    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), crops.boxes(5, 300, 400, 0.08, 4 / 3, seeds.generator(1, "crops")))


def test_a_crop_is_scaled_back_to_the_size_of_its_image() -> None:
    images = torch.randint(0, 256, (3, 2, 8, 12), dtype=torch.uint8)
    whole = torch.tensor([[0, 0, 8, 12]] * 3)
    assert torch.equal(crops.resized(images, whole), images)
    # a ramp stays a ramp: its crop's slope is the share of the width, its start the crop's place
    ramp = (20 * torch.arange(12)).to(torch.uint8).expand(1, 1, 8, 12)
    out = crops.resized(ramp, torch.tensor([[2, 3, 4, 6]]))[0, 0].double()
    expected = 20 * (3 + (torch.arange(12) + 0.5) * 6 / 12 - 0.5).clamp(3, 8)
    assert bool((out - expected).abs().max() <= 0.5)
    one = crops.resized(images[:1], torch.tensor([[5, 7, 1, 1]]))
    assert torch.equal(one, images[:1, :, 5:6, 7:8].expand(1, 2, 8, 12))
