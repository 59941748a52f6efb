"""The pictures of a layer in a real Chromium: drawn at every width, and their menus choose what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import recorded
from playwright import sync_api
from test_page import WIDTHS, Watched
from test_pictures import transports

from icsbound import report

pytestmark = pytest.mark.page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    recorded.save(folder, transports("fog", (0, 1, 2, 3)) + transports("contrast", (0, 1)))
    return report.build(folder)


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_fit_every_width(browser: Any, page: Path, width: str) -> None:
    with Watched(browser, page, viewport={"width": WIDTHS[width], "height": 800}) as seen:
        assert seen.page.locator("[data-figure=picture-ridge] svg .mark-area path").count() >= 4
        assert seen.page.locator("[data-figure=picture-transport] svg .mark-rule line").count() >= 30
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
        seen.shot(f"pictures-{width}")
        seen.assert_quiet()


def test_a_menu_chooses_the_steps(browser: Any, page: Path) -> None:
    with Watched(browser, page, viewport={"width": 1280, "height": 900}) as seen:
        axis = seen.page.locator("[data-figure=picture-transport] svg .role-axis-label").first
        before = axis.text_content()
        menu = seen.page.locator("#figure-picture-transport select")
        assert menu.locator("option").count() == 4
        menu.select_option("fog: 2 to 3")  # the cloud has drifted to the right by then
        sync_api.expect(axis).not_to_have_text(before or "")
        seen.assert_quiet()
