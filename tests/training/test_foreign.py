import re
from pathlib import Path

import pytest
import torch
import zoo
from small import config, few_digits
from torch import nn

from icsbound._check import InputError
from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d
from icsbound.training import arms, foreign, loop, models


def network(name: str, arm: str = "bn", size: int = 20, channels: int = 3, **options: object) -> nn.Module:
    return models.network(name, arms.parse(arm), classes=5, channels=channels, size=size, **options)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("timm:resnet18", ("timm", "resnet18", {})),
        ("timm:resnet18:drop_rate=0.1,a=none", ("timm", "resnet18", {"drop_rate": 0.1, "a": None})),
        ("timm:hf-hub:some/one", ("timm", "hf-hub:some/one", {})),
        ("torchvision:vgg11_bn", ("torchvision", "vgg11_bn", {})),
        ("nets:tiny:width=8", ("", "nets:tiny", {"width": 8})),
        ("a.b:c.d", ("", "a.b:c.d", {})),
        ("resnet8", None),
        ("resnet8:width=8", None),
    ],
)
def test_names_are_read(text: str, parts: object) -> None:
    assert foreign.split(text) == parts


def test_a_factory_is_told_classes_channels_and_settings() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = network("nets:tiny:width=6", channels=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert model[0].in_channels == 2
    assert model[0].out_channels == 6
    assert model[-1].out_features == 5
    # the trial left no trace, and the seed decides the weights
    assert torch.equal(model[1].running_mean, torch.zeros(6))
    assert int(model[1].num_batches_tracked) == 0
    assert torch.equal(network("nets:tiny", seed=1)[0].weight, network("nets:tiny", "gn", seed=1)[0].weight)
    assert not torch.equal(network("nets:tiny", seed=1)[0].weight, network("nets:tiny", seed=2)[0].weight)


@pytest.mark.parametrize("arm", arms.ARMS)
def test_every_arm_replaces_every_batch_norm(arm: str) -> None:
    chosen = arms.parse(arm)
    model = network("nets:tiny", arm)
    plain = network("nets:tiny")
    assert torch.equal(model[0].weight, plain[0].weight)
    layers = model[1], model[5]
    reference = chosen.make(4)
    assert model(torch.randn(3, 3, 20, 20)).shape == (3, 5)
    if arm == "bn":
        assert (type(layers[0]), type(layers[1])) == (nn.BatchNorm2d, nn.BatchNorm1d)
    elif arm == "gn":
        assert all(type(layer) is nn.GroupNorm for layer in layers)
        assert layers[0].eps == 1e-4
    else:
        assert (type(layers[0]), type(layers[1])) == (UnitizedBatchNorm2d, UnitizedBatchNorm1d)
        for layer in layers:
            kept = {"eps", "norm_eps"} - ({"eps", "norm_eps"} if arm.startswith("published") else set())
            for name in set(layer.settings._fields) - kept:
                assert getattr(layer.settings, name) == getattr(reference.settings, name), name
            assert torch.equal(layer.alpha, reference.alpha)
            assert layer.alpha.requires_grad == reference.alpha.requires_grad
            assert layer.debias == reference.debias
        # the network's own eps and momentum, unless the arm is the published layer
        own = (1e-3, 0.01) if arm.startswith("published") else (1e-4, 0.2)
        assert (layers[0].eps, layers[0].momentum) == own


def test_settings_of_an_arm_reach_the_layers() -> None:
    layer = network("nets:tiny", "unitized:alpha_init=0.3,frozen=true,scope=position,eps=0.01")[1]
    assert layer.settings.scope == "position"
    assert (layer.eps, layer.settings.norm_eps, layer.momentum) == (0.01, 0.01, 0.2)
    torch.testing.assert_close(layer.alpha, torch.full((4,), 0.3))
    assert not layer.alpha.requires_grad
    assert network("nets:tiny", "bn:momentum=0.5")[1].momentum == 0.5
    assert network("nets:tiny", "gn:group_size=2")[1].num_groups == 2


def test_at_alpha_0_it_is_the_network_itself() -> None:
    plain, ours = network("nets:tiny").eval(), network("nets:tiny", "unitized:alpha_init=0").eval()
    x = torch.randn(4, 3, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))


