import pytest
import torch
from torch import nn

from icsbound._check import InputError
from icsbound.norm.modules import UnitizedBatchNorm
from icsbound.training import arms, models


@pytest.mark.parametrize(
    ("name", "convs", "norms", "parameters"),
    [
        # 6n + 2 layers: stem, 2 a block, head; three blocks have a shortcut convolution less or more
        ("resnet8", 7, 7, None),
        ("resnet20", 19, 19, None),
        ("resnet110", 109, 109, None),
        # 9n + 2: three a bottleneck; He et al. (2016) give 1.7 million weights for depths 110 and 164
        ("resnet164", 163, 163, 1.7e6),
    ],
)
def test_depth_is_what_the_name_says(name: str, convs: int, norms: int, parameters: float | None) -> None:
    model = models.build(name, classes=10, channels=3, norm=nn.BatchNorm2d)
    shortcuts = sum(block.shortcut is not None for block in model.blocks)
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) - shortcuts == convs
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == norms
    if parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.02)


def test_halves_the_image_twice_and_ends_in_logits() -> None:
    model = models.build("resnet8:width=4", classes=7, channels=1, norm=nn.BatchNorm2d)
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, y: shapes.append(tuple(y.shape)))
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 7)
    assert shapes == [(2, 4, 28, 28), (2, 8, 14, 14), (2, 16, 7, 7)]


def test_all_arms_begin_at_the_same_weights() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    states = [
        models.build("resnet8:width=16", classes=10, channels=3, norm=arms.parse(arm).make, seed=3).state_dict()
        for arm in arms.ARMS
    ]
    assert torch.equal(torch.get_rng_state(), before)
    shared = [k for k in states[0] if "norm" not in k]
    assert len(shared) == 11  # stem, six convolutions, two shortcuts, head's weight and bias
    for state in states[1:]:
        assert all(torch.equal(state[k], states[0][k]) for k in shared)
    other = models.build("resnet8:width=16", classes=10, channels=3, norm=nn.BatchNorm2d, seed=4).state_dict()
    assert not torch.equal(other["stem.weight"], states[0]["stem.weight"])


@pytest.mark.parametrize("name", ["resnet8:width=16", "nets:tiny"])
def test_alpha_is_drawn_channel_by_channel_from_the_seed_alone(name: str) -> None:
    def network(arm: str, seed: int) -> nn.Module:
        return models.network(name, arms.parse(arm), classes=10, channels=3, size=8, seed=seed)

    def alphas(model: nn.Module) -> list[torch.Tensor]:
        return [layer.alpha for layer in model.modules() if isinstance(layer, UnitizedBatchNorm)]

    drawn = "unitized:alpha_drawn=(0.25, 0.5, 0.75),frozen=true"
    first, again, other = (alphas(network(drawn, seed)) for seed in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))
    values = set(torch.cat(first).tolist())
    assert len(values) > 1
    assert values <= {0.25, 0.5, 0.75}
    assert not any(alpha.requires_grad for alpha in first)
    assert not torch.equal(first[0], first[1])  # no layer repeats another
    plain = network("unitized", 3).state_dict()
    mine = network(drawn, 3).state_dict()
    assert all(torch.equal(mine[key], plain[key]) for key in plain if not key.endswith("alpha"))


@pytest.mark.parametrize("before_norm", [False, True])
def test_dropout_stands_where_it_is_put(before_norm: bool) -> None:
    name = f"resnet8:width=4,dropout_before_norm={str(before_norm).lower()}"
    model = models.build(name, classes=10, channels=1, norm=nn.BatchNorm2d, dropout=0.5)
    order = []
    block = model.blocks[0]
    for part in (block.convs[0], block.norms[1], block.dropout, block.convs[1]):
        part.register_forward_hook(lambda m, _i, _o: order.append(type(m).__name__))
    model(torch.randn(2, 1, 8, 8))
    between = ["Dropout", "BatchNorm2d"] if before_norm else ["BatchNorm2d", "Dropout"]
    assert order == ["Conv2d", *between, "Conv2d"]


def test_initial_weights_have_their_variances() -> None:
    model = models.build("resnet8:width=64", classes=10, channels=3, norm=nn.BatchNorm2d)
    conv = model.blocks[2].convs[1]
    assert float(conv.weight.detach().var()) == pytest.approx(2 / (256 * 9), rel=0.02)
    assert float(model.head.weight.detach().var()) == pytest.approx(1 / 256, rel=0.1)


@pytest.mark.parametrize("size", [7, 8])
def test_a_shortcut_is_a_strided_convolution(size: int) -> None:
    block = models.Block(3, 6, 2, nn.BatchNorm2d).double()
    x, stride = torch.randn(4, 3, size, size, dtype=torch.float64, requires_grad=True), block.stride
    torch.nn.init.zeros_(block.convs[-1].weight)  # leaves the shortcut alone
    h = torch.relu(block.norms[0](x))
    wanted = torch.nn.functional.conv2d(h, block.shortcut.weight, stride=stride)
    given = torch.randn_like(wanted)
    for got, want in zip(*(torch.autograd.grad(y, x, given) for y in (block(x), wanted)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(block(x), wanted, rtol=1e-12, atol=1e-12)


def test_dropout_stands_between_the_convolutions_of_a_block() -> None:
    block = models.Block(4, 4, 1, nn.BatchNorm2d, dropout=0.5)
    seen: list[torch.Tensor] = []
    block.convs[1].register_forward_hook(lambda _m, inputs, _y: seen.append(inputs[0]))
    block.convs[0].register_forward_hook(lambda _m, inputs, _y: seen.append(inputs[0]))
    x = torch.randn(8, 4, 6, 6)
    block(x)
    first, second = (float((t == 0).double().mean()) for t in seen)
    assert 0.4 < first < 0.6  # ReLU alone
    assert 0.68 < second < 0.82  # ReLU and dropout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet9",
            r"model must be one of resnet8, resnet20, resnet110, resnet164, resnet18, resnet50, resnet101, timm:NAME, "
            r"torchvision:NAME, pkg.module:factory, got 'resnet9' \(did you mean 'resnet8'\?\)",
        ),
        ("resnet18:width=3", "the settings of model 'resnet18' must be none, got 'width'"),
        ("resnet8:depth=3", "a setting of model 'resnet8' must be width or dropout_before_norm, got 'depth'"),
        ("resnet8:dropout_before_norm=1", "dropout_before_norm must be true or false, got 1"),
        ("resnet8:width=0", "width must be an integer of at least 1, got 0"),
    ],
)
def test_names_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        models.build(name, classes=10, channels=3, norm=nn.BatchNorm2d)
