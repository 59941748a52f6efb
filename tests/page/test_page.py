"""The page in a real Chromium, opened from its file: quiet, offline, legible at every width, and its buttons work.

Screenshots of what was seen go to the folder that ICSBOUND_SCREENSHOTS names, by default `runs/screenshots`.
"""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lines
import numpy as np
import pytest
import recorded
from playwright import sync_api
from test_pictures import transports

from icsbound import report, results
from icsbound.records import DistanceRecord, LayerRecord

pytestmark = pytest.mark.page
SHOTS = Path(os.environ.get("ICSBOUND_SCREENSHOTS", Path(__file__).parents[2] / "runs" / "screenshots"))
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
# Of the page and of the text in its figures.
COLOURS = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg text')).fill]"
WIDTHS = {"desktop": 1280, "tablet": 800, "phone": 360}


class Watched:
    """An open page, and everything it said, asked for or failed at since it was opened."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.messages.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn=yes]", timeout=120_000)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def assert_quiet(self) -> None:
        """Nothing on the console, no error, no dialog, and no request but for the file itself."""
        assert self.messages == []
        outside = [url for url in self.requests if not url.startswith(("blob:", "data:"))]
        assert len(outside) == 1, outside
        assert outside[0].startswith("file://")

    def assert_within(self, width: int) -> None:
        """The page is no wider than its window, and no chart than its place."""
        assert self.page.evaluate("document.documentElement.scrollWidth") <= width
        wide = self.page.evaluate(
            "[...document.querySelectorAll('.chart')].filter(c => c.querySelector('svg').getBoundingClientRect().width"
            " > c.clientWidth + 1).map(c => c.dataset.figure)"
        )
        assert wide == []

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True, timeout=120_000)


ARMS = ("bn", "published", "unitized", "unitized-1")


def compare(folder: Path) -> None:
    recorded.comparison(folder, arms=ARMS, noise=0.1)
    for arm in ARMS:  # the first seed's layer is drawn as well
        path = folder / f"{arm}-seed0" / "records.jsonl"
        path.unlink()
        *begun, end = recorded.of_run(arm, 0, noise=0.1)
        recorded.save(path.parent, [*begun, *transports(f"{arm}-seed0", recorded.STEPS, n=160), end])
    g = np.random.default_rng(0)
    for arm, low, high in (("published", -1.5, 1.8), ("unitized", 0.2, 0.9), ("unitized-1", 1.0, 1.0)):
        alpha = {
            name: g.uniform(low, high, size).tolist() for name, size in zip(recorded.LAYERS, (8, 16, 400), strict=True)
        }
        recorded.keep(folder / f"{arm}-seed0", alpha)


def interrupted(folder: Path) -> None:
    recorded.comparison(folder, arms=ARMS[:2])
    path = folder / "bn-seed1" / "records.jsonl"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def train(folder: Path) -> None:
    recorded.save(folder, recorded.of_run("unitized", 0))


def measure(folder: Path) -> None:
    """As `icsbound measure` leaves it: every distance with what it says, and the verdicts at the end."""
    measured = (DistanceRecord, LayerRecord)
    taken = [line for line in recorded.of_run("bn", 0, noise=0.2) if isinstance(line, measured)]
    verdicts = ("moved", "below the floor", "moved", "not resolved", "moved")
    recorded.save(folder, [*recorded.judged(taken, verdicts), *transports("bn-seed0", recorded.STEPS)])


def hostile(folder: Path) -> None:
    for k, arm in enumerate(("bn", HOSTILE)):
        recorded.save(folder / str(k), recorded.of_run(arm, 0, layers=(HOSTILE, "plain"), steps=(0, 1, 4)))


def many_layers(folder: Path) -> None:
    many = [f"backbone.stage{i // 20}.block{i % 20}.norm" for i in range(200)]
    recorded.comparison(folder, seeds=(0, 1), layers=many, views=("pooled",), steps=(0, 1, 4, 9))


def swept(folder: Path) -> None:
    found = [*lines.shifted(arms=ARMS), *lines.changed(arms=ARMS, setting=HOSTILE)]
    found += [one for size in (4, 32) for one in lines.table(arms=ARMS, setting="batches", batch_size=size)]
    for one in found:
        results.append(folder / "results.jsonl", one)


KINDS = {
    "compare": compare,
    "interrupted": interrupted,
    "train": train,
    "measure": measure,
    "hostile": hostile,
    "many-layers": many_layers,
    "results": swept,
}


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of a kind, built when the first test asks for it."""
    root = tmp_path_factory.mktemp("pages")

    @functools.cache
    def built(name: str) -> Path:
        (root / name).mkdir()
        KINDS[name](root / name)
        return report.build(root / name)

    return built


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_page_is_quiet_and_drawn(browser: Any, page_of: Callable[[str], Path], name: str) -> None:
    with Watched(browser, page_of(name), viewport={"width": 1280, "height": 900}) as seen:
        charts = seen.page.locator(".chart")
        assert charts.count() >= 3
        for k in range(charts.count()):
            box = charts.nth(k).locator("svg").bounding_box()
            assert box["width"] > 200
            assert box["height"] > 60
            assert charts.nth(k).locator("svg path").count() > 3
        seen.shot(name)
        seen.assert_quiet()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["compare", "measure", "many-layers", "hostile", "results"])
