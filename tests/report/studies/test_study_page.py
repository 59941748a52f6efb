"""The page of studies as text: verdicts first, what was interrupted, figures, tables, how to run it again."""

import base64
import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import made
import numpy as np
import pandas as pd
import pytest

from icsbound import report
from icsbound._check import InputError
from icsbound.report import plots
from icsbound.report.intervals import student
from icsbound.report.studies import page, points
from icsbound.report.studies.panels import CLAIMS, PANELS

M = (4, 16, 64)


def noise(finished: int = 5) -> list[object]:
    bound = [lambda m: 11 * math.sqrt((m + 1) / (m - 3)), "at most"]
    return made.whole(
        "noise",
        made.curve("noise", "two layers", "frozen law", M, lambda m: 9 * math.sqrt((m + 1) / (m - 3)), *bound),
        made.curve("noise", "two layers", "train law", M, lambda m: 9.0, noise=0),
        finished=finished,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {"studies": ["noise"], "seeds": None, "full": False, "runs": None}
    return made.save(tmp_path / "study", noise(), config=json.dumps(config))


def test_the_page_begins_with_the_verdict(folder: Path) -> None:
    written = report.build(folder)
    assert written == folder / "report.html"
    text = written.read_text(encoding="utf-8")
    claim = CLAIMS["noise"].replace("'", "&#39;")
    assert f"<h1>{claim}</h1>" in text
    said = text.index("W1 between two layers becomes 0.46 times")
    assert text.index('class="holds"') < said < text.index('id="figure-noise-two-layers"')
    assert "None of 3 predicted points contradicts the prediction." in text
    assert "<b>5 of 5</b> seeds finished" in text
    assert "<b>3 of 3</b> points agree with their prediction" in text
    assert "5 finished seeds, 6 points; see the table." in text
    assert "<pre>icsbound study noise</pre>" in text
    assert "torch 2.13.0" in text
    assert len(text.encode()) < 2_000_000


def test_the_figures_lie_beside_it(folder: Path) -> None:
    report.build(folder)
    assert sorted(p.name for p in (folder / "figures").iterdir()) == ["noise-two-layers.png", "noise-two-layers.svg"]
    svg = (folder / "figures" / "noise-two-layers.svg").read_text(encoding="utf-8")
    assert "frozen law" in svg


def test_the_same_records_give_the_same_page(folder: Path) -> None:
    first = report.build(folder).read_bytes()
    assert report.build(folder).read_bytes() == first


def test_the_table_holds_every_point_with_its_interval(folder: Path) -> None:
    (table,) = page.tables(points.load(folder))
    assert table.columns[:6] == ["figure", "curve", "x", "measured", "from", "to"]
    assert len(table.rows) == 6
    first, last = table.rows[0], table.rows[-1]
    assert first[:3] == ["two layers", "frozen law", 4.0]
    assert first[4] < first[3] < first[5]
    assert first[8:10] == ["at most", "agrees"]
    assert last[4] is None  # the same at every seed: no interval
    assert last[7:10] == [None, None, None]


def test_an_interrupted_study_says_so_first(tmp_path: Path) -> None:
    config = json.dumps({"studies": ["noise", "shift"]})
    folder = made.save(tmp_path, noise(finished=2), config=config)
    text = report.build(folder).read_text(encoding="utf-8")
    stopped = text.index("noise was interrupted: of 5 seeds, 3 not finished (2, 3 and 4).")
    assert "Its verdict rests on the 30 measurements that were kept." in text
    assert stopped < text.index("W1 between two layers becomes")
    assert "Not begun: shift." in text
    assert "<b>2 of 5</b> seeds finished" in text
    assert page.lines(folder)[0].startswith("! noise was interrupted")


def test_a_line_that_was_cut_off_is_named(folder: Path) -> None:
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    text = report.build(folder).read_text(encoding="utf-8")
    assert re.search(r"records\.jsonl: line \d+ was cut off and is left out; \d+ records were read\.", text)


def test_a_study_without_points_has_a_page(tmp_path: Path) -> None:
    text = report.build(made.save(tmp_path, made.whole("shift", finished=0))).read_text(encoding="utf-8")
    assert "There is nothing to judge yet." in text
    assert "icsbound study" not in text  # without a config nothing is known of the command


def test_every_panel_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    monkeypatch.setattr(plots, "save", lambda figures, folder: saved.extend(figure.name for figure in figures))
    lines = []
    for study in CLAIMS:
        curves = []
        for panel in PANELS:
            if panel.study == study:
                names = ("a · bn", "b · bn") if panel.split else ("one", "two")
                curves += [
                    made.curve(study, panel.name, n, (1.0, 2.0), lambda x: x, lambda x: x, "equal") for n in names
                ]
        lines.append(made.whole(study, *curves))
    folder = made.save(tmp_path, *lines)
    text = report.build(folder).read_text(encoding="utf-8")
    assert text.count('class="chart"') == len(PANELS)
    assert len(set(saved)) == len(PANELS)
    assert text.index(CLAIMS["dimension"].replace("'", "&#39;")) < text.index(CLAIMS["shift"])


def built(folder: Path) -> tuple[int, str, dict[str, Any]]:
    """The page of `folder`: its size, its text, and its figures' columns."""
    path = report.build(folder)
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/gzip" id="data">(.*?)</script>', text)
    assert found
    drawn = json.loads(gzip.decompress(base64.b64decode(found[1])))["drawn"]
    return path.stat().st_size, text, {name: figure["columns"] for name, figure in drawn.items()}


def test_200_layers_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 conditions in 3 networks: a figure holds some layers, the table some rows, and the verdict rests on all."""
    monkeypatch.setattr(plots, "save", lambda *_: None)
    names = [f"condition{k} · arm{arm}" for k in range(7) for arm in range(3)]
    curves = [
        made.curve("shift", "by layer", name, range(200), lambda x: 1 + x, lambda x: 2 + 2 * x, "at most", seeds=[0])
        for name in names
    ]
    above = made.curve("shift", "by layer", "odd · arm0", [77], lambda x: 9.0, lambda x: 1.0, "at most", noise=0.01)
    size, text, columns = built(made.save(tmp_path, made.whole("shift", *curves, above)))
    assert size < 2_000_000
    by_layer = columns["shift-by-layer"]
    assert len(by_layer["x"]) <= 21 * 60 + 1
    assert {0, 199} <= set(by_layer["x"])
    assert "60 of 200 layers, evenly spread." in text
    assert "1 of 4,201 predicted points contradicts the prediction" in text
    first, *others = text[text.index('id="table-points-shift"') :].split("</table>")[0].split("<tr>")[2:]
    assert re.findall(r"<td>(.*?)</td>", first)[:3] == ["by layer", "odd · arm0", "77.00"]
    assert 2_000 < len(others) < 2_500
    assert f"{1 + len(others):,} of 4,201 rows, the first 1 and then evenly spread: records.jsonl has" in text


def test_1000_steps_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A course over many steps is drawn as means over neighbouring ones, each with the interval of such a mean."""
    monkeypatch.setattr(plots, "save", lambda *_: None)
    panels, steps = ("alpha", "reach", "gamma"), range(0, 10_000, 10)
    curves = [made.curve("alpha", one, "trained", steps, lambda x: 1 + x, seeds=[0, 1]) for one in panels]
    size, text, columns = built(made.save(tmp_path, made.whole("alpha", *curves)))
    assert size < 2_000_000
    course = pd.DataFrame({name: columns["alpha-alpha"][name] for name in ("x", "mean", "low", "high")})
    assert len(course) == 60
    assert course["x"].max() == 9_990
    assert text.count("Means over neighbouring steps, 60 for 1,000.") == len(panels)
    # Of 17 or 16 steps that end at x, off by shares that are nearly 0 on average.
    assert course["mean"].to_numpy() == pytest.approx((course["x"] - 80 + 1).to_numpy(), rel=0.02, abs=10)
    values = np.array([[r.value for r in curves[0] if r.seed == seed][:17] for seed in (0, 1)])
    first = student(values.mean(1))
    assert tuple(course.loc[0, ["mean", "low", "high"]]) == pytest.approx((first.mean, first.low, first.high), rel=1e-3)


def test_names_are_text(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>"
    lines = made.whole("alpha", made.curve("alpha", "accuracy", hostile, [0], lambda x: 0.9))
    text = report.build(made.save(tmp_path, lines)).read_text(encoding="utf-8")
    assert hostile not in text


def test_rows_are_plain_values(folder: Path) -> None:
    rows = page.rows(folder)
    assert len(rows) == 6
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0]["curve"] == "frozen law"
    assert rows[-1]["predicted"] is None
    assert {"mean", "low", "high", "seeds", "n", "d", "estimator", "relation", "verdict"} <= rows[0].keys()


def test_only_studies_are_taken_for_studies(tmp_path: Path) -> None:
    assert not points.holds_studies(tmp_path)
    (tmp_path / "records.jsonl").write_text('{"kind": "run"}\n')
    assert not points.holds_studies(tmp_path)
    (tmp_path / "records.jsonl").write_text('{"kind": "study", "schema": 1}\n')
    assert points.holds_studies(tmp_path)
    with pytest.raises(InputError, match="line 1 is not a record"):
        report.build(tmp_path)
    (tmp_path / "records.jsonl").write_text('{"kind": "study"')
    with pytest.raises(InputError, match="must hold at least one study, got none"):
        report.build(tmp_path)
