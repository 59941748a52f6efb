"""The page as a file: whole, small, safe whatever names it is given, the same for the same records."""

from __future__ import annotations

import base64
import builtins
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import recorded
from test_pictures import transports

from icsbound import report
from icsbound._check import InputError
from icsbound.records import DistanceRecord, LayerRecord, RunRecord, to_line
from icsbound.report import plots, tables
from icsbound.report.figure import Figure
from icsbound.report.page import placed
from icsbound.report.studies.reading import FAILS, HOLDS, OPEN
from icsbound.report.verdicts import VERDICTS

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
SAID = (HOLDS, FAILS, OPEN)
FIGURES = {
    "accuracy-differences",
    "accuracy",
    "loss",
    "shift-heat-map",
    "shift-brackets",
    "shift-ratios",
    "em-tightness",
    "alpha",
    "alpha-channels",
}


class Page(HTMLParser):
    """What of a page matters here: its elements, its scripts, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(self.scripts[0])))
        return found

    @property
    def policy(self) -> str:
        return next(str(m["content"]) for m in self.all("meta") if m.get("http-equiv") == "Content-Security-Policy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = recorded.comparison(tmp_path_factory.mktemp("compare"), arms=("bn", "unitized", "unitized-1", "published"))
    recorded.keep(path / "unitized-seed0", {name: [0.4, 0.5, 0.6] for name in recorded.LAYERS})
    assert report.build(path) == path / "report.html"
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(folder / "report.html")


def test_the_page_asks_for_nothing(page: Page) -> None:
    assert len(page.html.encode()) < 2_000_000
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base")
        assert not {name for name in attributes if name.startswith("on")}, tag
        for name in ("src", "href", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert "@import" not in page.html
    assert "url(" not in page.html[: page.html.index("</style>")]


def test_only_its_two_scripts_may_run(page: Page) -> None:
    assert [script.get("type") for script in page.all("script")] == ["application/gzip", None, None]
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts[1:]]
    allowed = re.findall(r"'sha256-([^']+)'", page.policy)
    assert allowed == digests
    assert page.policy.startswith("default-src 'none'; ")
    assert "unsafe-inline" not in page.policy.split("script-src")[1].split(";")[0]
    assert "unsafe-eval" not in page.policy


def test_the_terms_hold_for_what_counts_as_a_shift(page: Page) -> None:
    """A measurement with `smallest` has other nulls than 0."""
    assert "exceeds 0, or the smallest shift that counts where one was named." in page.text


@pytest.mark.parametrize("word", [*VERDICTS, "higher", "lower", *SAID, "confirmed", "refuted", "waiting", "alert"])
def test_every_verdict_has_a_colour(word: str) -> None:
    look = resources.files("icsbound.report").joinpath("page.css").read_text(encoding="utf-8")
    assert re.search(rf"^[^{{]*\.{word.replace(' ', '-')} \.verdict\b[^:{{]*{{[^}}]*background", look, re.MULTILINE)


def test_findings_come_before_figures_and_tables(page: Page) -> None:
    places = [
        page.html.index(f'id="{name}"') for name in ("findings", "accuracy", "shift", "alpha", "tables", "reproduce")
    ]
    assert places == sorted(places)
    assert "The layers of unitized moved 0.50 times" in page.text
    assert "12 of 12" in page.text


def test_every_figure_says_how_to_read_it_and_is_saved(page: Page, folder: Path) -> None:
    assert set(page.data["drawn"]) == FIGURES
    charts = [d for d in page.all("div") if "data-figure" in d]
    assert {d["data-figure"] for d in charts} == FIGURES
    for chart in charts:
        assert chart["role"] == "img"
        assert len(str(chart["aria-label"])) > 40
    assert page.html.count('<p class="reading">') >= len(FIGURES)
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{n}.{e}" for n in FIGURES for e in ("svg", "png")
    }
    for name in FIGURES:
        root = ElementTree.parse(folder / "figures" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 3
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_figures_carry_n_d_and_estimator(page: Page) -> None:
    shown = [name for name in FIGURES if name.startswith(("shift-", "em-"))]
    assert len(shown) == 4
    for name in shown:
        figure = page.html[page.html.index(f'id="figure-{name}"') :]
        caption = figure[figure.index("<figcaption>") : figure.index("</figcaption>")]
        assert "n = 256, d = 16 to 1,024; exact assignment." in caption
        assert "3 seeds" in caption


def test_tables_carry_n_d_and_estimator(page: Page) -> None:
    for name in ("shift", "layers"):
        before = page.html[: page.html.index(f'data-csv="{name}"')]
        note = before[before.rindex('<p class="reading">') :]
        assert "n = 256, d = 16 to 1,024; exact assignment." in note
    assert "On the test split of 1,000 images. Differences to the control" in page.text


def test_a_figures_data_are_the_records(page: Page) -> None:
    """What the page holds packed is what the findings were computed from."""
    columns = page.data["drawn"]["shift-ratios"]["columns"]
    arms = [columns["arm"]["levels"][code] for code in columns["arm"]["codes"]]
    assert {ratio for arm, ratio in zip(arms, columns["ratio"], strict=True) if arm == "unitized"} == {0.5}
    heat = page.data["drawn"]["shift-heat-map"]["columns"]
    assert len(heat["scale_free"]) == 4 * 2 * 3 * 6


def test_it_says_how_to_run_it_again(page: Page) -> None:
    command = (
        "icsbound compare --arms bn unitized unitized-1 published --seeds 0 1 2 --data digits --model resnet8:width=8 "
        "--recipe short --epochs 3 --batch-size 64 --lr 0.1 --probe 256 --captures 6 --device cpu --threads 1"
    )
    assert command in page.text
    assert "torch 2.13.0" in page.text


def test_the_same_records_give_the_same_bytes(folder: Path) -> None:
    files = [folder / "report.html", *sorted((folder / "figures").iterdir())]
    before = [path.read_bytes() for path in files]
    report.build(folder)
    assert [path.read_bytes() for path in files] == before
    assert not list(folder.rglob("*.part"))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Layers, arms, models and versions come from users; whatever they are called, they are shown and not obeyed."""
    for arm in ("bn", HOSTILE):
        lines = recorded.of_run(arm, 0, layers=("stem", HOSTILE), steps=(0, 1, 4))
        lines = recorded.changed(lines, RunRecord, model=HOSTILE, dataset=HOSTILE, versions={HOSTILE: HOSTILE})
        lines = recorded.changed(lines, DistanceRecord, estimator=HOSTILE)
        recorded.save(tmp_path / ("a" if arm == "bn" else "b"), lines)
    (tmp_path / "config.json").write_text(json.dumps({"arms": [HOSTILE], "seeds": [HOSTILE], HOSTILE: HOSTILE}))
    report.build(tmp_path)
    page = Page(tmp_path / "report.html")
    assert len(page.all("script")) == 3
    assert page.all("img") == []
    assert HOSTILE in page.text  # shown as it is, braces not evaluated
    assert HOSTILE in json.dumps(page.data, ensure_ascii=False).replace('\\"', '"')
    assert "alert(1)</script>" not in page.html
    for path in (tmp_path / "figures").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not tags & {"script", "image", "img", "foreignObject"}


