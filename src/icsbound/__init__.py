"""Measure and bound the internal covariate shift (ICS) of deep networks, and unitize their layers."""

from icsbound._check import InputError
from icsbound._version import __version__
from icsbound.measure import bounds
from icsbound.measure.capture import capture
from icsbound.measure.emd import EMDResult, emd
from icsbound.measure.floor import Shift, Verdict, control, shift_report
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
    "Shift",
    "UnitizedBatchNorm1d",
    "UnitizedBatchNorm2d",
    "UnitizedBatchNorm3d",
    "Verdict",
    "__version__",
    "bounds",
    "capture",
    "control",
    "convert",
    "emd",
    "fold",
    "revert",
    "shift_report",
    "unitized_batch_norm",
]
