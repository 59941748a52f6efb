"""Small networks that the tests of capture and monitor measure."""

import torch
from torch import Tensor, nn


def cnn() -> nn.Sequential:
    """Convolutions, batch norm, group norm, ReLU in place (it writes into what was captured), dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, stride=2),
        nn.GroupNorm(2, 6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(54, 5),
        nn.BatchNorm1d(5),
    )


def images(n: int) -> Tensor:
    """n inputs of `cnn`."""
    return torch.randn(n, 3, 8, 8)


class Classifier(nn.Module):
    """Tokens through a two-layer `nn.TransformerEncoder` to three classes."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first)
        self.head = nn.Linear(8, 3)
        self.axis = 1 if batch_first else 0

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores (batch, 3); tokens (batch, length)."""
        tokens = tokens if self.axis else tokens.T
        return self.head(self.encoder(self.embed(tokens), src_key_padding_mask=mask).mean(self.axis))


def tokens(n: int, length: int = 7) -> Tensor:
    """n inputs of `Classifier`."""
    return torch.randint(11, (n, length))


class Lambda(nn.Module):
    """A module from a function of itself and its input; it owns the given modules."""

    def __init__(self, function, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args, **kwargs):
        """What the function returns."""
        return self.function(self, *args, **kwargs)
