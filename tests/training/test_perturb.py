import pytest
import torch
from torch import nn

from icsbound._check import InputError
from icsbound.training import models, perturb


def network(seed: int = 0) -> nn.Module:
    return models.build("resnet8:width=4", classes=10, channels=1, norm=nn.BatchNorm2d, seed=seed)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([layer.weight.detach().flatten() for layer in perturb.layers(model)])


def test_pruning_drops_the_smallest_weights_of_the_whole_network() -> None:
    model = network()
    before = weights(model)
    names = set(model.state_dict())
    perturb.perturb(model, "prune:0.7")
    after = weights(model)
    gone = after == 0
    assert int(gone.sum()) == round(0.7 * len(before))
    assert float(before[gone].abs().max()) <= float(before[~gone].abs().min())
    assert torch.equal(after[~gone], before[~gone])
    assert set(model.state_dict()) == names  # no mask is left behind
    assert torch.equal(model.norm.weight, torch.ones(16))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_rounding_leaves_so_many_levels_and_no_weight_further_than_half_a_step(bits: int) -> None:
    model = network()
    before = [layer.weight.detach().clone() for layer in perturb.layers(model)]
    perturb.perturb(model, f"quantize:{bits}")
    for old, layer in zip(before, perturb.layers(model), strict=True):
        assert len(layer.weight.unique()) <= 2**bits - 1
        step = float(old.abs().max()) / (2 ** (bits - 1) - 1)
        assert float((layer.weight - old).detach().abs().max()) <= 0.5 * step * (1 + 1e-5)


def test_averaging_takes_the_mean_of_weights_and_statistics() -> None:
    one, two = network(0), network(1)
    two.norm.running_mean.fill_(3.0)
    expected = (weights(one) + weights(two)) / 2
    perturb.averaged(one, two.state_dict())
    torch.testing.assert_close(weights(one), expected)
    torch.testing.assert_close(one.norm.running_mean, torch.full((16,), 1.5))
    other = models.build("resnet8:width=8", classes=10, channels=1, norm=nn.BatchNorm2d)
    with pytest.raises(InputError, match=r"^average must name a run of the same network and arm"):
        perturb.averaged(one, other.state_dict())


@pytest.mark.parametrize("text", ["prune", "prune:x", "shake:3", "quantize:2.5", "average", ""])
def test_names_what_is_wrong(text: str) -> None:
    with pytest.raises(InputError, match=r"^perturb must be none, prune:FRACTION, quantize:BITS or average:RUN, got "):
        perturb.perturb(network(), text)


def test_names_what_lies_out_of_range() -> None:
    with pytest.raises(InputError, match=r"^fraction must lie in \[0, 1\], got 1.5$"):
        perturb.perturb(network(), "prune:1.5")
    with pytest.raises(InputError, match=r"^bits must be an integer of at least 2, got 1$"):
        perturb.perturb(network(), "quantize:1")
