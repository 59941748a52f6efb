"""Which arm another is judged by."""

from __future__ import annotations

from collections.abc import Iterable

# The first of these that was run; `published-batch` has the gain of alpha that `published` has, and no unitization.
CONTROLS = {"published": ("published-batch", "bn")}


def control(arm: str, present: Iterable[str]) -> str | None:
    """The arm of `present` that `arm` is judged by; None for a control itself and where its control was not run."""
    choices = CONTROLS.get(arm.partition(":")[0], ("bn",))  # "published:eps=0.1" has the control of "published"
    present = set(present)
    return next((choice for choice in choices if choice in present and choice != arm), None)
