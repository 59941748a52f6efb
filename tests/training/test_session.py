"""What a session refuses of a network before anything is trained."""

import re

import pytest
from small import config
from torch import nn

from icsbound._check import InputError
from icsbound.training import session


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(15, 4, 1, 2),
        nn.Conv2d(1, 4, 1, (1, 2), bias=False),
        nn.Conv2d(8, 4, 1, 3, "valid"),
    ],
)
def test_names_the_layer_at_which_memory_would_be_overrun(layer: nn.Conv2d) -> None:
    # looked at, and never run: the backward pass may end the process
    message = (
        "channels_last must be False (--no-channels-last) where a strided 1x1 convolution has fewer than 16 input "
        f"channels, got True and layer '1.0', which has {layer.in_channels}: on a CPU, oneDNN writes past its memory "
        "there"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        session.refuse_overrun(nn.Sequential(nn.ReLU(), nn.Sequential(layer)), "channels_last")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 4, 1, 2),
        nn.Conv2d(8, 4, 1),  # not strided
        nn.Conv2d(8, 4, 3, 2),
        nn.Conv2d(8, 4, (1, 2), 2),
        nn.Conv2d(8, 4, 1, 2, 1),  # oneDNN has another way where there is padding
        nn.Conv2d(8, 8, 1, 2, groups=2),  # and where there are groups
        nn.Conv1d(8, 4, 1, 2),  # has no channels_last
    ],
)
def test_passes_layers_over_that_take_another_way(layer: nn.Module) -> None:
    session.refuse_overrun(nn.Sequential(layer), "channels_last")


def test_what_lays_it_out_in_channels_last_is_refused() -> None:
    model = {"model": "nets:strided", "dropout": 0.0, "monitor": None}
    session.Session(config(**model, channels_last=False))
    for argument, flag in (("channels_last", "channels-last"), ("compile", "compile")):
        settings = {"channels_last": False, argument: True}
        message = rf"^{argument} must be False \(--no-{flag}\) .* layer '0\.0', which has 1:"
        with pytest.raises(InputError, match=message):
            session.Session(config(**model, **settings))
