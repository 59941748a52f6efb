"""Measure and bound the internal covariate shift (ICS) of deep networks, and unitize their layers."""

from icsbound._check import InputError
from icsbound._version import __version__
from icsbound.measure import bounds
from icsbound.measure.capture import capture
from icsbound.measure.emd import EMDResult, emd
from icsbound.measure.monitor import ICSMonitor
from icsbound.norm import (
    UnitizedBatchNorm1d,
    UnitizedBatchNorm2d,
    UnitizedBatchNorm3d,
    convert,
    fold,
    revert,
    unitized_batch_norm,
)

__all__ = [
    "EMDResult",
    "ICSMonitor",
    "InputError",
    "UnitizedBatchNorm1d",
    "UnitizedBatchNorm2d",
    "UnitizedBatchNorm3d",
    "__version__",
    "bounds",
    "capture",
    "convert",
    "emd",
    "fold",
    "revert",
    "unitized_batch_norm",
]
