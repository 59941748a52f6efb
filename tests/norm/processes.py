"""What each process of `test_synchronized` runs: its part of a batch, compared with the whole batch in one process."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from problems import INTERPOLATIONS, SCOPES, assert_near, problem
from torch import nn

from icsbound._check import InputError
from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, unitized_batch_norm
from icsbound.norm.kernels import cpu

TOLERANCE = 1e-12


def enter(rank: int, world: int, store: str, job: Callable[[int, int], None], results: Any) -> None:
    """Join the group, run `job`, and report None or what went wrong."""
    try:
        warnings.simplefilter("error")
        torch.set_num_threads(1)
        torch.manual_seed(0)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if os.path.exists("/sys/class/net/lo") else "lo0")
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
        )
        job(rank, world)
        results.put((rank, None))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, traceback.format_exc()))


def summed(t: torch.Tensor) -> torch.Tensor:
    t = t.clone()
    dist.all_reduce(t)
    return t


def refused(act: Callable[[], object], message: str) -> None:
    with pytest.raises((InputError, RuntimeError), match=re.escape(message)):
        act()


def parts_equal_the_whole(rank: int, sizes: list[int], shape: tuple[int, ...], group: Any = "world") -> None:
    """Every form in every scope, variance and activation in turn; parts of `sizes` samples, of `shape` together."""
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    variants = itertools.cycle(itertools.product(("biased", "published"), (None, "relu")))
    for (form, scope), (variance, activation) in zip(itertools.product(INTERPOLATIONS, SCOPES), variants, strict=False):
        p = problem(shape)  # α lies at both ends of its range too: what is dropped there depends on all processes
        outputs = []
        for part, process_group in ((p.x.detach(), None), (p.x.detach()[rows], group)):
            x, weight, bias, alpha = (t.detach().clone().requires_grad_() for t in (part, p.weight, p.bias, p.alpha))
            mean, var = torch.zeros_like(alpha), torch.ones_like(alpha)
            y = unitized_batch_norm(
                x,
                mean.detach(),
                var.detach(),
                weight,
                bias,
                alpha,
                training=True,
                interpolation=form,
                scope=scope,
                variance=variance,
                activation=activation,
                process_group=process_group,
            )
            dy = p.dy if process_group is None else p.dy[rows]
            grads = torch.autograd.grad(y, [x, weight, bias, alpha], dy)
            outputs.append((y, mean, var, *grads))
        (y, mean, var, dx, *rest), (y_, mean_, var_, dx_, *rest_) = outputs
        assert_near(y_, y[rows], TOLERANCE)
        assert_near(dx_, dx[rows], TOLERANCE)
        assert_near(mean_, mean, TOLERANCE)
        assert_near(var_, var, TOLERANCE)
        assert_near(summed(torch.stack(rest_)), torch.stack(rest), TOLERANCE)


def two(rank: int, world: int) -> None:
    # Uneven parts, of images and of dense samples; the dense second part is a single value per channel.
    parts_equal_the_whole(rank, [3, 5], (8, 3, 2, 3))
    parts_equal_the_whole(rank, [6, 1], (7, 4))
    with without_native_kernels():
        parts_equal_the_whole(rank, [3, 5], (8, 3, 2, 3))
    native_kernels_run_in_two_phases(rank)
    one_exchange_each_way(rank)
    images_of_different_sizes(rank)
    large_means(rank)
    channels_last(rank)
    data_parallel(rank)
    compiled(rank)
    limits(rank)


@contextlib.contextmanager
def without_native_kernels() -> Iterator[None]:
    usable, cpu.usable = cpu.usable, lambda x: False
    try:
        yield
    finally:
        cpu.usable = usable


def counting(name: str, call: Callable[..., Any], counted: Counter[str]) -> Callable[..., Any]:
    """`call`, whose calls are counted under `name`."""
    return lambda *args, **named: counted.update([name]) or call(*args, **named)


def native_kernels_run_in_two_phases(rank: int) -> None:
    """What the processes share is exchanged between two native calls, not around another implementation."""
    if cpu._calls() is None:
        return
    layer = UnitizedBatchNorm2d(3, process_group="world")
    x = torch.randn(3, 3, 4, 4)[rank:].requires_grad_()
    counted: Counter[str] = Counter()

    forward, backward = (counting(*named, counted) for named in zip(("forward", "backward"), cpu._calls(), strict=True))
    calls, cpu._calls = cpu._calls, lambda: (forward, backward)
    try:
        layer(x).square().sum().backward()
    finally:
        cpu._calls = calls
    assert counted == {"forward": 2, "backward": 2}


def one_exchange_each_way(rank: int) -> None:
    """Every further exchange would be another wait for the slowest process."""
    layer = UnitizedBatchNorm2d(3, process_group="world")
    x = torch.randn(3, 3, 4, 4)[rank:].requires_grad_()
    for implementation in (contextlib.nullcontext(), without_native_kernels()):
        with implementation, pytest.MonkeyPatch.context() as patched:
            counted: Counter[str] = Counter()
            for name in [name for name in dir(dist) if name.startswith(("all_", "broadcast", "reduce"))]:
                call = getattr(dist, name)
                if callable(call):
                    patched.setattr(dist, name, counting(name, call, counted))
            y = layer(x)
            assert counted == {"all_gather": 1}
            y.square().sum().backward()
            assert counted == {"all_gather": 1, "all_reduce": 1}


def images_of_different_sizes(rank: int) -> None:
    """What the norm of a sample is divided by then differs between processes; both implementations know it."""
    p = problem((3, 4, 5 + 3 * rank), seed=rank)
    alpha = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64, requires_grad=True)
    found = []
    for implementation in (contextlib.nullcontext(), without_native_kernels()):
        with implementation:
            y = unitized_batch_norm(
                p.x, None, None, p.weight.detach(), None, alpha, training=True, target="paper", process_group="world"
            )
            found.append((y, *torch.autograd.grad(y, (p.x, alpha), p.dy)))
    for native, aten in zip(*found, strict=True):
        assert_near(native, aten, TOLERANCE)


def three(rank: int, world: int) -> None:
    # One process has nothing: it must still take part, forward and backward.
    parts_equal_the_whole(rank, [2, 0, 5], (7, 3, 2, 3))
    subgroup(rank)


def large_means(rank: int) -> None:
    """float32 with mean/std = 1e5, against float64 of the same numbers: no digit is lost on the way through others."""
    x = torch.randn(8, 3, 50) + 1e5
    rows = slice(0, 3) if rank == 0 else slice(3, 8)
    layer = UnitizedBatchNorm1d(3, process_group="world")
    exact = UnitizedBatchNorm1d(3).double()
    assert_near(layer(x[rows]).double(), exact(x.double())[rows], 2e-6)
    assert_near(layer.running_var.double(), exact.running_var, 2e-6)


def channels_last(rank: int) -> None:
    """The layout is kept each way, and changes no number."""
    x, dy = torch.randn(2, 5, 3, 4, 6, dtype=torch.float64)
    rows = slice(0, 2) if rank == 0 else slice(2, 5)
    for scope, implementation in itertools.product(SCOPES, (contextlib.nullcontext, without_native_kernels)):
        found = []
        for form in (torch.contiguous_format, torch.channels_last):
            layer = UnitizedBatchNorm2d(3, scope=scope, process_group="world").double()
            leaf = x[rows].contiguous(memory_format=form).requires_grad_()
            with implementation():
                y = layer(leaf)
                dx, dalpha = torch.autograd.grad(y, (leaf, layer.alpha), dy[rows].contiguous(memory_format=form))
            assert y.is_contiguous(memory_format=form)
            assert dx.is_contiguous(memory_format=form)
            found.append((y, dx, dalpha))
        for other, plain in zip(*found, strict=True):
            assert_near(other, plain, TOLERANCE)


def data_parallel(rank: int) -> None:
    """A network under DistributedDataParallel takes the same steps as in one process on the whole batch."""
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        UnitizedBatchNorm2d(4, process_group="world", alpha_init=0.0),
        nn.Flatten(),
        nn.Linear(36, 3),
    ).double()
    alone = copy.deepcopy(network)
    alone[1].process_group = None
    parallel = nn.parallel.DistributedDataParallel(network)
    steps = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (network, alone)]
    for _ in range(4):
        x = torch.randn(8, 2, 5, 5, dtype=torch.float64) * torch.exp(torch.randn(8, 1, 1, 1, dtype=torch.float64))
        y = torch.randn(8, 3, dtype=torch.float64)
        rows = slice(0, 3) if rank == 0 else slice(3, 8)
        for net, step, part, factor in ((parallel, steps[0], rows, 2), (alone, steps[1], slice(None), 1)):
            step.zero_grad()
            # The gradients of the processes are averaged: with the factor they are those of the sum over all samples.
            (factor * (net(x[part]) - y[part]).square().sum() / 8).backward()
            step.step()
    for found, wanted in zip(network.state_dict().values(), alone.state_dict().values(), strict=True):
        assert_near(found.double(), wanted.double(), 1e-11)
    assert network[1].alpha.detach().abs().max() > 0


def compiled(rank: int) -> None:
    """Compilation leaves the exchange to eager mode, and the result stays right."""
    layer = UnitizedBatchNorm1d(3, process_group="world").double()
    twin = copy.deepcopy(layer)
    x = torch.randn(6, 3, dtype=torch.float64)[rank * 2 : rank * 4 + 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        found = torch.compile(layer, backend="eager")(x)
    assert_near(found, twin(x), 1e-14)
    assert_near(layer.running_var, twin.running_var, 1e-14)


def limits(rank: int) -> None:
    """What cannot be synchronized is refused in every process alike, so that none waits for another."""
    layer = UnitizedBatchNorm1d(3, process_group="world")
    value = torch.randn(1 - rank, 3)  # one sample in the first process, none in the second
    refused(
        lambda: layer(value),
        "x must hold more than one value per channel in training, over all processes of process_group, got [1, 0]: use "
        "a larger batch, or drop the incomplete last one",
    )
    x = torch.randn(4, 3, requires_grad=True)
    refused(lambda: torch.func.grad(lambda t: layer(t).sum())(x), "process_group must be None under torch.func")
    assert layer.num_batches_tracked == 0  # what is refused is not counted
    (g,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    refused(lambda: g.sum().backward(), "once_differentiable")
    # Sizes of images may differ between processes, except where one norm is shared by all.
    part = torch.randn(2, 3, 4 + rank, dtype=torch.float64, requires_grad=True)
    y = unitized_batch_norm(part, None, None, None, None, torch.full((3,), 0.5), True, process_group="world")
    (found,) = torch.autograd.grad(y.square().sum(), part)
    assert_near(summed(found.sum((0, 2))), torch.zeros(3, dtype=torch.float64), 1e-12)  # a common shift changes nothing
    refused(
        lambda: unitized_batch_norm(
            part, None, None, None, None, torch.full((3,), 0.5), True, scope="batch", process_group="world"
        ),
        "x must have equally many positions in every process for scope 'batch', got [4, 5]",
    )


def subgroup(rank: int) -> None:
    """Two of three processes share their statistics; the third is no member and cannot build such a layer."""
    group = dist.new_group([0, 1])
    if rank == 2:
        refused(lambda: UnitizedBatchNorm1d(3, process_group=group), "that this process belongs to")
        return
    x = torch.randn(6, 3, dtype=torch.float64)
    found = UnitizedBatchNorm1d(3, process_group=group).double()(x[:2] if rank == 0 else x[2:])
    wanted = UnitizedBatchNorm1d(3).double()(x)
    assert_near(found, wanted[:2] if rank == 0 else wanted[2:], TOLERANCE)
    dist.destroy_process_group(group)
