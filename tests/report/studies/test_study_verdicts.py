"""Verdicts where nothing, or hardly anything, was measured."""

import made
import pytest
from made import verdict

from icsbound.report.studies.panels import CLAIMS, PANELS


@pytest.mark.parametrize("name", list(CLAIMS))
def test_nothing_measured_is_not_resolved(name: str) -> None:
    assert verdict(name) == ("not resolved", "There is nothing to judge yet.")


@pytest.mark.parametrize("name", list(CLAIMS))
def test_a_single_point_breaks_no_verdict(name: str) -> None:
    for panel in PANELS:
        if panel.study == name:
            curve = made.curve(name, panel.name, "shift · bn" if panel.split else "curve", [1.0], lambda x: 1.0)
            word, text = verdict(name, curve)
            assert word in ("holds", "fails", "not resolved")
            assert "nan" not in text
