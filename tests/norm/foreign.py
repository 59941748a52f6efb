"""Batch norms as torchvision and timm define them, under those libraries' names: the suite installs neither."""

import torch
from torch import nn


class FrozenBatchNorm2d(nn.Module):
    __module__ = "torchvision.ops.misc"

    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


class BatchNormAct2d(nn.BatchNorm2d):
    __module__ = "timm.layers.norm_act"

    def __init__(self, num_features):
        super().__init__(num_features)
        self.drop, self.act = nn.Dropout(0.5), nn.SiLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class SyncBatchNormAct(nn.SyncBatchNorm):
    __module__ = "timm.layers.norm_act"

    def __init__(self, num_features):
        super().__init__(num_features)
        self.drop, self.act = nn.Dropout(0.5), nn.SiLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    __module__ = "timm.layers.norm_act"

    def __init__(self, num_features):
        super().__init__(num_features)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class InplaceAbn(nn.Module):
    """A batch norm by its buffers alone: neither its class nor its name says so."""

    __module__ = "timm.layers.inplace_abn"

    def __init__(self, num_features):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
