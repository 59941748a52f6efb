"""The layer as modules: drop-in for `nn.BatchNorm1d`, `2d` and `3d`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from icsbound import _check
from icsbound._check import InputError
from icsbound.norm import functional, interpolation, settings, synchronized


class UnitizedBatchNorm(_NormBase):
    """What the layers of every rank share; see `UnitizedBatchNorm2d`."""

    # Not a `_BatchNorm`: tools that replace batch norms (`nn.SyncBatchNorm.convert_sync_batchnorm`) or fold them
    # into a convolution would drop α without a word. As a `_NormBase` it keeps the buffers and their handling.

    _ranks: tuple[int, ...]
    alpha: nn.Parameter
    _converted_from: type[nn.Module] | None = None  # what `convert` replaced, for `revert`

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        interpolation: str = "harmonic",
        scope: str = "sample",
        target: str | float = "rms",
        alpha_init: float = 0.5,
        alpha_range: tuple[float, float] | None = (0.0, 1.0),
        norm_eps: float | None = None,
        activation: str | None = None,
        process_group: Any = None,
        shrink_only: bool = False,
        variance: str = "biased",
        debias: bool = False,
        bias: bool = True,
    ) -> None:
        _check.positive_int("num_features", num_features)
        if momentum is not None:
            _check.real("momentum", momentum, 0.0, 1.0)
        self.settings = settings.checked(
            eps, norm_eps, interpolation, scope, target, alpha_range, shrink_only, variance, activation
        )
        low, high = (-math.inf, math.inf) if alpha_range is None else alpha_range
        self.alpha_init = _check.real("alpha_init", alpha_init)
        if not low <= alpha_init <= high:
            _check.fail("alpha_init", f"lie in alpha_range = [{low:g}, {high:g}]", alpha_init)
        self.debias = bool(debias)
        self.process_group = synchronized.checked_group(process_group)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.alpha = nn.Parameter(torch.full((num_features,), self.alpha_init, device=device, dtype=dtype))

    @classmethod
    def as_published(cls, num_features: int, **settings: Any) -> Any:
        """The layer of the authors' public Keras code: arithmetic, κ = H·W (1 for dense), α from 0 and unbounded.

        One eps = 1e-3 for variance and norm, momentum 0.01, the batch variance times count / (count - 1 - eps), in
        training and in the running statistics, and running statistics zero-debiased (the first update sets them whole).
        """
        published: dict[str, Any] = {
            "eps": 1e-3,
            "norm_eps": 1e-3,
            "momentum": 0.01,
            "interpolation": "arithmetic",
            "target": "paper",
            "alpha_init": 0.0,
            "alpha_range": None,
            "variance": "published",
            "debias": True,
        }
        return cls(num_features, **{**published, **settings})

    def reset_parameters(self) -> None:
        """γ = 1, β = 0, α = `alpha_init`, running mean 0 and variance 1."""
        self.reset_running_stats()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("alpha", self.alpha_init)):
            parameter = self._parameters.get(name)  # the base class resets before α is there
            if parameter is not None:
                nn.init.constant_(parameter, value)

    @property
    def eps(self) -> float:
        """What is added to the variance. Setting it leaves `norm_eps` as it is."""
        return self.settings.eps

    @eps.setter
    def eps(self, value: float) -> None:
        self.settings = self.settings._replace(eps=_check.real("eps", value, low=0.0))

    def _update_factor(self, counter: Tensor | None) -> settings.Count:
        """The weight in the running statistics of the batch that comes after the `counter` ones so far."""
        momentum = self.momentum
        if momentum is not None and not (self.debias and counter is not None and momentum > 0):
            return momentum
        if counter is None:
            return 0.0
        # A program that is traced holds the count as a tensor: its value is not known yet.
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        seen: settings.Count = 1.0 + (counter.double() if traced else float(counter))
        if momentum is None:  # cumulative average
            return 1.0 / seen
        # An exponential average of what was seen, without the weight of the initial value.
        return momentum / (1.0 - (1.0 - momentum) ** seen)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *) → the same shape, dtype and memory format."""
        if isinstance(x, torch.fx.Proxy) and type(self).forward is UnitizedBatchNorm.forward:
            return self._traced(x)
        self._check_rank(x)
        training = self.training
        update = training and self.track_running_stats and not functional.recomputing()
        mean, var, weight, bias, alpha = self._tensors()
        if training and not update:
            mean = var = None
        group = functional.exchanging(self.process_group, training)
        functional.check_input(x, mean, var, weight, bias, alpha, training, group)
        counter = self.num_batches_tracked if update else None
        factor = self._update_factor(counter) if update else 0.0
        y = functional.apply(x, mean, var, weight, bias, alpha, training, factor, self.settings, group)
        if counter is not None:  # not before: a batch that is refused does not count
            counter.add_(1)
        return y

    def _check_rank(self, x: Tensor) -> None:
        functional.check_tensor(x)
        if x.ndim not in self._ranks:
            wanted = " or ".join(f"{r}-dimensional" for r in self._ranks)
            raise InputError(f"x must be {wanted} for {type(self).__name__}, got shape {tuple(x.shape)}")

    def _tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor]:
        """Running mean and variance, γ, β and α."""
        of, at = self._parameters, self._buffers
        try:  # where a module keeps them, a third of the time that its attributes take to be found
            return at["running_mean"], at["running_var"], of["weight"], of["bias"], of["alpha"]  # type: ignore[return-value]
        except KeyError:  # parametrized, or a replica of `nn.DataParallel`
            return self.running_mean, self.running_var, self.weight, self.bias, self.alpha

    def _traced(self, x: Any) -> Any:
        """A call of this module in the graph that `torch.fx` traces, whose tracers know only torch's own as leaves."""
        if x.tracer.root is self:
            raise InputError(f"a {type(self).__name__} is a leaf for torch.fx: trace a module that holds it")
        return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})

    def clamped_alpha(self) -> Tensor:
        """α as the forward pass uses it, (C,), detached: the parameter itself may leave `alpha_range` for a while."""
        return interpolation.clamped(self.alpha.detach(), self.settings.alpha_range)

    def bound(self, positions: int = 1) -> float:
        """The noise-free radius R: every output lies within R of the bias, whatever the input and the statistics.

        Harmonic form with every α_c in (0, 1]: ``|y - β| <= R = κ max_c |γ_c| / α_c``, so the Earth Mover distance
        between two steps is at most ``|β - β'| + R + R'``. The other forms have such a bound only at α = 1, where R = κ
        max_c |γ_c|. In scope "position" the radius of one pixel is multiplied by √L. A fused ReLU moves no two points
        apart: R then holds about relu(β).

        Args:
            positions: L, the product of the spatial sizes of the output (1 for dense).

        Returns:
            R in units of the output, for the whole sample flattened to C·L numbers; `inf` where no such bound exists.
        """
        _check.positive_int("positions", positions)
        s, alpha = self.settings, self.clamped_alpha().double()
        bounded = (alpha > 0) & (alpha <= 1) if s.interpolation == "harmonic" else alpha == 1  # a NaN is in neither
        if s.scope == "batch" or not bool(bounded.all()):
            return math.inf
        gamma = torch.ones_like(alpha) if self.weight is None else self.weight.detach().double().abs()
        radius = s.kappa(len(alpha), positions) * float((gamma / alpha).max())
        return radius * math.sqrt(positions) if s.scope == "position" else radius

    def extra_repr(self) -> str:
        s = self.settings
        shown = [str(self.num_features)]
        shown += [f"{name}={getattr(self, name)!r}" for name in ("eps", "momentum", "affine", "track_running_stats")]
        shown += [f"{name}={getattr(s, name)!r}" for name in ("interpolation", "scope", "target", "alpha_range")]
        shown += [f"norm_eps={s.norm_eps!r}"] if s.norm_eps != s.eps else []
        usual = {"shrink_only": False, "variance": "biased", "activation": None}
        shown += [f"{name}={getattr(s, name)!r}" for name, value in usual.items() if getattr(s, name) != value]
        shown += ["bias=False"] if self.affine and self.bias is None else []
        shown += ["debias=True"] if self.debias else []
        shown += [f"process_group={self.process_group!r}"] if self.process_group is not None else []
        return ", ".join(shown)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        """A checkpoint of `nn.BatchNorm` lacks α alone: it takes its initial value, so that nothing is missing."""
        own = [name for name, t in (*self._parameters.items(), *self._buffers.items()) if t is not None]
        others = [prefix + name for name in own if name not in ("alpha", "num_batches_tracked")]
        # A batch norm without any tensor leaves only the mark that it was there.
        there = all(key in state_dict for key in others) if others else "version" in local_metadata
        if there and prefix + "alpha" not in state_dict:
            # An α without storage or shape as yet takes those of the rest of the checkpoint.
            hollow = is_lazy(self.alpha) or self.alpha.is_meta
            like = state_dict[others[0]] if hollow and others else self.alpha
            initial = torch.full_like(like, self.alpha_init, requires_grad=False)
            state_dict = {**state_dict, prefix + "alpha": initial}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class UnitizedBatchNorm1d(UnitizedBatchNorm):
    """Batch normalization with unitized outputs, for (N, C) or (N, C, L) input. See `UnitizedBatchNorm2d`."""

    _ranks = (2, 3)


