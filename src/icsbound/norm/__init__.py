"""The layer: batch normalization whose outputs are unitized. This wing never imports the measuring one."""

from icsbound.norm.convert import Survey, convert, revert, survey
from icsbound.norm.fold import fold
from icsbound.norm.functional import unitized_batch_norm
from icsbound.norm.modules import UnitizedBatchNorm, UnitizedBatchNorm1d, UnitizedBatchNorm2d, UnitizedBatchNorm3d
from icsbound.norm.operators import decompositions
from icsbound.norm.upkeep import mixed_statistics, parameter_groups, refresh_statistics
from icsbound.norm.variants import (
    LazyUnitizedBatchNorm1d,
    LazyUnitizedBatchNorm2d,
    LazyUnitizedBatchNorm3d,
    UnitizedBatchNormAct2d,
    UnitizedFrozenBatchNorm2d,
    UnitizedFrozenBatchNormAct2d,
    UnitizedSyncBatchNorm,
)

__all__ = [
    "LazyUnitizedBatchNorm1d",
    "LazyUnitizedBatchNorm2d",
    "LazyUnitizedBatchNorm3d",
    "Survey",
    "UnitizedBatchNorm",
    "UnitizedBatchNorm1d",
    "UnitizedBatchNorm2d",
    "UnitizedBatchNorm3d",
    "UnitizedBatchNormAct2d",
    "UnitizedFrozenBatchNorm2d",
    "UnitizedFrozenBatchNormAct2d",
    "UnitizedSyncBatchNorm",
    "convert",
    "decompositions",
    "fold",
    "mixed_statistics",
    "parameter_groups",
    "refresh_statistics",
    "revert",
    "survey",
    "unitized_batch_norm",
]
