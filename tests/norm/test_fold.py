"""Folding: the same outputs from fewer layers where α = 0, and an account of every layer that stays."""

import copy

import pytest
import torch
from problems import assert_near
from torch import nn

from icsbound._check import InputError
from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, UnitizedBatchNorm3d, UnitizedBatchNormAct2d, fold

# (what feeds the layer, the layer, input): each kind that folds, with and without bias, groups and fused ReLU.
FOLDABLE = {
    "conv": (nn.Conv2d(3, 4, 3), UnitizedBatchNorm2d(4, alpha_init=0.0), (2, 3, 5, 5)),
    "padded conv without bias": (
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
        UnitizedBatchNorm2d(6, alpha_init=0.0, activation="relu"),
        (2, 4, 5, 5),
    ),
    "conv 1d": (nn.Conv1d(3, 4, 3), UnitizedBatchNorm1d(4, alpha_init=0.0, affine=False), (2, 3, 5)),
    "conv 3d": (nn.Conv3d(3, 4, 1), UnitizedBatchNorm3d(4, alpha_init=0.0, bias=False), (2, 3, 2, 2, 2)),
    "transposed conv": (nn.ConvTranspose2d(3, 4, 3), UnitizedBatchNorm2d(4, alpha_init=0.0), (2, 3, 5, 5)),
    "linear": (nn.Linear(3, 4), UnitizedBatchNorm1d(4, alpha_init=0.0), (5, 3)),
    "with activation": (nn.Conv2d(3, 4, 1), UnitizedBatchNormAct2d(4, alpha_init=0.0, act=nn.SiLU()), (2, 3, 5, 5)),
}


def prepared(net, shape):
    """In float64 and evaluation mode, with parameters and statistics away from their initial values."""
    net = copy.deepcopy(net).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if not name.endswith("alpha"):
                p.normal_()
        for _ in range(3):
            net(torch.randn(shape).double() + 1)
    return net.eval()


@pytest.mark.parametrize("case", FOLDABLE)
def test_same_outputs_without_the_layer(case):
    source, layer, shape = FOLDABLE[case]
    net = prepared(nn.Sequential(source, layer, nn.Tanh()), shape)
    state = copy.deepcopy(net.state_dict())
    folded = fold(net)
    x = torch.randn(shape).double()
    assert_near(folded(x), net(x), 1e-12)
    assert not any("BatchNorm" in type(m).__name__ for m in folded.modules())
    assert type(net[1]) is type(layer)  # the original stays as it was
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


class Branches(nn.Module):
    """Everything that keeps a layer from being folded, and one that can be."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.good = UnitizedBatchNorm2d(3, alpha_init=0.0)
        self.forked = nn.Conv2d(3, 3, 1)
        self.beside = UnitizedBatchNorm2d(3, alpha_init=0.0)
        self.before_alpha = nn.Conv2d(3, 3, 1)
        self.alpha = UnitizedBatchNorm2d(3, alpha_init=0.5)
        self.first = UnitizedBatchNorm2d(3, alpha_init=0.0)
        self.before_twice = nn.Conv2d(3, 3, 1)
        self.twice = UnitizedBatchNorm2d(3, alpha_init=0.0)
        self.up = nn.ConvTranspose2d(3, 3, 1, groups=3)
        self.grouped = UnitizedBatchNorm2d(3, alpha_init=0.0)
        self.before_untracked = nn.Conv2d(3, 3, 1)
        self.untracked = UnitizedBatchNorm2d(3, alpha_init=0.0, track_running_stats=False)
        self.hooked_conv = nn.Conv2d(3, 3, 1)
        self.hooked_conv.register_forward_hook(lambda module, inputs, output: output + 1)
        self.hooked = UnitizedBatchNorm2d(3, alpha_init=0.0)
        self.unused = UnitizedBatchNorm2d(3, alpha_init=0.0)

    def forward(self, x):
        x = self.good(self.conv(self.first(x)))
        forked = self.forked(x)
        x = self.beside(forked) + forked
        x = self.alpha(self.before_alpha(x))
        x = self.twice(self.twice(self.before_twice(x)))
        x = self.grouped(self.up(x))
        return self.hooked(self.hooked_conv(self.untracked(self.before_untracked(x))))


def test_what_cannot_be_folded_stays_and_is_named():
    net = prepared(Branches(), (4, 3, 5, 5))
    place = "its place in the model is not a plain call of the layer"
    with pytest.warns(UserWarning, match="^8 unitized layers were not folded") as record:
        folded = fold(net)
    message = str(record[0].message)
    for shown in (
        "'beside' (no layer feeds it alone)",
        "'alpha' (alpha up to 0.5)",
        "'first' (no layer feeds it alone)",
        f"'twice' ({place})",
        "'grouped' (a transposed convolution of several groups feeds it)",
        "and 3 more",
    ):
        assert shown in message
    assert type(folded.good) is nn.Identity
    x = torch.randn(2, 3, 5, 5).double()
    assert_near(folded(x), net(x), 1e-11)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("untracked", "it has no running statistics"),
        ("hooked", "the layer that feeds it is reparametrized or has hooks"),
    ],
)
def test_further_reasons(name, reason):
    whole = Branches()
    net = nn.Sequential(getattr(whole, "before_" + name, whole.hooked_conv), getattr(whole, name)).eval()
    with pytest.warns(UserWarning, match=r"^1 unitized layers were not folded: '1'") as record:
        fold(net)
    assert str(record[0].message).endswith(f"'1' ({reason})")


class Renamed(nn.Module):
    """Calls layer and convolution by their second names."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = UnitizedBatchNorm2d(4, alpha_init=0.0)
        self.again, self.also = self.norm, self.conv

    def forward(self, x):
        return self.again(self.also(x))


