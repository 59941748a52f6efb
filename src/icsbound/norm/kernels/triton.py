"""The layer on a GPU by Triton: three launches forward, three backward, the coefficient step included.

`forward` and `backward` are those of `aten`, to rounding. Both memory layouts are handled as they are; any other
strides are made contiguous first, as `nn.BatchNorm` does. A launch never waits for the device, so a CUDA graph can
capture it, and no sum depends on the order in which programs run, so equal inputs give equal bits.

Training reads x twice and writes y, then reads x and dy twice and writes dx:

====================  ===================================  ==============================================
launch                where samples share a norm           where each pixel has one
====================  ===================================  ==============================================
forward               `moments` of x                       `moments` of x
                      `statistics`                         `statistics`
                      `affine`: y                          `pixel_affine`: y, ν
backward              `dots` of dy and x                   `pixel_dots` of dy and x: e
                      `row_gradients`                      `pixel_gradients`
                      `affine2`: dx                        `affine2`: dx
====================  ===================================  ==============================================

Evaluation replaces `moments` by `norms`, after the coefficient step; by pixel, and where a sample fits in the
registers of one program, it reads x once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icsbound.norm.kernels import triton_plan
from icsbound.norm.kernels.aten import Statistics
from icsbound.norm.kernels.cpu import Parameters
from icsbound.norm.kernels.running import Running
from icsbound.norm.kernels.triton_launch import Launcher, cut, padded, refusal, usable
from icsbound.norm.kernels.triton_plan import up
from icsbound.norm.settings import INTERPOLATIONS, Settings

__all__ = ["backward", "forward", "refusal", "usable"]


class _Call(Launcher):
    """One problem: the tensor, the plan for it, and what its settings make constant in the kernels."""

    def __init__(self, x: Tensor, settings: Settings, training: bool) -> None:
        super().__init__(x)
        plan = triton_plan.plan(self.N, self.C, self.L, x.dtype, self.pixels, settings, training)
        self.plan, self.settings, self.training = plan, settings, training
        self.form = INTERPOLATIONS.index(settings.interpolation)
        self.relu = settings.activation == "relu"
        self.batch = settings.scope == "batch"
        self.pitch = 1 if self.pixels else self.L  # between the first elements of two channels

    def step(self, kernel: Any, groups: int, *arguments: Any, **constants: Any) -> None:
        """Launch a coefficient step, which goes through `groups` groups."""
        BC, BG = self.plan.channels, self.plan.groups_at_once(groups)
        kernel[(self.plan.coefficient_programs,)](
            *arguments, A=self.A, TRAINING=self.training, BC=BC, BG=BG, num_warps=8 if BC * BG >= 2048 else 4,
            **constants,
        )  # fmt: skip

    def saved_sizes(self) -> list[int]:
        """Table, ν, and in training by rows the moments of the groups."""
        kept = self.plan.rows.groups * self.C if self.training and not self.plan.by_pixel else 0
        return [6 * self.C, self.plan.norms, kept, kept]


def forward(
    x: Tensor,
    parameters: Parameters,
    stored: Statistics | None,
    settings: Settings,
    running: Running | None = None,
) -> tuple[Tensor, Statistics, Tensor]:
    """The output, the statistics that normalized it, and the numbers that `backward` needs, all in one tensor.

    `stored` holds the statistics to use (evaluation); None takes those of the batch (training), and moves `running`
    towards them, if given.
    """
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        return _forward(_Call(x, settings, stored is None), parameters, stored, running)


def _forward(
    call: _Call, parameters: Parameters, stored: Statistics | None, running: Running | None
) -> tuple[Tensor, Statistics, Tensor]:
    x, plan, t, s = call.x, call.plan, call.plan.rows, call.settings
    rows, pixels, coefficients = call.kernels.rows, call.kernels.pixels, call.kernels.coefficients
    y = torch.empty_like(x)
    saved = torch.empty(sum(map(padded, call.saved_sizes())), dtype=call.inner, device=x.device)
    table, nu, m, M2 = cut(saved, *call.saved_sizes())
    in_parts = not plan.by_pixel and not plan.in_registers
    count = plan.coefficient_programs if call.training or call.batch else t.S * t.blocks  # parts of n²
    parts = call.numbers(0 if not in_parts else count if call.batch else t.N * count)[0]
    if stored is None:
        mean, var = call.numbers(t.C, t.C)
        if plan.by_pixel:
            m, M2 = call.numbers(t.groups * t.C, t.groups * t.C)
        call.over(rows.moments, t, t.programs, x, x, m, M2, t.C, t.L, t.S, t.SPAN, t.groups, call.pitch)
    else:
        mean, var = (v.to(call.inner).contiguous() for v in stored)
    move = running is not None
    if running is not None:
        torch.autograd.graph.increment_version((running.mean_C, running.var_C))
    moved = Running(mean, var, 0.0, 1.0) if running is None else running
    call.step(
        coefficients.statistics, t.groups,
        x, m, M2, *parameters_or(parameters, mean), mean, var, moved.mean_C, moved.var_C, table, parts,
        t.N, t.C, t.L, t.S, t.SPAN, call.pitch, plan.values, plan.variance_factor, s.eps, plan.low, plan.high,
        moved.momentum, moved.bessel,
        AFFINE=parameters.weight_C is not None, SHIFTED=parameters.bias_C is not None, MOVE=move,
        BY_SAMPLE=in_parts and call.training, BATCH=call.batch,
    )  # fmt: skip
    constants = {"FORM": call.form, "SHRINK": s.shrink_only, "RELU": call.relu}
    if in_parts:
        if not call.training and not call.batch:
            call.over(rows.norms, t, t.programs, x, table, parts, t.C, t.L, t.S, t.SPAN)
        call.over(
            rows.affine, t, t.programs, x, y, table, parts, nu, t.C, t.L, t.S, t.SPAN, count,
            plan.batch_factor if call.batch else plan.w, s.norm_eps,
            BATCH=call.batch, BP=min(up(count), 1024), **constants,
        )  # fmt: skip
    else:
        t = plan.pixel_affine
        call.over(
            pixels.pixel_affine, t, t.groups, x, y, table, nu, t.C, t.L, t.S, t.SPAN, plan.w, s.norm_eps,
            WHOLE=t.BC >= t.C, SAMPLE=plan.in_registers, **constants,
        )  # fmt: skip
    return y, Statistics(mean, var), saved


def parameters_or(parameters: Parameters, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The parameters, with some tensor for a kernel that will not look at it in place of None."""
    weight, bias, alpha = (other if p is None else p.contiguous() for p in parameters)
    return weight, bias, alpha