def test_a_single_run_has_a_page(tmp_path: Path) -> None:
    recorded.save(tmp_path, recorded.of_run("unitized", 3))
    (tmp_path / "config.json").write_text('{"arm": "unitized", "seed": 3, "data": "digits", "monitor": null}')
    page = Page(report.build(tmp_path))
    assert "Training of unitized: resnet8:width=8 on digits" in page.text
    assert set(page.data["drawn"]) == FIGURES - {"accuracy-differences", "shift-ratios", "alpha-channels"}
    assert "icsbound train --arm unitized --seed 3 --data digits --no-monitor" in page.text
    assert "against bn" not in page.text


def test_a_measurement_has_a_page(tmp_path: Path) -> None:
    kept = (DistanceRecord, LayerRecord)
    recorded.save(tmp_path, [line for line in recorded.of_run("unitized", 0) if isinstance(line, kept)])
    page = Page(report.build(tmp_path))
    assert "Measured distances" in page.text
    assert '<summary>Every run <span class="count">1 row</span>' in page.html
    assert set(page.data["drawn"]) == {"shift-heat-map", "shift-brackets", "em-tightness", "alpha"}


@pytest.mark.parametrize("kept", [1, 2, 12, 30])
def test_an_interrupted_run_has_a_page(tmp_path: Path, kept: int) -> None:
    recorded.save(tmp_path, recorded.of_run("bn", 0)[:kept])
    page = Page(report.build(tmp_path))
    assert "bn, seed 0, did not finish" in page.text
    assert "0 of 1" in page.text


def test_brackets_alone_have_a_page(tmp_path: Path) -> None:
    lines = recorded.changed(recorded.of_run("bn", 0), DistanceRecord, value=None, lower=None, scale_free=None)
    recorded.save(tmp_path, lines)
    page = Page(report.build(tmp_path))
    assert set(page.data["drawn"]) == {"accuracy", "loss", "shift-brackets"}


