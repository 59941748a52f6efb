"""The wording of every refusal: it names the argument, the value or shape, and what would be right."""

import numpy as np
import pytest
import torch

from icsbound._check import InputError
from icsbound.norm import UnitizedBatchNorm1d, UnitizedBatchNorm2d, UnitizedBatchNorm3d, unitized_batch_norm


def call(layer, *shape, dtype=torch.float32, device="cpu"):
    return lambda: layer(torch.ones(shape, dtype=dtype, device=device))


def build(**settings):
    return lambda: UnitizedBatchNorm2d(3, **settings)


def function(**changed):
    tensors = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), "weight": None, "bias": None}
    tensors["alpha"] = torch.zeros(3)
    return lambda: unitized_batch_norm(torch.ones(4, 3), **{**tensors, **changed})


TOO_FEW = (
    "x must hold more than one value per channel in training, got shape {}: a single value has no variance; "
    "use a larger batch, or drop the incomplete last one"
)
GROUP = (
    "process_group must be None, 'world' (all processes) or a torch.distributed process group that this process "
    "belongs to, got {}"
)
REFUSALS = {
    # Input of the wrong kind.
    "a list": (
        lambda: UnitizedBatchNorm1d(3)([[1.0, 2.0, 3.0]]),
        "x must be a torch tensor, got a list; torch.as_tensor(x) makes one of numbers",
    ),
    "an array": (
        lambda: UnitizedBatchNorm1d(3)(np.ones((4, 3), dtype=np.float32)),
        "x must be a torch tensor, got a numpy.ndarray; torch.as_tensor(x) makes one of numbers",
    ),
    "an array for the function": (
        lambda: unitized_batch_norm(np.ones((4, 3)), None, None, None, None, torch.zeros(3), training=True),
        "x must be a torch tensor, got a numpy.ndarray; torch.as_tensor(x) makes one of numbers",
    ),
    "rank of 2d": (
        call(UnitizedBatchNorm2d(3), 4, 3, 5),
        "x must be 4-dimensional for UnitizedBatchNorm2d, got shape (4, 3, 5)",
    ),
    "rank of 1d": (
        call(UnitizedBatchNorm1d(3), 4, 3, 5, 6),
        "x must be 2-dimensional or 3-dimensional for UnitizedBatchNorm1d, got shape (4, 3, 5, 6)",
    ),
    "rank of 3d": (call(UnitizedBatchNorm3d(3), 3), "x must be 5-dimensional for UnitizedBatchNorm3d, got shape (3,)"),
    "channels": (
        call(UnitizedBatchNorm2d(3), 4, 5, 2, 2),
        "x must have shape (N, 3, ...) for 3 channels, got (4, 5, 2, 2)",
    ),
    "one value": (call(UnitizedBatchNorm2d(3), 1, 3, 1, 1), TOO_FEW.format("(1, 3, 1, 1)")),
    "one value, nothing tracked": (
        call(UnitizedBatchNorm1d(3, track_running_stats=False).eval(), 1, 3),
        TOO_FEW.format("(1, 3)"),
    ),
    "integers": (
        call(UnitizedBatchNorm1d(3), 4, 3, dtype=torch.int64),
        "x must be float64, float32, bfloat16 or float16, got a tensor of shape (4, 3) and dtype int64",
    ),
    "complex": (
        call(UnitizedBatchNorm1d(3), 4, 3, dtype=torch.complex64),
        "x must be float64, float32, bfloat16 or float16, got a tensor of shape (4, 3) and dtype complex64",
    ),
    "device": (
        call(UnitizedBatchNorm1d(3), 4, 3, device="meta"),
        "x and alpha must be on one device, got x of shape (4, 3) on meta and alpha on cpu; move one with .to()",
    ),
    "positions": (lambda: UnitizedBatchNorm2d(3).bound(0), "positions must be an integer of at least 1, got 0"),
    # The function's tensors.
    "alpha's shape": (
        function(alpha=torch.tensor(0.5)),
        "alpha must have shape (C,), one value per channel, got ()",
    ),
    "weight's shape": (
        function(weight=torch.ones(4)),
        "weight must have shape (3,) for 3 channels, got (4,)",
    ),
    "running_var's shape": (
        function(running_var=torch.ones(2)),
        "running_var must have shape (3,) for 3 channels, got (2,)",
    ),
    "half of the statistics": (
        function(running_var=None),
        "running_mean and running_var must be given together, got only one of them",
    ),
    "the function's momentum": (
        function(training=True, momentum=None),
        "momentum must be a finite number, got None",
    ),
    "the function's settings": (
        function(scope="image"),
        "scope must be one of 'sample', 'position', 'batch', got 'image'",
    ),
    "the function's group": (function(process_group=3), GROUP.format(3)),
    # Settings.
    "num_features": (lambda: UnitizedBatchNorm2d(0), "num_features must be an integer of at least 1, got 0"),
    "interpolation": (
        build(interpolation="harmonics"),
        "interpolation must be one of 'harmonic', 'arithmetic', 'geometric', got 'harmonics' "
        "(did you mean 'harmonic'?)",
    ),
    "target": (build(target="mean"), "target must be one of 'rms', 'paper', got 'mean'"),
    "target's sign": (build(target=-1.0), "target must be 'rms', 'paper' or a number above 0, got -1.0"),
    "variance": (
        build(variance="unbiased"),
        "variance must be one of 'biased', 'published', got 'unbiased' (did you mean 'biased'?)",
    ),
    "activation": (build(activation="gelu"), "activation must be one of 'relu', got 'gelu' (did you mean 'relu'?)"),
    "eps": (build(eps=-1e-5), "eps must lie in [0, inf], got -1e-05"),
    "norm_eps": (
        build(eps=0.0),
        "norm_eps must be above 0 (a sample of zeros has no direction; it defaults to eps), got 0.0",
    ),
    "momentum": (build(momentum=1.5), "momentum must lie in [0, 1], got 1.5"),
    "alpha_init": (build(alpha_init=1.5), "alpha_init must lie in alpha_range = [0, 1], got 1.5"),
    "alpha_init, not finite": (build(alpha_init=float("nan")), "alpha_init must be a finite number, got nan"),
    "alpha_range's kind": (build(alpha_range=0.5), "alpha_range must be a pair (low, high) or None, got 0.5"),
    "alpha_range's order": (
        build(alpha_range=(1.0, 0.0)),
        "alpha_range must be a pair (low, high) with low <= high, got (1.0, 0.0)",
    ),
    "alpha_range's pole": (
        build(alpha_range=(0.0, 2.0)),
        "alpha_range must lie in [0, 1] for the harmonic form, which has a pole outside, got (0.0, 2.0)",
    ),
    "process_group": (build(process_group="all"), GROUP.format("'all'")),
    "process_group, not initialised": (
        call(UnitizedBatchNorm1d(3, process_group="world"), 4, 3),
        "process_group must be None until torch.distributed is initialised in this process, got 'world'; "
        "call torch.distributed.init_process_group first",
    ),
    "eps, later": (
        lambda: setattr(UnitizedBatchNorm2d(3), "eps", "small"),
        "eps must be a finite number, got 'small'",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(case):
    act, message = REFUSALS[case]
    with pytest.raises(InputError) as error:
        act()
    assert str(error.value) == message


def test_a_refused_batch_changes_nothing():
    layer = UnitizedBatchNorm2d(3)
    for shape in ((1, 3, 1, 1), (4, 5, 2, 2), (4, 3)):
        with pytest.raises(InputError):
            layer(torch.ones(shape))
    layer.process_group = "world"  # which torch.distributed knows nothing of
    with pytest.raises(InputError):
        layer(torch.ones(4, 3, 2, 2))
    assert layer.num_batches_tracked == 0
    assert layer.running_var.tolist() == [1.0] * 3


def test_evaluation_needs_neither_a_second_value_nor_a_process_group():
    layer = UnitizedBatchNorm1d(3, process_group="world").eval()
    assert layer(torch.ones(1, 3)).shape == (1, 3)