class UnitizedBatchNorm2d(UnitizedBatchNorm):
    """Batch normalization that rescales each sample's normalized output towards norm κ, for (N, C, H, W) input.

        u = (x - mean) / √(var + eps),   n = |u| / κ,   ν = √(n² + norm_eps),   y = γ k(ν, α) u + β

    with k = 1 / (α ν + 1 - α) (harmonic), α / ν + 1 - α (arithmetic) or ν^(-α) (geometric), γ, β and α per channel. At
    α = 0 it is `nn.BatchNorm2d` exactly; at α = 1 every sample leaves with norm κ (before γ and β). With the harmonic
    form and α > 0, |y - β| <= κ max |γ| / α for every input and every error of the statistics, see `bound`.

    As in `nn.BatchNorm2d`, training normalizes by the batch's mean and biased variance and updates the running
    statistics by ``new = (1 - momentum) old + momentum batch``, the variance with count / (count - 1); in place of
    `momentum`, the t-th batch has the weight 1 / t with `momentum=None` (the plain average of all batches), and with
    `debias` the weight ``momentum / (1 - (1 - momentum)^t)`` (an average in which the initial values have no part).
    `track_running_stats=False` uses the batch in evaluation too. Unlike there, a forward pass that activation
    checkpointing repeats does not move the running statistics a second time.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics, or None for 1 / t.
        affine: learn γ and β. α is a parameter either way.
        track_running_stats: keep running statistics and use them in evaluation.
        interpolation: "harmonic", "arithmetic" or "geometric".
        scope: what one norm is taken over: "sample" (all channels and positions of a sample), "position" (the channels
            of one pixel), or "batch" (a control that treats no sample apart: n² is the mean of the samples' own in
            training, and in evaluation ``L / κ² Σ_c var / (var + eps)`` from the running variance).
        target: κ: "rms" keeps the root mean square of the output (√(C·L), or √C in scope "position"), "paper" is
            the authors' L = H·W (1 in scope "position" and for dense input), or a number.
        alpha_init: initial α of every channel.
        alpha_range: interval that α is kept in, or None. The forward pass clamps; the gradient loses only what points
            outward at an end under descent, so an α that starts at an end can leave it; an optimizer with
            `maximize=True` would lose what points inward: minimize the negative instead. With `process_group` the
            gradient of all processes together decides what points outward, else each process (and each accumulated
            batch) its own. The harmonic form needs the range within [0, 1].
        norm_eps: added to n²; None means `eps`.
        activation: None or "relu", fused with the normalization; nothing more is saved for it.
        process_group: whose batches share their statistics in training: None for this process alone, "world" for all,
            or a torch.distributed process group. See `icsbound.norm.synchronized`.
        shrink_only: replace ν by max(ν, 1): samples with a small norm are left alone, and with one α in [0, 1] for
            all channels the map u → (y - β) / γ is 1-Lipschitz.
        variance: "biased", or "published" for the authors' factor count / (count - 1 - eps).
        debias: zero-debias the running statistics, as the Keras of the authors' code does; see above.
        bias: learn β, if `affine`.

    Shapes: (N, C, H, W) → the same, dtype and memory format kept. Statistics are taken in float32 for half-precision
    input, in float64 for double.

    Raises:
        InputError: wrong rank or channels, one value per channel in training, integer or complex input, another device,
            a setting out of range.

    Source: Huang and Yu, CVPR 2020 (arXiv 2001.02814) for unitization and the arithmetic form; the harmonic form,
    scopes and targets are this library's.
    """

    _ranks = (4,)


class UnitizedBatchNorm3d(UnitizedBatchNorm):
    """Batch normalization with unitized outputs, for (N, C, D, H, W) input. See `UnitizedBatchNorm2d`."""

    _ranks = (5,)