def test_nothing_sticks_out_at_any_width(browser: Any, page_of: Callable[[str], Path], name: str, width: str) -> None:
    with Watched(browser, page_of(name), viewport={"width": WIDTHS[width], "height": 800}) as seen:
        seen.shot(f"{name}-{width}")
        seen.assert_within(WIDTHS[width])
        seen.assert_quiet()


def test_it_draws_again_when_the_window_changes(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("compare"), viewport={"width": 1280, "height": 900}) as seen:
        chart = seen.page.locator("[data-figure=accuracy-differences] svg")
        before = chart.get_attribute("width")
        seen.page.set_viewport_size({"width": 500, "height": 900})
        sync_api.expect(chart).not_to_have_attribute("width", before)
        assert chart.bounding_box()["width"] < 500
        seen.assert_quiet()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_and_the_button(browser: Any, page_of: Callable[[str], Path], scheme: str) -> None:
    with Watched(browser, page_of("compare"), color_scheme=scheme) as seen:
        before = seen.page.evaluate(COLOURS)
        dark = [brightness(colour) < 128 for colour in before]
        assert dark == (
            [True, False] if scheme == "dark" else [False, True]
        )  # text in figures stands out from the page
        seen.shot(f"compare-{scheme}")
        seen.page.click("#theme")
        assert [brightness(colour) < 128 for colour in seen.page.evaluate(COLOURS)] == [not value for value in dark]
        seen.page.click("#theme")
        assert seen.page.evaluate(COLOURS) == before
        seen.assert_quiet()


def brightness(colour: str) -> float:
    parts = [float(part) for part in colour[colour.index("(") + 1 : colour.index(")")].split(",")[:3]]
    return sum(parts) / 3


def column(seen: Watched, table: str, index: int) -> list[str]:
    texts: list[str] = seen.page.locator(f"#table-{table} tbody tr td:nth-child({index})").all_inner_texts()
    return texts


def test_tables_sort_by_number_and_by_text(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("compare")) as seen:
        heading = seen.page.locator("#table-shift thead th").nth(4)
        assert heading.inner_text().strip() == "ratio"
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        shown = column(seen, "shift", 5)
        numbers = [float(text) for text in shown if text != "–"]
        assert numbers == sorted(numbers)
        assert len(set(numbers)) > 2
        assert shown[len(numbers) :] == ["–"] * (len(shown) - len(numbers))
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "descending"
        assert [float(text) for text in column(seen, "shift", 5) if text != "–"] == sorted(numbers, reverse=True)
        seen.page.locator("#table-shift thead th").nth(0).locator("button").click()
        assert column(seen, "shift", 1) == sorted(column(seen, "shift", 1))
        assert heading.get_attribute("aria-sort") is None
        seen.assert_quiet()


def test_tables_are_saved_as_csv(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("hostile")) as seen:
        seen.page.locator("details.table summary").last.click()
        with seen.page.expect_download() as download:
            seen.page.click("[data-csv=layers]")
        assert download.value.suggested_filename == "layers.csv"
        rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
        assert rows[0][:3] == ["arm", "layer", "d, pooled"]
        assert [row[:2] for row in rows[1:]] == [[a, b] for a in ("bn", HOSTILE) for b in (HOSTILE, "plain")]
        assert all(float(row[3]) > 0 for row in rows[1:])
        assert rows[1][-1] == "Infinity"
        seen.assert_quiet()


def test_contrasts_sort_and_are_saved(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("results")) as seen:
        heading = seen.page.locator("#table-contrasts thead th").nth(7)
        assert heading.inner_text().strip() == "difference"
        heading.locator("button").click()
        shown = [float(text.replace("−", "-")) for text in column(seen, "contrasts", 8)]
        assert shown == sorted(shown)
        assert len(shown) > 20
        with seen.page.expect_download() as download:
            seen.page.click("[data-csv=contrasts]")
        rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
        assert [float(row[7]) for row in rows[1:]] == shown  # as it is sorted
        seen.assert_quiet()


