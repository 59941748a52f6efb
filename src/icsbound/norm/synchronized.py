"""Statistics over the batches of several processes, by one exchange forward and one backward.

Forward, each process sends the mean, the biased variance and the number of its values per channel, packed in one
vector, and merges what it receives: ``mean = Σ n_i mean_i / n``, ``var = Σ n_i (var_i + (mean_i - mean)²) / n``. It is
an all-gather and no all-reduce: sums of squares over processes lose digits where mean ≫ std, unless all agree on a
pivot first. Backward, the sums of `coefficients.Sums` are added up by one all-reduce. The native kernels do their part
in two calls each way, before and after the exchange.

Batches may differ in size, and be empty; every process must call the layer, and its backward, equally often. As with
`nn.SyncBatchNorm`, the gradient of x is that of the sum of the losses of all processes, and those of the parameters are
each process's share, for `DistributedDataParallel` to average.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable

from icsbound import _check
from icsbound._check import InputError
from icsbound.norm import coefficients, ops
from icsbound.norm.coefficients import Moments, Sums
from icsbound.norm.kernels import aten, cpu
from icsbound.norm.settings import Settings

WORLD = "world"


class Synchronized(NamedTuple):
    """The output, the statistics that normalized it, and the number of values per channel in all processes."""

    y: Tensor
    statistics: aten.Statistics
    values: Tensor


def checked_group(group: Any) -> Any:
    """`group` if it is None, "world" or a process group; InputError otherwise."""
    known = group is None or group == WORLD or (dist.is_available() and isinstance(group, dist.ProcessGroup))
    if not known:
        _check.fail(
            "process_group",
            "be None, 'world' (all processes) or a torch.distributed process group that this process belongs to",
            group,
        )
    return group


def resolved(group: Any) -> dist.ProcessGroup | None:
    """The group to exchange with, None for nobody: no group, or one of a single process.

    Raises InputError where torch.distributed is not initialised.
    """
    if group is None:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        _check.fail(
            "process_group",
            "be None until torch.distributed is initialised in this process",
            group,
            "; call torch.distributed.init_process_group first",
        )
    found: Any = dist.group.WORLD if group == WORLD else group
    try:
        size = dist.get_world_size(found)
    except (RuntimeError, ValueError):
        size = -1
    if size < 1:
        _check.fail("process_group", "be one that is initialised and that this process belongs to", group)
    return found if size > 1 else None


@_disable_dynamo  # torch.compiler.disable, which would load the whole compiler when this module is imported
def unitize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, alpha: Tensor, group: dist.ProcessGroup, settings: Settings
) -> Synchronized:
    """`ops.unitize` in training, with statistics over all processes of `group`; (N, C, *) with N = 0 allowed.

    Its backward cannot be differentiated again, and no forward-mode rule or `torch.func` transform exists; each raises.
    """
    if ops.transformed():
        raise InputError(
            "process_group must be None under torch.func transforms and forward-mode differentiation: "
            "synchronized statistics support neither"
        )
    y, mean, var, values = _Synchronized.apply(x, weight, bias, alpha, group, settings)  # type: ignore[no-untyped-call]
    return Synchronized(y, aten.Statistics(mean, var), values)


class _Exchange(coefficients.Whole):
    """A batch whose parts lie in the processes of a group."""

    def __init__(self, group: dist.ProcessGroup, positions: int, scope: str) -> None:
        self.group, self.positions, self.scope = group, positions, scope

    def merge(self, part: Moments, pivot_C: Tensor) -> Moments:
        own = torch.stack([pivot_C.double() + part.mean_C.double(), part.var_C.double()])
        sizes = own.new_tensor([part.values, part.samples, self.positions if part.samples else 0])
        packed = torch.cat([own.flatten() if part.samples else torch.zeros_like(own).flatten(), sizes])
        all_WK = packed.new_empty(dist.get_world_size(self.group), packed.numel())
        dist.all_gather(list(all_WK.unbind()), packed, self.group)
        C = len(pivot_C)
        mean_WC, var_WC, values_W, samples_W, positions_W = torch.split(all_WK, [C, C, 1, 1, 1], 1)
        self.values, self.samples = values_W.sum(), samples_W.sum()
        if part.values < 2 and float(self.values) < 2:  # looked at only where it can be: it waits for the device
            raise InputError(
                "x must hold more than one value per channel in training, over all processes of process_group, "
                f"got {[int(n) for n in values_W[:, 0].tolist()]}: use a larger batch, or drop the incomplete last one"
            )
        if self.scope == "batch" and len(set(positions_W[samples_W > 0].tolist())) > 1:
            raise InputError(
                "x must have equally many positions in every process for scope 'batch', "
                f"got {[int(n) for n in positions_W[:, 0].tolist()]}"
            )
        mean_C = (values_W * mean_WC).sum(0) / self.values
        var_C = (values_W * (var_WC + (mean_WC - mean_C) ** 2)).sum(0) / self.values
        inner = pivot_C.dtype
        return Moments((mean_C - pivot_C.double()).to(inner), var_C.to(inner), self.values, self.samples)

    def reduce(self, part: Sums) -> Sums:
        packed = torch.cat(part)
        dist.all_reduce(packed, group=self.group)
        return Sums(*torch.split(packed, [len(t) for t in part]))

    def size(self, samples: int, positions: int) -> tuple[Tensor, Tensor]:
        return self.values, self.samples


class _Synchronized(torch.autograd.Function):
    """`aten` or, where they can run, the native kernels, cut in two each way by the exchange."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        alpha: Tensor,
        group: dist.ProcessGroup,
        settings: Settings,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exchange = _Exchange(group, math.prod(x.shape[2:]), settings.scope)
        kept: tuple[Tensor, ...]
        ctx.native = cpu.usable(x)
        if ctx.native:
            given = cpu.Parameters(weight, bias, alpha)
            y, found, numbers = cpu.forward(x, given, None, settings, whole=exchange)
            assert found is not None
            (mean, var), kept = found, (numbers,)
        else:
            parameters = aten.parameters(x, weight, bias, alpha, settings)
            y, (mean, var), saved = aten.forward(x, parameters, None, settings, exchange)
            kept = saved.tensors()
        ctx.save_for_backward(x, weight, bias, alpha, *kept)
        ctx.exchange, ctx.settings = exchange, settings
        ctx.mark_non_differentiable(mean, var, exchange.values)
        return y, mean, var, exchange.values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, alpha, *kept = ctx.saved_tensors
        settings, exchange = ctx.settings, ctx.exchange
        dx: Tensor | None
        if ctx.native:
            given = cpu.Parameters(weight, bias, alpha)
            dx, *grads = cpu.backward(dy, x, given, kept[0], True, settings, exchange, want_dx=ctx.needs_input_grad[0])
        else:
            parameters = aten.parameters(x, weight, bias, alpha, settings)
            dx, *grads = aten.backward(dy, x, parameters, aten.Saved.of(kept, settings), True, settings, exchange)
        return dx, *aten.in_own_dtypes(grads, (weight, bias, alpha)), None, None
