"""All studies by name: each puts a claim of the theory to the test by a simulation or training that could refute it.

Its page, which judges the claim, has the claim in words.
"""

from __future__ import annotations

from icsbound.study import alpha, dimension, information, moments, noise, reduction, shift, unitization
from icsbound.study.setting import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("dimension", dimension.points, 5),
        Study("noise", noise.points, 5),
        Study("reduction", reduction.points, 5, ("bn",)),
        Study("moments", moments.points, 3, ("bn",)),
        Study("unitization", unitization.points, 5),
        Study("alpha", alpha.points, 3, ("unitized",)),
        Study("information", information.points, 3, ("bn",)),
        Study("shift", shift.points, 3, shift.ARMS, any_arm=True),
    )
}
