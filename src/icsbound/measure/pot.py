"""POT (Python Optimal Transport), an extra: imported where it is needed, and named where it is missing."""

from __future__ import annotations

from typing import Any

from icsbound._check import InputError


def pot(purpose: str) -> Any:
    """The module `ot`; InputError naming `purpose` and the extra where it is not installed."""
    try:
        import ot
    except ImportError:
        raise InputError(f"{purpose} needs POT, which is not installed: pip install 'icsbound[emd]'") from None
    return ot
