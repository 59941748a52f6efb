"""The largest page in a real Chromium: however much was recorded, what is drawn is bounded, so it opens quickly.

No time is asserted, which would be another on every machine: `docs/performance.md` has one that was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import recorded
from playwright import sync_api
from test_html import large
from test_page import Watched

from icsbound import report

pytestmark = pytest.mark.page
MARKS = "document.querySelectorAll('.chart svg path, .chart svg line, .chart svg rect').length"


def test_a_page_of_200_layers_draws_a_bounded_number_of_marks(browser: Any, tmp_path: Path) -> None:
    large(tmp_path, 100)
    path = report.build(tmp_path)
    with Watched(browser, path, viewport={"width": 1280, "height": 900}) as seen:
        assert 8_000 < seen.page.evaluate(MARKS) < 30_000
        assert seen.page.evaluate("document.querySelectorAll('td').length") < 30_000
        seen.shot("large")
        seen.assert_quiet()


def test_a_browser_that_cannot_unpack_the_figures_says_so(browser: Any, tmp_path: Path) -> None:
    recorded.save(tmp_path, recorded.of_run("bn", 0, steps=(0, 1)))
    context = browser.new_context()
    context.add_init_script("delete window.DecompressionStream")
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.build(tmp_path).as_uri())
    sync_api.expect(page.locator(".chart").last).to_have_text("This browser cannot draw it: see figures/.")
    assert "bn reaches" in page.inner_text("#findings")
    assert said == []
    context.close()