def test_a_network_of_the_users_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    made = config(model="nets:tiny", dropout=0.0)
    assert loop.train(made, tmp_path).step == 12
    assert "alpha" in (tmp_path / "records.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "arm", "message"),
    [
        (
            "nets:tinny",
            "bn",
            "model must name a function as pkg.module:name, got 'nets:tinny': nets has no function",
        ),
        ("nots:tiny", "bn", "model must name a function as pkg.module:name, got 'nots:tiny': there is no module nots"),
        ("nets:not_a_function", "bn", "model must name a function as pkg.module:name, got 'nets:not_a_function'"),
        ("builtins:dict", "bn", "model must name a function whose parameters can be read, got 'builtins:dict'$"),
        ("nets:no_module", "bn", "model must be a function that returns a torch.nn.Module, got 5"),
        ("nets:tiny:depth=3", "bn", "model 'nets:tiny:depth=3' cannot be built: got an unexpected keyword argument"),
        ("nets:fixed", "bn", r"model 'nets:fixed' must return logits of shape \(N, 5\), one tensor, in training, got"),
        ("nets:features", "bn", r"model 'nets:features' must return logits .* of shape \(2, 5, 20, 20\)"),
        ("nets:special", "gn", "model must have only batch norms that an arm can replace, got '1' "),
        ("nets:tiny", "unitized:affine=false", "arm .* must leave affine to the batch norms of a network that comes"),
        ("nets:tiny:width=24", "gn", "group_size must divide the 24 channels of every normalized layer, got 16"),
    ],
)
def test_names_what_is_wrong(name: str, arm: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        network(name, arm)


def test_an_arm_needs_batch_norms_and_dropout_a_place() -> None:
    with pytest.raises(InputError, match=r"^model must have batch norms to become arm 'gn', got a Sequential of none$"):
        models.network("nets:fixed", arms.parse("gn"), classes=10, channels=1, size=8)
    assert models.network("nets:fixed", arms.parse("bn"), classes=10, channels=1, size=8)(torch.zeros(2, 1, 8, 8)).shape
    with pytest.raises(InputError, match=r"^dropout must be 0 with model 'nets:tiny', whose own settings"):
        network("nets:tiny", dropout=0.1)


@pytest.mark.zoo
@pytest.mark.parametrize("arm", ["bn", "gn:group_size=8", "unitized-1"])
def test_networks_of_timm(arm: str) -> None:
    zoo.import_torchvision()  # which timm imports
    plain = network("timm:mobilenetv2_050", size=32, channels=1).eval()
    model = network("timm:mobilenetv2_050", arm, size=32, channels=1).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)
    norms = [m for m in model.modules() if "Norm" in type(m).__name__]
    # the activations after its batch norms are kept
    count = len(re.findall("ReLU6", str(plain)))
    assert count > 10
    assert len(re.findall("ReLU6", str(model))) == count
    if arm == "bn":
        assert all(isinstance(m, nn.BatchNorm2d) for m in norms)
    else:
        assert not any(isinstance(m, nn.BatchNorm2d) for m in norms)
    if arm == "unitized-1":
        assert all(bool((m.alpha == 1).all()) and not m.alpha.requires_grad for m in norms)
    with pytest.raises(InputError, match=r"list_models\(\), got 'timm:resnet19' \(did you mean 'resnet1"):
        network("timm:resnet19")
    with pytest.raises(InputError, match=r"^model 'timm:resnet18:wings=2' cannot be built: .*wings"):
        network("timm:resnet18:wings=2")


@pytest.mark.zoo
def test_networks_of_torchvision() -> None:
    zoo.import_torchvision()
    model = network("torchvision:squeezenet1_1:dropout=0.0", size=64)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    assert network("torchvision:resnet18", "unitized", size=40)(torch.randn(2, 3, 40, 40)).shape == (2, 5)
    with pytest.raises(InputError, match=r"list_models\(\), got 'torchvision:resnet81' \(did you mean 'resnet1"):
        network("torchvision:resnet81")
    with pytest.raises(InputError, match=r"^model must take images of 1 channels, and torchvision's take 3, got"):
        network("torchvision:resnet18", channels=1)
    # googlenet returns three outputs in training
    with pytest.raises(
        InputError, match=r"must return logits of shape \(N, 5\), one tensor, in training, got GoogLeNet"
    ):
        network("torchvision:googlenet:init_weights=false", size=64)
