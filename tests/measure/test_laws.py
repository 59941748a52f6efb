"""The three laws, against batch normalization written out."""

import copy
import itertools

import networks
import pytest
import torch
from torch import nn

from icsbound._check import InputError
from icsbound.measure.capture import capture
from icsbound.norm.modules import UnitizedBatchNorm1d


def trained(*widths: int) -> nn.Sequential:
    """Linear layers and batch norms whose running statistics are no longer the initial ones."""
    parts = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.BatchNorm1d(b))]
    model = nn.Sequential(*parts).double()
    for _ in range(3):
        model(torch.randn(16, widths[0], dtype=torch.float64))
    return model


def normalize(x: torch.Tensor, norm: nn.BatchNorm1d, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
    """Batch normalization by given statistics."""
    return (x - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias


def test_eval_uses_running_statistics() -> None:
    model, probe = trained(5, 4), torch.randn(10, 5, dtype=torch.float64)
    expected = normalize(model[0](probe), model[1], model[1].running_mean, model[1].running_var)
    torch.testing.assert_close(capture(model, probe)["1"], expected.detach())


def test_train_uses_each_batch() -> None:
    model, probe = trained(5, 4), torch.randn(11, 5, dtype=torch.float64)
    parts = [model[0](probe[rows]) for rows in (slice(0, 3), slice(3, 7), slice(7, 11))]  # 11 in batches of at most 4
    expected = torch.cat([normalize(x, model[1], x.mean(0), x.var(0, correction=0)) for x in parts])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.testing.assert_close(capture(model, probe, law="train", batch_size=4)["1"], expected.detach())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_frozen_uses_the_statistics_of_the_given_batch() -> None:
    model, probe = trained(5, 4, 3), torch.randn(10, 5, dtype=torch.float64)
    draw = torch.randn(8, 5, dtype=torch.float64)
    expected, x, y = {}, model[0](probe), model[0](draw)
    for i in (1, 3):
        expected[str(i)] = normalize(x, model[i], y.mean(0), y.var(0))
        y = normalize(y, model[i], y.mean(0), y.var(0, correction=0))  # the draw itself runs under the train law
        if i == 1:
            x, y = model[2](expected["1"]), model[2](y)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = capture(model, probe, law="frozen", statistics=draw, batch_size=3)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.detach())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.1


@pytest.mark.parametrize(
    "norm", [UnitizedBatchNorm1d(4), UnitizedBatchNorm1d(4, scope="batch"), UnitizedBatchNorm1d.as_published(4)]
)
def test_a_unitized_layer_follows_the_laws(norm) -> None:
    model = nn.Sequential(nn.Linear(5, 4), norm).double()
    nn.init.constant_(norm.alpha, 0.4)
    probe = torch.randn(1000, 5, dtype=torch.float64)
    expected = copy.deepcopy(model)(probe).detach()
    torch.testing.assert_close(capture(model, probe, law="train", batch_size=1000)["1"], expected)
    # A draw that is the probe itself: the train law, but for the variance, which may be stored unbiased.
    frozen = capture(model, probe, law="frozen", statistics=probe)["1"]
    torch.testing.assert_close(frozen, expected, rtol=2e-3, atol=2e-3)
    assert (capture(model, probe)["1"] - expected).abs().max() > 0.1


def test_dropout_is_off_under_every_law() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4, affine=False))
    probe = torch.randn(64, 4)
    found = capture(model, probe, law="train")["1"]
    torch.testing.assert_close(found, nn.functional.batch_norm(probe, None, None, training=True))


def test_without_running_statistics_only_train_is_true() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False))
    probe = torch.randn(8, 4)
    assert torch.equal(capture(model, probe, law="train")["0"], model(probe))
    message = (
        "law must be 'train' for this model, got 'eval': layer '0' keeps no running statistics and normalizes every "
        "batch by its own"
    )
    with pytest.raises(InputError, match=message):
        capture(model, probe)
    capture(nn.InstanceNorm1d(4), torch.randn(2, 4, 5))  # each sample by its own statistics: no law of a batch


def test_statistics_go_with_the_frozen_law() -> None:
    model, probe = networks.cnn(), networks.images(4)
    message = "statistics must be the batch of inputs whose statistics law 'frozen' holds fixed"
    with pytest.raises(InputError, match=message):
        capture(model, probe, law="frozen")
    with pytest.raises(InputError, match=message):
        capture(model, probe, statistics=probe)
    with pytest.raises(InputError, match=r"law must be one of 'eval', 'train', 'frozen', got 'trian' \(did you mean"):
        capture(model, probe, law="trian")