def backward(
    dy: Tensor,
    x: Tensor,
    parameters: Parameters,
    saved: Tensor,
    training: bool,
    settings: Settings,
    *,
    want_dx: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Gradients of x (None unless wanted), γ, β and α. A fused ReLU is undone from x."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # torch's
        call = _Call(x, settings, training)
        return _backward(call, call.arranged(dy), saved, want_dx)


def _backward(call: _Call, dy: Tensor, saved: Tensor, want_dx: bool) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    x, plan, t, s = call.x, call.plan, call.plan.rows, call.settings
    rows, pixels, coefficients = call.kernels.rows, call.kernels.pixels, call.kernels.coefficients
    table, nu, m, M2 = cut(saved, *call.saved_sizes())
    dweight, dbias, dalpha = (torch.empty(t.C, dtype=call.inner, device=x.device) for _ in range(3))
    gradients = dweight, dbias, dalpha
    constants = {"FORM": call.form, "RELU": call.relu}
    numbers = (plan.w, plan.values, plan.variance_factor)
    ends = (plan.low, plan.high)
    if plan.by_pixel:
        d = plan.pixel_dots
        e, slopes, sums = call.numbers(plan.norms, 3 * t.C, (6 if call.training else 3) * t.C * d.groups)
        call.over(
            pixels.pixel_dots, d, d.groups, dy, x, table, nu, e, sums, t.C, t.L, d.S, d.SPAN, d.groups,
            SHRINK=s.shrink_only, TRAINING=call.training, WHOLE=d.BC >= d.C, maxnreg=128, **constants,
        )  # fmt: skip
        call.step(
            coefficients.pixel_gradients, d.groups, sums, table, slopes, *gradients, t.C, d.groups, *numbers, *ends
        )
    else:
        e, slopes, s0, s1, e_parts = call.numbers(t.N, 3 * t.C, t.groups * t.C, t.groups * t.C, t.programs)
        call.over(
            rows.dots, t, t.programs, dy, x, table, nu, s0, s1, e_parts, t.C, t.L, t.S, t.SPAN, t.groups,
            SHRINK=s.shrink_only, maxnreg=call.limit, **constants,
        )  # fmt: skip
        at_once = plan.groups_at_once(t.N)
        call.step(
            coefficients.row_gradients, t.N, s0, s1, m, M2, nu, e_parts, table, e, slopes, *gradients,
            t.N, t.C, t.L, t.S, t.SPAN, t.S * t.blocks, *numbers, plan.samples, *ends,
            FORM=call.form, BATCH=call.batch, BP=min(up(t.S * t.blocks), max(1, 4096 // at_once)),
        )  # fmt: skip
    if not want_dx:
        return None, *gradients
    dx = torch.empty_like(x)
    call.over(
        rows.affine2, t, t.programs, dy, x, dx, table, nu, e, slopes, t.C, t.L, t.S, t.SPAN,
        BY_PIXEL=plan.by_pixel, maxnreg=128 if plan.by_pixel else call.limit, **constants,
    )  # fmt: skip
    return dx, *gradients
