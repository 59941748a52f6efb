"""The page of studies as text: verdicts first, what was interrupted, figures, tables, how to run it again."""

import json
import math
import re
from pathlib import Path

import made
import pytest

from icsbound import report
from icsbound._check import InputError
from icsbound.report import plots
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
