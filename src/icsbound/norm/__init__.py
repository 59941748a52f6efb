"""The layer: batch normalization whose outputs are unitized. This wing never imports the measuring one."""

from icsbound.norm.functional import unitized_batch_norm
from icsbound.norm.modules import UnitizedBatchNorm1d, UnitizedBatchNorm2d, UnitizedBatchNorm3d

__all__ = ["UnitizedBatchNorm1d", "UnitizedBatchNorm2d", "UnitizedBatchNorm3d", "unitized_batch_norm"]
