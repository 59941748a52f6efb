import pytest
import torch
import zoo
from torch import nn

from icsbound.training import arms, models, resnet


@pytest.mark.parametrize(
    ("name", "parameters", "tensors", "last"),
    [
        # parameters as torchvision publishes them with its weights; one name of each network's last block
        ("resnet18", 11_689_512, 122, "layer4.1.bn2.running_var"),
        ("resnet50", 25_557_032, 320, "layer4.2.bn3.running_var"),
        ("resnet101", 44_549_160, 626, "layer4.2.bn3.running_var"),
    ],
)
def test_the_networks_are_those_of_the_public_weights(name: str, parameters: int, tensors: int, last: str) -> None:
    model = models.build(name, classes=1000, channels=3, norm=nn.BatchNorm2d)
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(state) == tensors
    assert last in state
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer3.0.downsample.1.bias"} <= set(
        state
    )
    assert state["fc.weight"].shape[0] == 1000


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_torchvisions_weights_load_and_compute_the_same(name: str) -> None:
    theirs = zoo.import_torchvision().models.get_model(name, weights=None).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # every batch norm different from its neighbours
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.abs().mean())
        for buffer in theirs.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand_like(buffer))
    ours = models.build(name, classes=1000, channels=3, norm=nn.BatchNorm2d).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    # 70 pixels: odd sizes inside, where padding and strides show
    x = torch.randn(2, 3, 70, 70, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(x), theirs.double()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arm", arms.ARMS)
def test_every_arm_is_an_argument_and_begins_at_the_same_weights(arm: str) -> None:
    made = models.build("resnet18", classes=10, channels=3, norm=arms.parse(arm).make, seed=3)
    plain = models.build("resnet18", classes=10, channels=3, norm=nn.BatchNorm2d, seed=3).state_dict()
    state = made.state_dict()
    shared = [name for name in plain if "conv" in name or "downsample.0" in name or name.startswith("fc")]
    assert len(shared) == 17 + 3 + 2
    assert all(torch.equal(state[name], plain[name]) for name in shared)
    assert made(torch.randn(2, 3, 40, 40)).shape == (2, 10)


def test_public_weights_load_into_a_unitized_network_at_alpha_0() -> None:
    plain = models.build("resnet18", classes=10, channels=3, norm=nn.BatchNorm2d, seed=1).eval()
    ours = models.build("resnet18", classes=10, channels=3, norm=arms.parse("unitized:alpha_init=0").make).eval()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


def test_dropout_stands_between_the_convolutions_of_a_block() -> None:
    for bottleneck, places in ((False, 1), (True, 2)):
        block = resnet.Block(16, 4, 1, nn.BatchNorm2d, 0.5, bottleneck=bottleneck)
        seen: list[torch.Tensor] = []
        for conv in [block.conv2, *([block.conv3] if bottleneck else [])]:
            conv.register_forward_hook(lambda _m, inputs, _y, seen=seen: seen.append(inputs[0]))
        block(torch.randn(32, 16, 8, 8))
        assert len(seen) == places
        assert all(0.68 < float((x == 0).double().mean()) < 0.82 for x in seen)  # ReLU and dropout
