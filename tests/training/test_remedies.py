import pytest
import torch
from torch import nn

from icsbound._check import InputError
from icsbound.norm import mixed_statistics
from icsbound.training import arms, batches, data, models, remedies, seeds

WITH_STATISTICS = ["bn", "unitized", "published", "unitized-1"]


def network(arm: str, dropout: float = 0.0) -> nn.Module:
    model = models.build("resnet8:width=2", classes=10, channels=1, norm=arms.parse(arm).make, dropout=dropout)
    return model.double().eval()


def digits(n: int = 64) -> tuple[data.Dataset, data.Normalize]:
    whole = data.load("digits").train
    part = whole.take(torch.arange(0, 4000, 4000 // n)[:n])
    return part, data.Normalize.of(part)


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("arm", WITH_STATISTICS)
def test_recalibrated_statistics_are_those_of_the_data(arm: str) -> None:
    dataset, normalize = digits()
    model = network(arm, dropout=0.5)
    remedies.recalibrate(model, dataset, normalize, 64, batch_size=64)
    first = model.blocks[0].norms[0]
    h = model.stem(normalize(dataset.images, torch.float64))
    torch.testing.assert_close(first.running_mean, h.mean((0, 2, 3)))
    # one batch of everything; torch stores the unbiased variance, the published layer one that differs as little
    torch.testing.assert_close(first.running_var, h.var((0, 2, 3)), rtol=1e-4, atol=0)
    assert not model.training
    assert not first.training
    assert first.momentum == arms.parse(arm).make(2).momentum
    # the same network in evaluation now does what it does on the batch itself, up to the unbiased variances
    x = normalize(dataset.images, torch.float64)
    with torch.no_grad(), remedies.batch_statistics(model):
        expected = model(x)
    torch.testing.assert_close(model(x), expected, rtol=1e-2, atol=1e-2)


def test_recalibration_is_a_mean_over_batches_and_counts_images() -> None:
    dataset, normalize = digits()
    model = network("bn")
    remedies.recalibrate(model, dataset, normalize, 40, batch_size=20, seed=5)
    norm = model.blocks[0].norms[0]
    assert int(norm.num_batches_tracked) == 2
    with pytest.raises(InputError, match=r"^recalibrate must be at most the 64 training images, got 65$"):
        remedies.recalibrate(model, dataset, normalize, 65)


def test_statistics_may_be_those_of_augmented_images() -> None:
    dataset, normalize = digits()
    model, augment = network("bn"), batches.Augment(shift=9)
    remedies.recalibrate(model, dataset, normalize, 64, batch_size=64, seed=3, augment=augment)
    # what moves in is dark, and so are the images on the whole
    first = model.blocks[0].norms[0]
    kept = first.running_mean.clone()
    order = torch.randperm(64, generator=seeds.generator(3, "recalibrate"))
    ((images, _, _),) = batches.Batches(dataset.take(order), 64, 3, augment).epoch(0)
    assert float(images.float().mean()) < 0.95 * float(dataset.images.float().mean())
    torch.testing.assert_close(kept, model.stem(normalize(images, torch.float64)).mean((0, 2, 3)))
    remedies.recalibrate(model, dataset, normalize, 64, batch_size=64, seed=3)
    assert (first.running_mean - kept).abs().max() > 0.01


@pytest.mark.parametrize("arm", WITH_STATISTICS)
def test_batch_statistics_leave_no_trace(arm: str) -> None:
    dataset, normalize = digits()
    model = network(arm)
    before, x = statistics(model), normalize(dataset.images, torch.float64)
    with torch.no_grad():
        stored = model(x)
        with remedies.batch_statistics(model):
            own = model(x)
        assert not torch.allclose(own, stored)
        torch.testing.assert_close(model(x), stored, rtol=0, atol=0)
    assert not any(module.training for module in model.modules())
    after = statistics(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("arm", WITH_STATISTICS)
def test_mixing_with_weight_0_changes_nothing_and_treats_images_one_by_one(arm: str) -> None:
    dataset, normalize = digits(8)
    model, x = network(arm), normalize(dataset.images, torch.float64)
    with torch.no_grad():
        plain = model(x)
        with mixed_statistics(model, 0.0):
            torch.testing.assert_close(model(x), plain)
        with mixed_statistics(model, 0.3):
            together = model(x)
            one_by_one = torch.cat([model(image[None]) for image in x])
        torch.testing.assert_close(together, one_by_one)
        assert not torch.allclose(together, plain)
        torch.testing.assert_close(model(x), plain)


def test_a_network_without_statistics_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^the remedy must find layers with stored statistics; this network has none$"
    ):
        remedies.layers(network("gn"))
