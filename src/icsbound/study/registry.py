"""All studies by name: the claims of the theory, each with the simulation or training that could refute it."""

from __future__ import annotations

from icsbound.study import alpha, dimension, information, moments, noise, reduction, shift, unitization
from icsbound.study.setting import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("dimension", "batch norm's bound grows like the root of the dimension", dimension.points, 5),
        Study("noise", "errors of the statistics make shift of their own", noise.points, 5),
        Study("reduction", "batch norm bounds the shift and need not reduce it", reduction.points, 3, trains=True),
        Study("moments", "means and variances do not see all of the shift", moments.points, 3, trains=True),
        Study("unitization", "unitization bounds the shift whatever the statistics", unitization.points, 5),
        Study("alpha", "alpha is trained, and training it matters", alpha.points, 3, trains=True),
        Study("information", "normalizing first saves what unitizing loses", information.points, 3, trains=True),
        Study("shift", "the distance by layer says what a shift costs", shift.points, 3, trains=True),
    )
}