class Twice(Renamed):
    """Calls the convolution a second time, by its other name."""

    def forward(self, x):
        return self.norm(self.conv(x)) + self.also(x)


class Read(Renamed):
    """Reads the convolution's weight by itself."""

    def forward(self, x):
        return self.norm(self.conv(x)) * self.conv.weight.sum()


class Listed(Renamed):
    """Keeps its convolution in a list that is no part of the model as well, and calls it there."""

    def __init__(self):
        super().__init__()
        self.elsewhere = [self.conv]

    def forward(self, x):
        return self.norm(self.elsewhere[0](x))


def test_a_layer_and_a_convolution_of_two_names_are_folded_under_both():
    net = prepared(Renamed(), (4, 3, 5, 5))
    folded = fold(net)
    x = torch.randn(2, 3, 5, 5).double()
    assert_near(folded(x), net(x), 1e-12)
    assert folded.norm is folded.again
    assert folded.conv is folded.also
    assert type(folded.norm) is nn.Identity


@pytest.mark.parametrize("kind", [Twice, Read])
def test_a_convolution_that_is_used_again_is_not_folded(kind):
    net = prepared(kind(), (4, 3, 5, 5))
    with pytest.warns(UserWarning, match=r"'norm' \(no layer feeds it alone\)"):
        folded = fold(net)
    x = torch.randn(2, 3, 5, 5).double()
    assert_near(folded(x), net(x), 1e-12)


def test_a_call_that_folding_does_not_reach_is_refused():
    with pytest.raises(InputError, match=r"^model must call its layers as the submodules that it holds, got one that"):
        fold(prepared(Listed(), (4, 3, 5, 5)))


def test_a_linear_layer_on_sequences_is_not_folded_in_silence():
    # (N, 4, 3) → linear → (N, 4, 4): the layer normalizes axis 1, which folding into the last axis would not.
    net = prepared(nn.Sequential(nn.Linear(3, 4), UnitizedBatchNorm1d(4, alpha_init=0.0)), (5, 4, 3))
    folded = fold(net)
    with pytest.raises(InputError) as error:
        folded(torch.randn(5, 4, 3).double())
    assert str(error.value) == (
        "the input of a folded model must be (N, C) after this linear layer, got shape (5, 4, 4): "
        "the layer that was folded normalized axis 1"
    )


def test_refusals():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), UnitizedBatchNorm2d(3, alpha_init=0.0))
    with pytest.raises(InputError) as error:
        fold(net)
    assert str(error.value) == (
        "model must be in evaluation mode to be folded (model.eval()), got '1' in training mode"
    )

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = UnitizedBatchNorm2d(3)

        def forward(self, x):
            return self.norm(x) if x.sum() > 0 else x

    with pytest.raises(InputError, match=r"model must be traceable by torch.fx to be folded, got TraceError: "):
        fold(Branching().eval())