def test_a_layer_that_stood_still_has_a_page(tmp_path: Path) -> None:
    zero = {"value": 0.0, "lower": 0.0, "paired": 0.0, "mean_shift": 0.0, "norms": 0.0, "scale_free": 0.0}
    recorded.save(tmp_path, recorded.changed(recorded.of_run("bn", 0), DistanceRecord, **zero))
    page = Page(report.build(tmp_path))
    assert set(page.data["drawn"]) == {"accuracy", "loss", "shift-heat-map", "shift-brackets"}
    collapsed = recorded.changed(recorded.of_run("bn", 0), DistanceRecord, **zero, scale=0.0)
    recorded.save(tmp_path / "collapsed", recorded.changed(collapsed, DistanceRecord, scale_free=None))
    report.build(tmp_path / "collapsed")


def large(folder: Path, steps: int) -> list[str]:
    """Two arms that were measured at many steps, of 200 layers whose names are returned."""
    layers = [f"backbone.stages.{i // 20}.blocks.{i % 20}.norm" for i in range(200)]
    for arm in ("bn", "unitized"):
        lines = recorded.of_run(arm, 0, layers=layers, steps=(0, 1), views=("pooled",))
        step = "".join(to_line(line) for line in lines if isinstance(line, DistanceRecord))
        recorded.save(folder / arm, lines[:1])
        with open(folder / arm / "records.jsonl", "a", encoding="utf-8") as file:
            drawn = transports(f"{arm}-seed0", range(steps + 1), n=160, layer=layers[-1])
            for k in range(steps):
                file.write(
                    to_line(drawn[k]) + step.replace('"step_a": 0, "step_b": 1', f'"step_a": {k}, "step_b": {k + 1}')
                )
            file.writelines(map(to_line, lines[-4:]))
    recorded.keep(folder / "unitized", {name: np.linspace(0.1, 0.9, 512).tolist() for name in layers})
    return layers


@pytest.mark.parametrize("steps", [100, pytest.param(1000, marks=pytest.mark.full)])
def test_large_runs_stay_small(tmp_path: Path, steps: int) -> None:
    """200 layers at up to 1,000 steps, in two arms: the page holds an aggregate, and says so."""
    layers = large(tmp_path, steps)
    path = report.build(tmp_path)
    assert path.stat().st_size < 2_000_000
    page = Page(path)
    heat = page.data["drawn"]["shift-heat-map"]["columns"]
    assert set(heat["layer"]["levels"]) == set(layers)
    assert 8_000 < len(heat["scale_free"]) <= 16_000
    assert "12 of 200 layers, evenly spread." in page.text
    assert f"{400 * steps:,}" in page.text  # every distance counts in the findings
    assert np.isfinite(heat["scale_free"]).all()
    assert f"24 of {2 * steps:,} pairs of steps." in page.text


@pytest.mark.full
def test_all_that_can_be_recorded_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four arms of 200 layers in two views, with verdicts, networks and pictures, at more steps than are drawn."""
    monkeypatch.setattr(plots, "save", lambda *_: None)
    layers = [f"backbone.stages.{i // 20}.blocks.{i % 20}.norm" for i in range(200)]
    values = np.random.default_rng(0).normal(size=(200, 64))
    for arm in ("bn", "published", "unitized", "unitized-1"):
        *begun, end = recorded.of_run(arm, 0, layers=layers, steps=range(11), noise=0.3)
        begun = [*recorded.judged(begun), *transports(f"{arm}-seed0", range(60), n=160, layer=layers[-1])]
        recorded.save(tmp_path / arm, [*begun, end])
        recorded.keep(tmp_path / arm, dict(zip(layers, values.tolist(), strict=True)))
    page = Page(report.build(tmp_path))
    assert set(page.data["drawn"]) == FIGURES | {"picture-ridge", "picture-transport"}
    assert page.html.count("<td>") > 0.9 * tables.CELLS
    assert len(page.html.encode()) < 2_000_000


def test_no_figure_stands_beside_an_empty_place() -> None:
    def figures(panels: str) -> list[Figure]:
        return [Figure(str(k), "s", "", "", "", "", None, pd.DataFrame(), int(p)) for k, p in enumerate(panels)]

    def wide(panels: str) -> str:
        return "".join(str(int(one)) for _, one in placed(figures(panels)))

    assert wide("") == ""
    assert wide("0") == "1"
    assert wide("00") == "00"
    assert wide("000") == "100"
    assert wide("0909") == "1111"
    assert wide("9000900") == "1100100"


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorded.save(tmp_path, recorded.of_run("bn", 0))
    real = builtins.__import__

    def without(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "icsbound.report.html":
            raise ModuleNotFoundError("No module named 'altair'", name="altair")
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        InputError, match=r"^the page needs altair, which is not installed: pip install 'icsbound\[report\]'$"
    ):
        report.build(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_nothing_to_report_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^folder must hold a records\.jsonl"):
        report.build(tmp_path)
    assert list(tmp_path.iterdir()) == []
