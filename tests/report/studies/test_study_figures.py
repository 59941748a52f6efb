"""Figures of studies: what stands below them, and curves with and without a part."""

import made

from icsbound.report.studies import figures
from icsbound.report.studies.panels import PANELS


def test_every_figure_says_under_which_setting_it_was_measured() -> None:
    assert [panel.name for panel in PANELS if not panel.setting.startswith("Law ") or "ε" not in panel.setting] == []
    unitized = [panel for panel in PANELS if panel.study in ("unitization", "alpha", "information", "shift")]
    assert [panel.name for panel in unitized if "scope" not in panel.setting or "κ" not in panel.setting] == []
    (figure,) = figures.all_figures(
        made.studies(made.whole("noise", made.curve("noise", "two layers", "train law", (4, 16), lambda m: 9.0)))
    )
    assert figure.basis == (
        "n = 100, d = 8; exact; 5 seeds, Student's t. Law frozen, eval or train, as named; batch norm, ε negligible."
    )


def test_a_curve_of_an_older_study_may_have_no_part() -> None:
    for name, part, curve in (("geometric · α = 1", "geometric", "α = 1"), ("α = 1", "α = 1", "α = 1")):
        points = made.curve("unitization", "common scale", name, (1.0, 2.0), lambda rho: rho)
        (figure,) = figures.all_figures(made.studies(made.whole("unitization", points)))
        assert set(figure.data["part"]) == {part}
        assert set(figure.data["curve"]) == {curve}
