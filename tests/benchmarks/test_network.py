"""What the benchmark of a whole network compares computes the same where it claims to."""

import network
import torch
from torch import nn

from icsbound.norm import UnitizedBatchNorm2d


def test_folded_batch_norm_computes_what_batch_norm_does_in_evaluation():
    models = network.candidates("eval", compiled=False)
    x = torch.randn(2, 3, 32, 32)
    for model in models.values():
        model.eval()
    folded = models["batch norm, folded"]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), models["batch norm"](x), rtol=1e-4, atol=1e-4)


def test_the_layer_over_each_backend_takes_the_same_step():
    models = network.candidates("train", compiled=False)
    x, labels = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    fused = [m for m in models["ours"].modules() if isinstance(m, UnitizedBatchNorm2d) and m.settings.activation]
    assert len(fused) == 10  # the stem's and the first of each block
    heads = {}
    for name, model in models.items():
        network.step_of(model, x, labels, "train")()
        heads[name] = model[-1].weight.detach()
    torch.testing.assert_close(heads["ours over aten"], heads["ours"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(heads["composite"], heads["ours"], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(heads["batch norm"], heads["ours"], rtol=1e-3, atol=1e-4)


def test_a_row_tells_time_and_memory(monkeypatch):
    def candidates(mode, compiled):
        return {name: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)) for name in ("batch norm", "ours")}

    monkeypatch.setattr(network, "candidates", candidates)
    rows = network.measure("contiguous", "train", batch=2, compiled=False, seconds=0.0)
    assert [r.name for r in rows] == ["batch norm", "ours"]
    for r in rows:
        assert 0 < r.fastest <= r.median
        assert r.peak_bytes > 0
