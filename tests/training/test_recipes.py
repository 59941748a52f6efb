import pytest
import torch
from torch import nn

from icsbound._check import InputError
from icsbound.training import arms, models, recipes


def test_one_cycle_rises_once_and_falls_to_0() -> None:
    recipe = recipes.recipe(epochs=5, lr=0.3, warmup=0.25)
    rates = [recipe.lr_at(step, 20) for step in range(100)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.3, rel=1e-2)
    assert top == pytest.approx(25, abs=1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 1e-3 * 0.3
    assert rates[0] == pytest.approx(0.3 / 25)


def test_published_rates_fall_at_their_epochs() -> None:
    recipe = recipes.recipe("published", "cifar10")
    rates = {epoch: recipe.lr_at(epoch * 391, 391) for epoch in (0, 59, 60, 119, 120, 159, 160, 199)}
    expected = {0: 0.05, 59: 0.05, 60: 0.01, 119: 0.01, 120: 0.002, 159: 0.002, 160: 0.0004, 199: 0.0004}
    assert rates == pytest.approx(expected)
    assert recipe.lr_at(60 * 391 - 1, 391) == 0.05


def test_imagenet_rates_fall_by_ten_at_their_epochs() -> None:
    recipe = recipes.recipe("imagenet-90", "imagenet")
    assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (90, 256, 0.9, 1e-4)
    rates = {epoch: recipe.lr_at(epoch * 5004, 5004) for epoch in (0, 29, 30, 59, 60, 79, 80, 89)}
    expected = {0: 0.1, 29: 0.1, 30: 1e-2, 59: 1e-2, 60: 1e-3, 79: 1e-3, 80: 1e-4, 89: 1e-4}
    assert rates == pytest.approx(expected)
    assert (recipe.crop_scale, recipe.crop_ratio, recipe.eval_crop, recipe.flip) == (0.08, 4 / 3, 224 / 256, True)
    # a warm-up rises to the same rates
    warm = recipes.recipe("imagenet-90", "imagenet", warmup=5 / 90)
    assert warm.lr_at(0, 100) == pytest.approx(0.1 / 500)
    assert warm.lr_at(249, 100) == pytest.approx(0.05)
    assert warm.lr_at(500, 100) == 0.1
    assert warm.lr_at(3000, 100) == pytest.approx(1e-2)


def test_photographs_are_mirrored_and_digits_are_not() -> None:
    assert not recipes.recipe("short").flip
    assert recipes.recipe("short", "cifar10").flip
    assert recipes.recipe("short", "cifar10", flip=False, epochs=1).epochs == 1


def test_weight_decay_and_rates_reach_the_right_parameters() -> None:
    model = models.build("resnet8:width=2", classes=10, channels=1, norm=arms.parse("unitized").make)
    groups = recipes.parameter_groups(model, recipes.recipe(weight_decay=0.1, alpha_lr_factor=5.0))
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, rest, alpha = ([names[id(p)] for p in g["params"]] for g in groups)
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0, 0.0]
    assert [g["lr_factor"] for g in groups] == [1.0, 1.0, 5.0]
    assert all("conv" in n or n in ("stem.weight", "head.weight") or "shortcut" in n for n in decayed)
    assert len(alpha) == 7
    assert all(n.endswith("alpha") for n in alpha)
    assert {"head.bias", "norm.weight", "norm.bias"} <= set(rest)
    assert sum(map(len, (decayed, rest, alpha))) == len(names)
    follow = recipes.parameter_groups(model, recipes.recipe(weight_decay=0.1, decay_all=True))
    assert [g["weight_decay"] for g in follow] == [0.1, 0.1, 0.1]
    frozen = models.build("resnet8:width=2", classes=10, channels=1, norm=arms.parse("unitized-1").make)
    assert len(recipes.parameter_groups(frozen, recipes.recipe())) == 2  # a frozen alpha is no one's
    torch.optim.SGD(follow)
    assert isinstance(model.norm.alpha, nn.Parameter)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs must be an integer of at least 0, got -1"),
        ({"lr": -0.1}, r"lr must lie in \[0, inf\], got -0.1"),
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"momentum": 0.0}, "momentum must be above 0 with nesterov, got 0.0"),
        ({"schedule": "cosine"}, "schedule must be one of 'one-cycle', 'steps', got 'cosine'"),
        ({"milestones": (3,)}, r"milestones must rise and be as many as factors, got \(\(3,\), \(\)\)"),
        ({"learning_rate": 1}, "a setting of the recipe must be one of .*, got 'learning_rate'"),
    ],
)
def test_names_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        recipes.recipe(**changes)
    with pytest.raises(
        InputError,
        match=r"^recipe must be one of short, published, imagenet-90, got 'shrt' \(did you mean 'short'\?\)$",
    ):
        recipes.recipe("shrt")
