"""`as_published` against the authors' public Keras layer, transcribed to numpy from what its code does.

Training: mean over samples and positions; squares about it are averaged over positions, then over samples, and that
variance is multiplied by n / (n - (1 + eps)) over the n values of a channel. The squared norm of a sample is the sum
over channels of its mean square over positions, divided by the variance plus eps, and for images once more by the
number of positions. Moving averages have momentum 0.99 and are zero-debiased; the inference branch normalizes by them.
"""

import numpy as np
import pytest
import torch
from problems import assert_near

from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d

EPSILON, MOMENTUM = 1e-3, 0.99


class KerasLayer:
    def __init__(self, gamma, beta, alpha):
        self.gamma, self.beta, self.alpha = gamma, beta, alpha
        self.biased, self.steps = [np.zeros_like(gamma), np.zeros_like(gamma)], 0

    def moving(self):
        return [b / (1 - MOMENTUM**self.steps) for b in self.biased]

    def __call__(self, x, training):
        channels = [1, -1] + [1] * (x.ndim - 2)
        positions = tuple(range(2, x.ndim))
        if training:
            mean = x.mean((0, *positions))
            squares = (x - mean.reshape(channels)) ** 2
            variance = (squares.mean(positions) if positions else squares).mean(0)
            size = x.size / x.shape[1]
            variance = variance * (size / (size - (1 + EPSILON)))
            mean_biased, variance_biased = (MOMENTUM * b for b in self.biased)
            self.biased = [mean_biased + (1 - MOMENTUM) * mean, variance_biased + (1 - MOMENTUM) * variance]
            self.steps += 1
        else:
            mean, variance = self.moving()
        centred = x - mean.reshape(channels)
        squares = (centred**2).mean(positions) if positions else centred**2
        norm = (squares / (variance + EPSILON)).sum(1)
        if positions:
            norm = norm / np.prod(x.shape[2:])
        norm = np.sqrt(norm + EPSILON).reshape([-1] + [1] * (x.ndim - 1))
        alpha = self.alpha.reshape(channels)
        scale = (1 / np.sqrt(variance + EPSILON)).reshape(channels) * (alpha / norm + (1 - alpha))
        return self.gamma.reshape(channels) * scale * centred + self.beta.reshape(channels)


# A dense batch, whose target norm is 1; images in which it is the number of positions, fewer or more than channels.
SHAPES = {"dense": (9, 5), "fewer positions": (4, 8, 2, 3), "more positions": (3, 2, 4, 5)}


def pair(shape):
    rng = np.random.default_rng(len(shape) + shape[0])
    gamma, beta, alpha = rng.normal(size=(3, shape[1]))  # α is not confined: some lie outside [0, 1]
    cls = UnitizedBatchNorm1d if len(shape) == 2 else UnitizedBatchNorm2d
    layer = cls.as_published(shape[1], dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip((layer.weight, layer.bias, layer.alpha), (gamma, beta, alpha), strict=True):
            parameter.copy_(torch.from_numpy(value))
    return layer, KerasLayer(gamma, beta, alpha), rng


@pytest.mark.parametrize("name", SHAPES)
def test_outputs_and_statistics_in_training_and_evaluation(name):
    layer, keras, rng = pair(SHAPES[name])
    for step in range(6):
        x = rng.normal(size=SHAPES[name]) * 3 + 1 + step
        assert_near(layer.train()(torch.from_numpy(x)), torch.from_numpy(keras(x, training=True)), 1e-12)
        for found, wanted in zip((layer.running_mean, layer.running_var), keras.moving(), strict=True):
            assert_near(found, torch.from_numpy(wanted), 1e-12)  # the first update sets them whole
        x = rng.normal(size=SHAPES[name])
        assert_near(layer.eval()(torch.from_numpy(x)), torch.from_numpy(keras(x, training=False)), 1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients(name, training):
    layer, keras, rng = pair(SHAPES[name])
    first = rng.normal(size=SHAPES[name])
    layer(torch.from_numpy(first)), keras(first, training=True)
    layer.train(training)
    x, dy = rng.normal(size=(2, *SHAPES[name]))
    leaf = torch.from_numpy(x).requires_grad_()
    leaves = [leaf, layer.weight, layer.bias, layer.alpha]
    grads = torch.autograd.grad(layer(leaf), leaves, torch.from_numpy(dy))

    biased, steps = keras.biased, keras.steps
    for grad, array in zip(grads, (x, keras.gamma, keras.beta, keras.alpha), strict=True):
        flat, wanted = array.reshape(-1), np.empty(array.size)
        for i in range(array.size):
            kept, values = flat[i], []
            for step in (1e-5, -1e-5):
                flat[i] = kept + step
                values.append((keras(x, training) * dy).sum())
                keras.biased, keras.steps = biased, steps
            flat[i] = kept
            wanted[i] = (values[0] - values[1]) / 2e-5
        assert_near(grad, torch.from_numpy(wanted).reshape(grad.shape), 1e-7)


def test_its_settings_can_be_changed_one_by_one():
    layer = UnitizedBatchNorm2d.as_published(3, scope="batch", momentum=0.5)
    assert (layer.settings.scope, layer.momentum, layer.settings.variance) == ("batch", 0.5, "published")
    assert (layer.eps, layer.settings.norm_eps, layer.alpha.tolist()) == (1e-3, 1e-3, [0.0] * 3)