def test_verdicts_are_shown_sort_and_are_saved(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("measure"), viewport={"width": 1280, "height": 900}) as seen:
        said = seen.page.locator("#findings li.moved")
        assert said.count() == 2  # a view each
        assert said.first.locator(".verdict").inner_text() == "moved"
        assert "pooled view: of 18 distances, " in said.first.inner_text()
        assert "Furthest moved " in said.first.inner_text()
        table = seen.page.locator("#table-verdicts")
        headings = [text.strip() for text in table.locator("thead th").all_inner_texts()]
        for name in ("in spreads", "least p"):
            heading, place = table.locator("thead th").nth(headings.index(name)), headings.index(name) + 1
            heading.locator("button").click()
            shown = column(seen, "verdicts", place)
            assert len(set(shown)) == len(shown) == 6
            assert shown == sorted(shown, key=float)
            heading.locator("button").click()
            assert column(seen, "verdicts", place) == shown[::-1]
        table.scroll_into_view_if_needed()
        SHOTS.mkdir(parents=True, exist_ok=True)
        seen.page.locator("details.table:has(#table-verdicts)").screenshot(path=SHOTS / "verdicts.png")
        with seen.page.expect_download() as download:
            seen.page.click("[data-csv=verdicts]")
        rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
        assert {row["layer"] for row in rows} == set(recorded.LAYERS)
        assert sum(int(row["moved"]) for row in rows) == 22  # of 36 in turn, of which three in five moved
        seen.assert_quiet()


def test_alpha_of_every_channel_is_drawn_named_and_saved_as_csv(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("compare"), viewport={"width": 1280, "height": 900}) as seen:
        figure = seen.page.locator("#figure-alpha-channels")
        labels = figure.locator("svg text").all_text_contents()
        assert {"published", "unitized", "unitized-1", *recorded.LAYERS} <= set(labels)
        marks = figure.locator("svg .mark-rect.role-mark path[aria-label*='channel 0']")
        assert marks.count() == 2 * 3
        marks.first.hover()
        seen.page.locator("#vg-tooltip-element.visible").wait_for()
        assert "stem.norm" in seen.page.locator("#vg-tooltip-element").inner_text()
        with seen.page.expect_download() as download:
            figure.locator("[data-save=csv]").click()
        assert download.value.suggested_filename == "alpha-channels.csv"
        rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
        assert len(rows) == 3 * (8 + 16 + 333)  # of 400 channels 333 quantiles
        assert {row["arm"] for row in rows} == {"published", "unitized", "unitized-1"}
        assert min(float(row["alpha"]) for row in rows) < -1
        assert "Of a layer with more than 333 channels, 333 quantiles." in figure.inner_text()
        figure.scroll_into_view_if_needed()
        SHOTS.mkdir(parents=True, exist_ok=True)
        figure.screenshot(path=SHOTS / "alpha-channels.png")
        seen.assert_quiet()


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_figures_are_saved_from_the_page(browser: Any, page_of: Callable[[str], Path], kind: str, start: bytes) -> None:
    with Watched(browser, page_of("compare"), color_scheme="dark") as seen:
        with seen.page.expect_download() as download:
            seen.page.click(f"#figure-shift-brackets [data-save={kind}]")
        content = Path(download.value.path()).read_bytes()
        assert content.startswith(start)
        assert b"var(--" not in content  # a saved figure stands alone, in the colours of paper
        seen.assert_quiet()


def test_menus_choose_what_is_drawn_and_keep_it(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("compare"), viewport={"width": 1280, "height": 900}) as seen:
        line = seen.page.locator("[data-figure=shift-brackets] svg .mark-line path").first
        menu = seen.page.locator("#figure-shift-brackets select").first
        before = line.get_attribute("stroke")
        menu.select_option("unitized")
        sync_api.expect(line).not_to_have_attribute("stroke", before)
        after = line.get_attribute("stroke")
        seen.page.evaluate("document.documentElement.dataset.drawn = 'no'")
        seen.page.set_viewport_size({"width": 700, "height": 900})
        seen.page.wait_for_selector("html[data-drawn=yes]")
        assert menu.input_value() == "unitized"
        assert line.get_attribute("stroke") == after
        seen.assert_quiet()


def test_pointing_at_a_mark_names_it(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("hostile"), viewport={"width": 1280, "height": 900}) as seen:
        seen.page.locator("[data-figure=shift-heat-map] svg .mark-rect path").first.hover()
        tooltip = seen.page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert "scale-free ICS" in tooltip.inner_text()
        assert HOSTILE in tooltip.inner_text()
        assert tooltip.locator("img, script").count() == 0
        seen.assert_quiet()


def test_print_is_on_white_whatever_the_theme(browser: Any, page_of: Callable[[str], Path]) -> None:
    with Watched(browser, page_of("compare"), color_scheme="dark") as seen:
        seen.page.click("#theme")
        seen.page.click("#theme")  # dark by choice as well as by system
        SHOTS.mkdir(parents=True, exist_ok=True)
        seen.page.pdf(path=SHOTS / "compare.pdf", format="A4")
        seen.page.emulate_media(media="print", color_scheme="dark")
        shown = seen.page.evaluate(COLOURS)
        assert [brightness(colour) > 128 for colour in shown] == [True, False]
        assert not seen.page.locator(".bar").is_visible()
        assert seen.page.locator(".terms dl").is_visible()  # unfolded for paper
        seen.assert_quiet()


def test_without_scripts_findings_and_tables_can_be_read(browser: Any, page_of: Callable[[str], Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_of("compare").as_uri())
    assert "The layers of unitized moved" in page.inner_text("#findings")
    assert page.locator("#table-results tbody tr").count() == 4
    context.close()
