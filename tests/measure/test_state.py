"""Nothing that runs inside `untouched` leaves a trace."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from icsbound.measure.state import untouched


class Messy(nn.Module):
    """Changes, in one forward pass, everything that it can reach."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("counter", torch.zeros(3))
        self.register_buffer("rebound", torch.zeros(3))
        self.loose = torch.ones(2)
        self.history: list[int] = []
        self.past: list[Tensor] = [torch.zeros(2)]
        self.array, self.seen, self.queue = np.zeros(2), {1, 2}, deque([1], maxlen=2)
        self.numpy, self.python = np.random.default_rng(0), random.Random(0)
        self.cache: dict[str, Tensor] = {"kept": torch.ones(1)}
        self.length = 1
        self.generator = torch.Generator()
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        """Leave traces everywhere; raise in the end if told so."""
        self.train(not self.training)
        self.norm.train()
        y = self.drop(self.norm(x)) + torch.randn(4) + torch.rand(4, generator=self.generator)
        self.counter += random.random() + np.random.rand()  # noqa: NPY002
        self.counter[0] = torch.nan
        self.rebound = self.rebound + 1
        self.loose.mul_(2)
        self.history.append(1)
        self.past[0].add_(1)
        self.cache["kept"].add_(1)
        self.array += 1
        self.seen.add(3)
        self.queue.extend([2, 3])
        self.numpy.normal()
        self.python.random()
        self.norm.bias.requires_grad_(False)
        self.norm.weight.grad = torch.ones(4)
        self.cache["new"] = self.cache.pop("kept")
        self.length = 7
        self.extra = 3
        self.register_buffer("lazy", torch.zeros(1))
        self.norm.register_forward_hook(lambda *_: None)
        torch.set_grad_enabled(True)
        torch.set_autocast_enabled("cpu", True)
        torch.set_autocast_dtype("cpu", torch.float16)
        torch.backends.mha.set_fastpath_enabled(True)
        if self.fails:
            raise KeyboardInterrupt
        return y


def flags() -> tuple[object, ...]:
    """The switches of torch that a forward pass could turn."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )


def contents(model: Messy) -> dict[str, object]:
    """What the model holds: plain values, and tensors as (identity, values)."""
    found: dict[str, object] = {}
    for name, module in model.named_modules():
        for key, value in [*vars(module).items(), *module._buffers.items(), *module._parameters.items()]:
            if isinstance(value, nn.Parameter):
                value = id(value), value.tolist(), value.requires_grad, id(value.grad)
            elif isinstance(value, np.random.Generator):
                value = id(value), repr(value.bit_generator.state)
            elif isinstance(value, random.Random):
                value = id(value), value.getstate()
            elif isinstance(value, Tensor | np.ndarray):
                value = id(value), value.tolist()
            elif isinstance(value, torch.Generator):
                value = id(value), value.get_state().tolist()
            elif isinstance(value, dict | list | set | deque):
                value = id(value), repr(value)
            found[f"{name}.{key}"] = value
    return found


def draws(model: Messy) -> list[float]:
    """The next random numbers, of all kinds."""
    torch_next = float(torch.rand(())), float(torch.rand((), generator=model.generator))
    return [*torch_next, random.random(), np.random.rand()]  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_everything_is_as_before(fails, training, grad) -> None:
    model = Messy().train(training)
    model.norm.eval()  # a frozen norm in a model that trains
    model.fails = fails
    x = torch.randn(6, 4)
    states = torch.get_rng_state(), model.generator.get_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    expected = draws(model)
    torch.set_rng_state(states[0])
    model.generator.set_state(states[1])
    random.setstate(states[2])
    np.random.set_state(states[3])  # noqa: NPY002
    with torch.set_grad_enabled(grad):
        before, switches = contents(model), flags()
        try:
            with untouched(model):
                model(x)
        except KeyboardInterrupt:
            assert fails
        else:
            assert not fails
        assert flags() == switches
        assert contents(model) == before
    assert draws(model) == expected


def test_this_test_can_fail() -> None:
    model = Messy()
    before = contents(model)
    switches = flags()
    try:
        model(torch.randn(6, 4))
        assert flags() != switches
        changed = {key for key, value in contents(model).items() if before.get(key) != value}
    finally:
        torch.set_autocast_enabled("cpu", False)
        torch.set_autocast_dtype("cpu", torch.bfloat16)
    assert {".training", ".counter", ".rebound", ".loose", ".history", ".cache", ".length", ".extra"} <= changed
    assert {".lazy", ".generator", "norm.running_mean", "norm.num_batches_tracked", "norm._forward_hooks"} <= changed


def test_buffers_may_be_restored_while_a_backward_pass_is_due() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()  # eval: the graph holds the running statistics
    loss = model(torch.randn(6, 4)).sum()
    with untouched(model):
        model.train()(torch.randn(6, 4))
    loss.backward()


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_autocast_that_a_model_switches_is_switched_back(device: str) -> None:
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    with untouched(nn.Identity()):
        torch.set_autocast_enabled(device, not before[0])
        torch.set_autocast_dtype(device, torch.float16 if before[1] != torch.float16 else torch.bfloat16)
    after = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, before[0])
    torch.set_autocast_dtype(device, before[1])
    assert after == before


def test_weights_cast_by_autocast_before_a_step_are_not_measured_after_it() -> None:
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    with torch.autocast("cpu"):
        model(x).sum().backward()  # autocast keeps the weights it cast, until its block ends
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        with untouched(model):
            found = model(x)
    with torch.autocast("cpu"):
        assert torch.equal(found, model(x))
    assert model.weight.grad is not None


def test_gradients_stay() -> None:
    model = nn.Linear(4, 4)
    model(torch.randn(2, 4)).sum().backward()
    grads = [(p.grad, p.grad.clone()) for p in model.parameters()]
    with untouched(model):
        assert not model(torch.randn(2, 4)).requires_grad
    assert all(
        p.grad is held and torch.equal(held, copy) for p, (held, copy) in zip(model.parameters(), grads, strict=True)
    )


def test_buffers_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = nn.BatchNorm1d(4).eval()
    with untouched(model):
        model(torch.randn(3, 4))


def test_random_states_of_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs and an MPS device, as far as their random states go: generators of the CPU stand in for theirs."""
    gpus = tuple(torch.Generator().manual_seed(seed) for seed in (1, 2))
    mps = torch.Generator().manual_seed(3)
    for name in ("is_available", "is_initialized"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", mps.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", mps.set_state)
    everywhere = (*gpus, mps)
    before = [generator.get_state() for generator in everywhere]
    with untouched(nn.Identity()):
        for generator in everywhere:
            torch.rand(3, generator=generator)
        assert not any(torch.equal(a, b.get_state()) for a, b in zip(before, everywhere, strict=True))
    assert all(torch.equal(a, b.get_state()) for a, b in zip(before, everywhere, strict=True))


def test_a_gpu_that_nobody_uses_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was initialized"))
    with untouched(nn.Identity()):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_states_of_all_devices() -> None:
    torch.cuda.init()
    before = torch.cuda.get_rng_state_all()
    with untouched(nn.Identity()):
        for device in range(torch.cuda.device_count()):
            torch.rand(3, device=f"cuda:{device}")
    assert all(torch.equal(a, b) for a, b in zip(before, torch.cuda.get_rng_state_all(), strict=True))
