"""Choosing layers, and their channel axis."""

import networks
import pytest
import torch
from torch import nn

from icsbound._check import InputError
from icsbound.measure.layers import channel_axis_of, choose, named_layers, unwrap
from icsbound.norm.modules import UnitizedBatchNorm2d


def test_default_is_every_normalization_layer() -> None:
    model = nn.Sequential(networks.cnn(), UnitizedBatchNorm2d(3), nn.LayerNorm(4), nn.RMSNorm(4), nn.InstanceNorm1d(2))
    assert list(choose(model)) == ["0.1", "0.4", "0.9", "1", "2", "3", "4"]


def test_default_leaves_out_the_norm_of_a_weight() -> None:
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3))
    assert list(choose(model)) == ["1"]


def test_a_norm_with_an_activation_inside_counts_and_a_block_around_a_norm_does_not() -> None:
    class NormAct2d(nn.BatchNorm2d):  # as timm's BatchNormAct2d
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.act = nn.ReLU()

    class ConvNormAct(nn.Sequential):
        pass

    assert list(choose(nn.Sequential(ConvNormAct(nn.Conv2d(1, 2, 1), NormAct2d(2))))) == ["0.1"]


def test_transformer() -> None:
    expected = [f"encoder.layers.{i}.norm{j}" for i in (0, 1) for j in (1, 2)]
    assert list(choose(networks.Classifier())) == expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("4", ["4"]),
        ("[03]", ["0", "3"]),
        (nn.Conv2d, ["0", "3"]),
        (lambda name, module: isinstance(module, nn.Linear) or name == "0", ["0", "8"]),
        ([nn.Linear, "1", "1", "?"], [str(i) for i in range(10)]),  # each once, in the model's order
        (("8", nn.Conv2d), ["0", "3", "8"]),
    ],
)
def test_selectors(selector, expected) -> None:
    model = networks.cnn()
    chosen = choose(model, selector)
    assert list(chosen) == expected
    assert all(chosen[name] is model.get_submodule(name) for name in expected)


def test_pattern_passes_over_what_only_holds_layers() -> None:
    class Called(nn.ModuleList):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    model = nn.Module()
    model.held = nn.ModuleDict({"norms": nn.ModuleList([nn.BatchNorm1d(2)]), "called": Called()})
    assert list(choose(model, "held.*")) == ["held.norms.0", "held.called"]
    assert list(choose(model, "held.n?rms")) == ["held.norms"]  # and nothing else: to be named where it does not run


def test_pattern_takes_any_depth() -> None:
    assert len(choose(networks.Classifier(), "encoder.*.linear?")) == 4


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (
            "encoder.layers.0.nrm1",
            "layers must match layers of the model, got 'encoder.layers.0.nrm1', which matches none: "
            "the nearest are 'encoder.layers.0.norm1'",
        ),
        ("*.bn*", "got '*.bn*', which matches none: there are 'Classifier', 'embed', 'encoder'"),
        (nn.Conv2d, "got Conv2d, which matches none: there are Classifier, Dropout, Embedding, LayerNorm"),
        (lambda name, module: False, "which matches none of 'Classifier', 'embed'"),
        ([], "layers must select at least one layer, got []"),
        (int, "layers must hold names, patterns, module types or predicates, got <class 'int'>"),
        ([3], "layers must hold names, patterns, module types or predicates, got 3"),
    ],
)
def test_no_match_names_the_nearest(selector, message) -> None:
    with pytest.raises(InputError) as caught:
        choose(networks.Classifier(), selector)
    assert message in str(caught.value)


def test_a_shared_module_goes_by_its_first_name() -> None:
    norm = nn.BatchNorm1d(3)
    model = networks.Lambda(lambda self, x: self.second(self.first(x)), first=norm, second=norm)
    assert list(choose(model)) == list(choose(model, "first")) == ["first"]
    message = "layers must name a shared module by the first of its names, 'first', got 'second'"
    with pytest.raises(InputError, match=message):
        choose(model, "second")
    with pytest.raises(InputError, match="got '', which matches none"):
        choose(model, "")


def test_no_normalization_layer() -> None:
    message = (
        "layers must be given for a Sequential, which has no normalization layer; its layers are 'Sequential', '0'"
    )
    with pytest.raises(InputError, match=message):
        choose(nn.Sequential(nn.Linear(2, 2)))


def test_a_single_layer_bears_the_name_of_its_class() -> None:
    assert list(choose(nn.BatchNorm1d(3))) == ["BatchNorm1d"]


def test_wrappers_leave_no_mark_on_names() -> None:
    model = networks.cnn()
    plain = named_layers(model)
    whole = torch.compile(nn.DataParallel(torch.compile(model, backend="eager")), backend="eager")
    assert unwrap(whole) is model
    assert named_layers(whole) == plain
    outer = nn.Sequential(model)
    before = named_layers(outer)
    outer[0] = torch.compile(model, backend="eager")
    outer[0]._orig_mod[3] = torch.compile(model[3], backend="eager")
    assert named_layers(outer) == before


def test_channel_axis() -> None:
    class LayerNorm2d(nn.LayerNorm):  # the name that timm and torchvision give a layer norm over images
        pass

    class Custom(nn.Conv2d):
        pass

    second = [nn.Conv1d(1, 1, 1), Custom(1, 1, 1), nn.ConvTranspose3d(1, 1, 1), nn.BatchNorm1d(1), nn.GroupNorm(1, 1)]
    second += [nn.SyncBatchNorm(1), nn.InstanceNorm2d(1), LayerNorm2d(1), UnitizedBatchNorm2d(1), nn.MaxPool2d(1)]
    last = [nn.Linear(1, 1), nn.LayerNorm(1), nn.RMSNorm(1), nn.Embedding(1, 1), nn.MultiheadAttention(1, 1)]
    last += [nn.LSTM(1, 1), nn.GRU(1, 1), networks.Classifier().encoder, networks.Classifier().encoder.layers[0]]
    assert [channel_axis_of(module, 4) for module in second] == [1] * len(second)
    assert [channel_axis_of(module, 4) for module in last] == [-1] * len(last)
    assert channel_axis_of(nn.ReLU(), 3) is None


@pytest.mark.parametrize(
    ("name", "base", "axes"),
    [  # the axis for values of three axes (tokens), and of four (images)
        *((name, nn.Module, (-1, None)) for name in ("Attention", "GPT2Attention", "CausalSelfAttention")),
        ("LlamaFlashAttention2", nn.Module, (-1, None)),
        ("Attention2d", nn.Module, (1, 1)),
        ("AttentionPooled", nn.Module, (None, None)),
        ("OwnAttention", nn.MultiheadAttention, (-1, -1)),
    ],
)
def test_attention_over_tokens_has_its_channels_last(name, base, axes) -> None:
    kind = type(name, (base,), {})
    module = kind(4, 1) if base is nn.MultiheadAttention else kind()
    assert (channel_axis_of(module, 3), channel_axis_of(module, 4)) == axes
