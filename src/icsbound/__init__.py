"""Measure and bound the internal covariate shift (ICS) of deep networks, and unitize their layers."""

from icsbound._version import __version__

__all__ = ["__version__"]
