import re

import pytest
import torch
from torch import nn

from icsbound._check import InputError
from icsbound.norm.modules import UnitizedBatchNorm2d
from icsbound.training import arms


@pytest.mark.parametrize("name", arms.ARMS)
def test_every_arm_normalizes_images_and_has_a_control(name: str) -> None:
    arm = arms.parse(name)
    layer = arm.make(32)
    y = layer(torch.randn(6, 32, 5, 4))
    assert y.shape == (6, 32, 5, 4)
    assert bool(torch.isfinite(y).all())
    assert (arm.control is None) == (name == "bn")
    assert arm.control is None or arm.control in arms.ARMS


def test_the_arms_are_the_layers_they_are_named_after() -> None:
    assert type(arms.parse("bn").make(8)) is nn.BatchNorm2d
    assert arms.parse("gn").make(64).num_groups == 4
    one = arms.parse("unitized-1").make(8)
    assert torch.equal(one.alpha, torch.ones(8))
    assert not one.alpha.requires_grad
    published = arms.parse("published").make(8)
    assert published.eps == 1e-3
    assert published.momentum == 0.01
    assert torch.equal(published.alpha, torch.zeros(8))
    x = torch.randn(4, 8, 3, 3)
    plain, frozen = UnitizedBatchNorm2d(8), arms.parse("unitized").make(8)
    assert torch.equal(plain(x), frozen(x))
    # one norm a batch treats no sample apart: samples keep their ratios, which one norm a sample does not
    batch, sample = (arms.parse(a).make(8).requires_grad_(False) for a in ("published-batch", "published"))
    for layer in (batch, sample):
        layer.alpha.fill_(1.0)
    x[0] *= 10.0
    reference = nn.BatchNorm2d(8, affine=False)(x)
    ratio = batch(x).detach() / reference
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-2, atol=0)
    ratios = sample(x).detach() / reference
    assert float(ratios.max() / ratios.min()) > 2


def test_settings_reach_the_layer() -> None:
    arm = arms.parse("unitized:alpha_init=0.3,scope=position,frozen=true")
    layer = arm.make(4)
    assert arm.name == "unitized:alpha_init=0.3,scope=position,frozen=true"
    torch.testing.assert_close(layer.alpha, torch.full((4,), 0.3))
    assert not layer.alpha.requires_grad
    assert "position" in layer.extra_repr()
    assert arms.parse("bn:momentum=0.01").control == "bn"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unitised", "arm must be one of bn, published, .*, got 'unitised' (did you mean 'unitized'?)"),
        (
            "bn:alpha_init=1",
            "a setting of arm 'bn' must be one of affine, .*eps, momentum, track_running_stats, got 'alpha_init'",
        ),
        ("unitized:alpha=1", "a setting of arm 'unitized' must be one of .*, got 'alpha' (did you mean 'alpha_init'?)"),
        ("unitized:alpha_init=7", "arm 'unitized:alpha_init=7' cannot be built: alpha_init must lie in .*"),
        (
            "unitized:alpha_drawn=0.3",
            "arm .* cannot be built: alpha_drawn must be numbers in parentheses, such as (0.2, 0.5), got 0.3",
        ),
        ("unitized:alpha_drawn=(0.3, 2)", "arm .* cannot be built: alpha_drawn must lie in [0, 1], got 2"),
        ("bn:alpha_drawn=(0.3,)", "a setting of arm 'bn' must be one of .*, got 'alpha_drawn'"),
        ("unitized:device=cuda", "a setting of arm 'unitized' must be one of .*, got 'device'"),
    ],
)
def test_names_what_is_wrong(text: str, message: str) -> None:
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(InputError, match=f"^{pattern}"):
        arms.parse(text)


def test_group_norm_needs_whole_groups() -> None:
    assert arms.parse("gn").make(8).num_groups == 1  # fewer channels than a group: one group
    with pytest.raises(InputError, match=r"^group_size must divide the 24 channels of every normalized layer, got 16$"):
        arms.parse("gn").make(24)
