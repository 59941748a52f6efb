"""The page of studies in a real Chromium: quiet, drawn, sortable, and as wide as its window."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import made
import pytest
from test_page import COLOURS, WIDTHS, Watched, brightness

from icsbound import report
from icsbound.report.studies.panels import CLAIMS, PANELS
from icsbound.study.run import StudyConfig, run

pytestmark = pytest.mark.page
# Texts in figures that Vega shortened, or that lie outside of their figure.
CUT = """[...document.querySelectorAll('.chart svg text')].filter(text => {
  const [own, place] = [text.getBoundingClientRect(), text.closest('svg').getBoundingClientRect()];
  return text.textContent.includes('…') || own.width > 0 && (own.right > place.right + 1 || own.top < place.top - 1);
}).map(text => text.textContent)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A study that ran, every panel there is, and an interrupted study."""
    root = tmp_path_factory.mktemp("studies")
    run(StudyConfig(studies=("dimension", "unitization"), seeds=(0, 1, 2)), root / "ran")
    lines = []
    for study in CLAIMS:
        curves = []
        for panel in PANELS:
            if panel.study == study:
                names = [f"{part} · {arm}" for part in ("contrast:4", "prune:0.8") for arm in ("bn", "unitized")]
                names = names if panel.split else ["first", "second, with a longer name"]
                for k, name in enumerate(names, 1):
                    predicted = (lambda x, k=k: k * x) if study in ("noise", "dimension") else None
                    relation = "" if predicted is None else "at most"
                    curves.append(
                        made.curve(study, panel.name, name, (1.0, 2.0, 5.0), lambda x, k=k: k * x, predicted, relation)
                    )
        lines.append(made.whole(study, *curves))
    made.save(root / "all", *lines)
    made.save(
        root / "interrupted", made.whole("noise", made.curve("noise", "lag", "a", [1, 2], lambda x: x), finished=1)
    )
    return {folder.name: report.build(folder) for folder in root.iterdir()}


@pytest.mark.parametrize("name", ["ran", "all", "interrupted"])
def test_a_page_of_studies_is_quiet_and_drawn(browser: Any, pages: dict[str, Path], name: str) -> None:
    with Watched(browser, pages[name], viewport={"width": 1280, "height": 900}) as seen:
        charts = seen.page.locator(".chart")
        assert charts.count() == {"ran": 9, "all": len(PANELS), "interrupted": 1}[name]
        for k in range(charts.count()):
            box = charts.nth(k).locator("svg").bounding_box()
            assert box["width"] > 200
            assert box["height"] > 60
            assert charts.nth(k).locator("svg .mark-symbol.role-mark path").count() > 1
        seen.shot(f"study-{name}")
        seen.assert_quiet()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["ran", "all"])
def test_no_study_sticks_out_at_any_width(browser: Any, pages: dict[str, Path], name: str, width: str) -> None:
    with Watched(browser, pages[name], viewport={"width": WIDTHS[width], "height": 800}) as seen:
        seen.shot(f"study-{name}-{width}")
        seen.assert_within(WIDTHS[width])
        cut = seen.page.evaluate(CUT)
        assert cut == []
        seen.assert_quiet()


def test_points_sort_and_are_saved_as_csv(browser: Any, pages: dict[str, Path]) -> None:
    with Watched(browser, pages["ran"]) as seen:
        seen.page.locator("details.table summary").first.click()
        heading = seen.page.locator("#table-points-dimension thead th").nth(3)
        assert heading.inner_text().strip() == "measured"
        heading.locator("button").click()
        shown = seen.page.locator("#table-points-dimension tbody tr td:nth-child(4)").all_inner_texts()
        assert len(shown) == 41
        assert [float(text) for text in shown] == sorted(float(text) for text in shown)
        with seen.page.expect_download() as download:
            seen.page.click("[data-csv=points-dimension]")
        rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
        assert rows[0][:4] == ["figure", "curve", "x", "measured"]
        assert len(rows) == 42
        seen.assert_quiet()


def test_pointing_at_a_point_tells_what_was_predicted(browser: Any, pages: dict[str, Path]) -> None:
    with Watched(browser, pages["ran"], viewport={"width": 1280, "height": 900}) as seen:
        seen.page.locator("[data-figure=dimension-scale-free] svg .mark-symbol.role-mark path").last.hover()
        tooltip = seen.page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert "predicted" in tooltip.inner_text()
        assert "measured" in tooltip.inner_text()
        seen.assert_quiet()


def test_the_theme_of_studies_can_be_switched(browser: Any, pages: dict[str, Path]) -> None:
    with Watched(browser, pages["ran"], color_scheme="light") as seen:
        seen.page.click("#theme")
        assert [brightness(colour) < 128 for colour in seen.page.evaluate(COLOURS)] == [True, False]
        seen.shot("study-ran-dark")
        seen.assert_quiet()


def test_verdicts_are_read_without_scripts(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["interrupted"].as_uri())
    assert "noise was interrupted: of 5 seeds, 4 not finished" in page.inner_text("#findings")
    context.close()
