import pytest
import torch

from icsbound._check import InputError
from icsbound.training import data, seeds
from icsbound.training.batches import Augment, Batches


def dataset(n: int = 21, channels: int = 2, size: int = 6) -> data.Dataset:
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)
    return data.Dataset("random", images, torch.arange(n), n)


def test_augmentation_shifts_and_mirrors_each_image_by_its_own_draw() -> None:
    images = dataset(40).images
    augment = Augment(shift=2, flip=True)
    offsets, mirrored = augment.draw(40, seeds.generator(0, "a"))
    assert offsets.unique().tolist() == [0, 1, 2, 3, 4]
    assert 0 < int(mirrored.sum()) < 40
    out = augment.apply(images, offsets, mirrored)
    for image, got, (top, left), flip in zip(images, out, offsets.tolist(), mirrored.tolist(), strict=True):
        padded = torch.zeros(2, 10, 10, dtype=torch.uint8)
        padded[:, 2:8, 2:8] = image
        crop = padded[:, top : top + 6, left : left + 6]
        assert torch.equal(got, crop.flip(-1) if flip else crop)
    assert Augment().apply(images, offsets, mirrored) is images


def epoch(batches: Batches, number: int, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    return list(batches.epoch(number, start))


def test_an_epoch_is_fixed_by_seed_and_number_and_can_be_entered_anywhere() -> None:
    images = dataset(21)
    batches = Batches(images, 4, seed=7, augment=Augment(1, True))
    assert len(batches) == 5  # 21 = 5·4 + 1, and a single image waits for the next epoch
    whole = epoch(batches, 3)
    assert [len(labels) for _, labels, _ in whole] == [4] * 5
    assert len(set(torch.cat([labels for _, labels, _ in whole]).tolist())) == 20
    for (x, y, n), (x2, y2, n2) in zip(whole[3:], epoch(batches, 3, start=3), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        assert n == n2
    assert not torch.equal(whole[0][1], epoch(batches, 4)[0][1])
    assert not torch.equal(whole[0][1], epoch(Batches(images, 4, seed=8), 3)[0][1])
    assert [n for *_, n in epoch(Batches(dataset(22), 4, seed=7), 0)] == [4, 4, 4, 4, 4, 2]


def test_processes_share_out_the_same_batches() -> None:
    images = dataset(22)
    whole = epoch(Batches(images, 4, seed=1), 0)
    shares = [epoch(Batches(images, 4, seed=1, rank=rank, world=2), 0) for rank in (0, 1)]
    for (_, labels, n), (_, first, n0), (_, second, n1) in zip(whole, *shares, strict=True):
        assert n == n0 == n1
        assert torch.equal(labels[0::2], first)
        assert torch.equal(labels[1::2], second)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1, "batch_size must be at least 2, since batch statistics of one image do not exist, got 1"),
        (22, "batch_size must be at most the 21 training images, got 22"),
        (0, "batch_size must be an integer of at least 1, got 0"),
    ],
)
def test_refuses_batches_without_statistics(size: int, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        Batches(dataset(21), size, seed=0)
