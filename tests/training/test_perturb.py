from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from icsbound import UnitizedBatchNorm2d
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
    perturb.averaged(one, [one.state_dict(), two.state_dict()])
    torch.testing.assert_close(weights(one), expected)
    torch.testing.assert_close(one.norm.running_mean, torch.full((16,), 1.5))
    other = models.build("resnet8:width=8", classes=10, channels=1, norm=nn.BatchNorm2d)
    with pytest.raises(InputError, match=r"^average must name a run of the same network and arm"):
        perturb.averaged(one, [other.state_dict()])


@pytest.mark.parametrize("text", ["prune", "prune:x", "shake:3", "quantize:2.5", "average", "alpha", ""])
def test_names_what_is_wrong(text: str) -> None:
    with pytest.raises(InputError, match=r"^perturb must be none, prune:FRACTION, .* or alpha:VALUE, got "):
        perturb.perturb(network(), text)


def test_names_what_lies_out_of_range() -> None:
    with pytest.raises(InputError, match=r"^fraction must lie in \[0, 1\], got 1.5$"):
        perturb.perturb(network(), "prune:1.5")
    with pytest.raises(InputError, match=r"^bits must be an integer of at least 2, got 1$"):
        perturb.perturb(network(), "quantize:1")
    with pytest.raises(InputError, match=r"^alpha must lie in \[0, 1\], got 2.0$"):
        perturb.perturb(network(), "alpha:2")


def test_alpha_is_raised_in_batch_norms_and_in_unitized_layers() -> None:
    images = torch.randn(8, 1, 8, 8)
    model = network().eval()
    expected = model(images)
    perturb.perturb(model, "alpha:0")
    torch.testing.assert_close(model(images), expected)
    perturb.perturb(model, "alpha:0.5")
    found = [module for module in model.modules() if isinstance(module, UnitizedBatchNorm2d)]
    assert len(found) == sum(isinstance(module, nn.BatchNorm2d) for module in network().modules())
    assert all(bool((layer.alpha == 0.5).all()) for layer in found)
    assert not torch.allclose(model(images), expected)
    with pytest.raises(InputError, match=r"^alpha must find batch norms or unitized layers; this network has neither$"):
        perturb.perturb(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "alpha:0.5")


def test_a_network_becomes_the_mean_of_the_states_that_its_run_kept(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    states = [network(seed).state_dict() for seed in range(4)]
    for seed, state in enumerate(states):
        safetensors.torch.save_file(state, tmp_path / "snapshots" / f"step-{100 * seed:09d}.safetensors")
    for text, chosen in (("average:snapshots", states), ("average:snapshots:3", states[1:])):
        model = network(5)
        perturb.perturb(model, text, tmp_path)
        expected = torch.stack([state["stem.weight"] for state in chosen]).mean(0)
        torch.testing.assert_close(model.state_dict()["stem.weight"], expected)
        assert int(model.norm.num_batches_tracked) == 0
    with pytest.raises(InputError, match=r"^perturb must be none, .*, got 'shake:snapshots'$"):
        perturb.perturb(model, "shake:snapshots", tmp_path)
    with pytest.raises(InputError, match=r"must hold 5 states of its training to average, got 4; icsbound train --sn"):
        perturb.perturb(model, "average:snapshots:5", tmp_path)
    with pytest.raises(InputError, match=r"must hold some states of its training to average, got 0"):
        perturb.perturb(model, "average:snapshots", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^snapshots must be an integer of at least 1, got 0$"):
        perturb.perturb(model, "average:snapshots:0", tmp_path)
    (tmp_path / "snapshots" / "step-000000300.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"step-000000300\.safetensors is not a file of safetensors: "):
        perturb.perturb(model, "average:snapshots", tmp_path)
