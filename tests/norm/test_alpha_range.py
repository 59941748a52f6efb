"""α in its range: a start at an end can leave it, nothing leaves the range in effect, with any optimizer."""

import pytest
import torch

from icsbound.norm import UnitizedBatchNorm1d, ops

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.06),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "decoupled decay": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
}


def trained(start, wanted, optimizer, steps=60, alpha_range=(0.0, 1.0)):
    """α after fitting the outputs of a layer whose α is `wanted`, from `start`; 4 channels of dense samples.

    The samples differ in norm by a factor of about ten, without which the outputs would not depend on α.
    """
    teacher = UnitizedBatchNorm1d(4, affine=False, alpha_init=wanted, dtype=torch.float64)
    layer = UnitizedBatchNorm1d(4, affine=False, alpha_init=start, alpha_range=alpha_range, dtype=torch.float64)
    step = OPTIMIZERS[optimizer]([layer.alpha])
    seen = []
    for _ in range(steps):
        x = torch.randn(32, 4, dtype=torch.float64) * torch.exp(torch.randn(32, 1, dtype=torch.float64))
        step.zero_grad()
        (layer(x) - teacher(x)).square().sum(1).mean().backward()
        step.step()
        seen.append(layer.clamped_alpha())
    return layer, torch.stack(seen)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_start_at_an_end_can_leave_it(start, optimizer):
    layer, seen = trained(start, wanted=0.5, optimizer=optimizer)
    assert ((seen >= 0) & (seen <= 1)).all()
    assert (layer.alpha.detach() - 0.5).abs().max() < 0.15


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("kept_whole", [True, False], ids=["operator", "composite"])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_compiled_layer_leaves_an_end_as_an_eager_one(start, kept_whole, monkeypatch):
    if not kept_whole:
        monkeypatch.setattr(ops, "_NATIVE_BUILT", False)
    torch._dynamo.reset()
    layers = [UnitizedBatchNorm1d(4, affine=False, alpha_init=start, dtype=torch.float64) for _ in range(2)]
    runs = torch.compile(layers[0], backend="aot_eager", fullgraph=True), layers[1]
    x = torch.randn(32, 4, dtype=torch.float64) * torch.exp(torch.randn(32, 1, dtype=torch.float64))
    dy = torch.randn(32, 4, dtype=torch.float64)
    for layer, run in zip(layers, runs, strict=True):
        step = torch.optim.SGD([layer.alpha], lr=1e-3)
        for _ in range(2):  # the second from where the first has led
            step.zero_grad()
            run(x).backward(dy)
            step.step()
    found, wanted = (layer.alpha.detach() for layer in layers)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert ((found - start) * (1 if start == 0 else -1) >= 0).all()
    moved = found != start
    assert moved.any()  # those whose gradient points inward
    assert not moved.all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pushed_outwards_it_stays_in_effect_at_the_end(optimizer):
    # The best α is 0.9, the range ends at 0.4: the parameter itself may overshoot, what is computed with does not.
    layer, seen = trained(0.2, wanted=0.9, optimizer=optimizer, alpha_range=(0.1, 0.4))
    assert ((seen >= 0.1) & (seen <= 0.4)).all()
    assert (seen[-1] > 0.3).all()
    assert layer.alpha.detach().max() < 1.0  # and it overshoots by no more than what the optimizer had gathered


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("form", ["harmonic", "arithmetic", "geometric"])
def test_only_the_outward_part_of_the_gradient_is_dropped(form):
    start = torch.tensor([-0.3, 0.0, 0.5, 1.0, 1.3], dtype=torch.float64)
    layer = UnitizedBatchNorm1d(5, interpolation=form, dtype=torch.float64)
    free = UnitizedBatchNorm1d(5, interpolation=form, alpha_range=None, dtype=torch.float64)
    x = torch.randn(16, 5, dtype=torch.float64) * torch.exp(torch.randn(16, 1, dtype=torch.float64))
    for module in (layer, free):
        with torch.no_grad():
            module.alpha.copy_(start if module is layer else start.clamp(0, 1))
    dropped = torch.zeros(5)
    for dy in torch.randn(40, 16, 5, dtype=torch.float64):
        found, full = (torch.autograd.grad(module(x), module.alpha, dy)[0] for module in (layer, free))
        outward = ((start <= 0) & (full > 0)) | ((start >= 1) & (full < 0))
        torch.testing.assert_close(found, torch.where(outward, 0.0, full), rtol=1e-12, atol=1e-14)
        dropped += outward
    assert dropped[2] == 0
    assert ((dropped[[0, 1, 3, 4]] > 0) & (dropped[[0, 1, 3, 4]] < 40)).all()


def test_clamped_alpha_is_what_is_computed_with():
    layer = UnitizedBatchNorm1d(2, dtype=torch.float64)
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([-1.0, 3.0]))
    twin = UnitizedBatchNorm1d(2, dtype=torch.float64)
    with torch.no_grad():
        twin.alpha.copy_(torch.tensor([0.0, 1.0]))
    x = torch.randn(5, 2, dtype=torch.float64)
    assert torch.equal(layer(x), twin(x))
    assert layer.clamped_alpha().tolist() == [0.0, 1.0]
    assert layer.alpha.tolist() == [-1.0, 3.0]
