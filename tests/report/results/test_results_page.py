"""The page and the Markdown of a table of results: what they say is known before they are built."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import recorded
from lines import changed, line, shifted, table

from icsbound import report, results
from icsbound._check import InputError
from icsbound.records import LayerRecord, RunRecord, Writer
from icsbound.report import plots
from icsbound.report import statistics as st
from icsbound.report.page import cell as page_cell
from icsbound.report.results import conditions, figures, findings, markdown, reproduce, tables
from icsbound.report.results.groups import groups, slugs
from icsbound.report.results.table import load

HOSTILE = "../../x\n```\n</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}|"
KEPT = Path(__file__).parents[3] / "docs" / "results" / "results.jsonl"
ARMS = ("bn", "unitized", "gn")


def written(path: Path, lines: list[results.Line]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for one in lines:
        results.append(path, one)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [
        *shifted((1, 3, 5), setting="robust", phase="confirm", seeds=5),
        *shifted((1, 3, 5), setting="robust", phase="confirm", seeds=5, remedy="recalibrate:100")[15:],
        *changed(setting="pruned", dropout=0.4)[12:],
        *(one for size in (4, 32) for one in table(setting="batches", batch_size=size, lr=size / 320)),
    ]
    return written(tmp_path_factory.mktemp("table") / "results.jsonl", lines)


@pytest.fixture(scope="module")
def built(file: Path) -> Path:
    out = file.parent / "page"
    assert report.build_results(file, out) == out / "report.html"
    return out


def test_the_page_says_what_the_lines_hold(built: Path) -> None:
    html = (built / "report.html").read_text(encoding="utf-8")
    assert len(html.encode()) < 2_000_000
    places = [html.index(text) for text in ('id="findings"', 'id="robust"', 'id="batch-sizes"', 'id="tables"')]
    assert places == sorted(places)
    for text in (
        "Confirmation: nothing was chosen by these accuracies.",
        "Exploration: something may have been chosen",
        "Mean of 2 corruptions at severities 1, 3, 5: unitized reaches",
        "Mean of prune 0.3, 0.6, 0.9, recalibrate:1000: gn reaches",
        "dropout 0.4",
        "icsbound evaluate runs/robust --setting robust --phase confirm --shift none fog:1 fog:3 fog:5 contrast:1",
        "icsbound sweep --constant-lr --arms bn unitized gn --seeds 0 1 2 3 --batch-sizes 4 --setting batches",
        "--perturb prune:0.3 --recalibrate 1000",
        "judged by published-batch, which has the same trained gain without unitizing any sample, or by bn where",
    ):
        assert text in html, text
    assert {p.stem for p in (built / "figures").glob("*.svg")} == {
        *(f"robust-{name}" for name in ("differences", "accuracy", "severity", "severity-recalibrate-100", "remedies")),
        *(f"pruned-{name}" for name in ("differences", "accuracy", "prune", "quantize", "remedies")),
        *(f"batches-batch-size-{size}-{name}" for size in (4, 32) for name in ("differences", "accuracy")),
        "batches-batch-sizes",
    }


def test_the_images_of_a_split_are_told_where_all_lines_agree(tmp_path: Path) -> None:
    one = line(images=1000)
    for others, said in (
        ([line(seed=1, images=1000)], "test split of 1,000 images"),
        ([line(seed=1, images=999)], "test split"),
        ([line(seed=1)], "test split"),
        ([line(seed=1, setting="other")], "test split of 1,000 images"),
    ):
        (tmp_path / "results.jsonl").unlink(missing_ok=True)
        found = load(written(tmp_path / "results.jsonl", [one, *others]))
        assert found.split(found.groups[0]) == said


def test_each_finding_has_interval_adjustment_check_and_seeds(file: Path) -> None:
    found = load(file)
    group = next(g for g in found.groups if g["setting"] == "robust")
    first, second, *_ = [f for f in findings.of_group(found, group) if f.verdict]
    contrast = found.against(group)[0]
    mean, low, high = (100 * v for v in (contrast.interval.mean, contrast.interval.low, contrast.interval.high))
    assert f"+{mean:.2f} points (95 % interval +{low:.2f} to +{high:.2f}) against bn (" in first.text
    assert re.fullmatch(r"5 seeds; p \S+.*, Holm \S+.*; resampling seeds gives \+\S+ to \+\S+\.", first.basis)
    assert (first.verdict, second.verdict) == ("higher", "lower")
    assert "test split, 5 seeds." in findings.basis(found, group)  # lines alone do not tell how many images
    assert f"over the {contrast.family} contrasts of this setting" in findings.basis(found, group)
    # The control has a line of its own on clean images, and stands in each contrast of the others.
    texts = [f.text for f in findings.of_group(found, group)]
    assert sum("bn reaches" in text for text in texts) == 1


def test_missing_runs_and_damaged_lines_come_first(tmp_path: Path) -> None:
    path = written(tmp_path / "results.jsonl", table(arms=("bn", "gn"))[:-1])
    with open(path, "a") as stream:
        stream.write('{"setting": "cut')
    (tmp_path / "config.json").write_text('{"arms": ["bn", "gn"], "seeds": [0, 1, 2, 3], "batch_sizes": [32]}')
    texts = [f.text for f in findings.alerts(load(tmp_path))]
    assert texts == [
        "results.jsonl: line 8 was cut off and is left out.",
        "7 of 8 runs of this sweep are finished.",
        "demo: gn lacks 1 seed.",
    ]


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    found = load(written(tmp_path / "results.jsonl", table(seeds=1)))
    judged = [f for f in findings.of_group(found, found.groups[0]) if f.verdict]
    assert [f.verdict for f in judged] == ["not resolved"] * 2
    assert all("(one seed: no interval)" in f.text for f in judged)
    assert judged[0].basis == "1 seed; not enough to judge by."
    assert "1 seed: no interval" in markdown.text(found, [])
    assert figures.all_figures(found)


def test_the_same_lines_give_the_same_files(
    file: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report.build_results(file, tmp_path, markdown=True) == tmp_path / "results.md"
    kept = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert {p.suffix for p in kept} == {".md", ".svg"}
    assert {p.name for p in kept if p.suffix == ".svg"} == {p.name for p in (built / "figures").glob("*.svg")}
    for path in kept:
        assert path.read_bytes() == (built / path.relative_to(tmp_path)).read_bytes(), path.name
    monkeypatch.setattr(plots, "save", lambda *_, **__: None)  # seen above
    report.build_results(file, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (built / "report.html").read_bytes()


def test_the_markdown_has_a_row_for_each_arm_and_case(file: Path, built: Path) -> None:
    text = (built / "results.md").read_text(encoding="utf-8")
    found = load(file)
    rows = [row for row in text.splitlines() if row.startswith("| ") and "`" in row]
    assert len(rows) == len(found.means.groupby(["group", "case", "arm"]))
    assert all(row.count("|") == 10 for row in rows)
    for name in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (built / name).is_file()
    assert str(file.parent) not in text


def test_the_zero_line_runs_through_the_whole_panel(built: Path) -> None:
    root = ElementTree.parse(built / "figures" / "batches-batch-size-4-differences.svg").getroot()
    (line,) = [e for e in root.iter("{http://www.w3.org/2000/svg}line") if e.get("stroke-dasharray")]
    assert abs(float(line.get("y2", 0))) == 90  # pixels, the panel's height


def test_alpha_is_that_of_the_runs_below(tmp_path: Path) -> None:
    own = line(arm="unitized", seed=3)
    written(tmp_path / "results.jsonl", [own, line(seed=3)])
    for name, config in (("a", own.config), ("other", {**own.config, "dropout": 0.9})):
        run = tmp_path / name
        run.mkdir()
        (run / "config.json").write_text(json.dumps({**config, "data_dir": "/x", "monitor": {"probe": 4}}))
        first = RunRecord(
            run="unitized-seed3", arm="unitized", seed=3, dataset="digits", model="m", parameters=1, train_size=1,
            evaluation_size=1, split="test", epochs=1, steps=2, batch_size=1, device="cpu", versions={},
        )  # fmt: skip
        with Writer(run / "records.jsonl") as writer:
            writer.write(first)
            for step in (0, 2):
                writer.write(
                    LayerRecord(
                        run=first.run,
                        layer="norm",
                        step=step,
                        alpha_mean=0.5 + step / 10,
                        alpha_min=0.4,
                        alpha_max=0.9,
                        weight_mean=1.0,
                        weight_max=1.0,
                        bound=None,
                    )
                )
    found = load(tmp_path)
    (study,) = found.studies.values()
    assert study.layers[["arm", "seed", "step", "alpha_mean"]].values.tolist() == [
        ["unitized", 3, 0, 0.5],
        ["unitized", 3, 2, 0.7],
    ]
    report.build(tmp_path)
    assert (tmp_path / "figures" / "demo-alpha.svg").is_file()


def test_alpha_of_every_channel_is_that_of_the_networks_below(tmp_path: Path) -> None:
    recorded.comparison(tmp_path, seeds=(3,))
    for arm in ("bn", "unitized"):
        one = line(arm=arm, seed=3)
        results.append(tmp_path / "results.jsonl", one)
        (tmp_path / f"{arm}-seed3" / "config.json").write_text(json.dumps(one.config))
    recorded.keep(tmp_path / "unitized-seed3", {"norm": [0.2, 0.9]})
    found = load(tmp_path)
    (figure,) = [one for one in figures.all_figures(found) if one.name == "demo-alpha-channels"]
    assert figure.section == "demo"
    assert figure.data["alpha"].tolist() == pytest.approx([0.2, 0.9])
    assert found.notes == []
    (tmp_path / "unitized-seed3" / "model.safetensors").write_bytes(b"?")
    found = load(tmp_path)  # what cannot be read is found here, and not by drawing
    (alert,) = [one.text for one in findings.alerts(found) if "could not be read" in one.text]
    assert alert.startswith("unitized-seed3/model.safetensors could not be read (")
    assert "demo-alpha-channels" not in {one.name for one in figures.all_figures(found)}


def test_the_shift_of_monitored_runs_stands_beside_their_accuracy(tmp_path: Path) -> None:
    seeds = (3, 4)
    begun = {"pretrained": {"sha256": "0" * 64, "new_head": False}}  # the file may lie elsewhere
    lines = {(arm, seed): line(arm=arm, seed=seed, **begun) for arm in ("bn", "unitized") for seed in seeds}
    written(tmp_path / "results.jsonl", list(lines.values()))
    recorded.comparison(tmp_path, seeds=seeds)
    for (arm, seed), one in lines.items():
        pretrained = {**one.config["pretrained"], "file": "/x/weights.pt"}
        text = json.dumps({**one.config, "pretrained": pretrained})
        (tmp_path / f"{arm}-seed{seed}" / "config.json").write_text(text)
    found = load(tmp_path)
    (study,) = found.studies.values()
    assert {(run.arm, run.seed) for run in study.runs} == set(lines)
    ratio = st.ratio(st.log_ratios(study, "unitized", "bn", "pooled"))
    rows = [dict(zip(tables.shifts(found).columns, row, strict=True)) for row in tables.shifts(found).rows]
    (own,) = [row for row in rows if (row["arm"], row["view"]) == ("unitized", "pooled")]
    assert own["ratio"] == ratio.mean
    assert own["accuracy %"] == pytest.approx(100 * lines["unitized", 3].accuracy)
    assert tables.shifts(found).note.endswith("monitored or not. demo: n = 256, d = 16 to 1,024; exact assignment.")
    assert "; test split of 1,000 images, 2 seeds." in findings.basis(found, found.groups[0])  # as the records say
    page = report.build(tmp_path).read_text("utf-8")
    assert page.count("test split of 1,000 images") == 3  # and on both figures of accuracy
    assert "How far the layers moved, pooled view".lower() in page.lower()
    text = (tmp_path / "results.md").read_text("utf-8")
    assert "### demo: how far the layers moved, pooled view" in text
    assert "- The layers of unitized moved " in text
    _, _, beside = text.partition("\n## Shift beside accuracy\n")
    cells = (page_cell(value) for value in (own["scale-free ICS"], "bn", ratio.mean))
    assert f"| demo | unitized | 50.00 | pooled | {' | '.join(cells)} |" in beside


def test_names_tell_groups_apart_and_are_safe_as_files(tmp_path: Path) -> None:
    lines = [line(), line(dropout=0.4), line(setting="demo: dropout 0.4"), line(setting="../.."), line(setting="!")]
    lines += [line(setting="s", lr=lr, dropout=drop) for lr, drop in ((0.1, 0.0), (0.2, 0.0), (0.1, 0.5))]
    found = groups(lines)
    assert [g.title for g in found[:3]] == ["demo: dropout 0.0", "demo: dropout 0.4", "demo: dropout 0.4"]
    assert [g.title for g in found[5:]] == [
        "s: dropout 0.0, lr 0.1",
        "s: dropout 0.0, lr 0.2",
        "s: dropout 0.5, lr 0.1",
    ]
    names = slugs(found)
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) and ".." not in name for name in names)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    lines = [
        dataclasses.replace(one, setting=HOSTILE, model=HOSTILE, dataset=HOSTILE, versions={HOSTILE: HOSTILE})
        for one in shifted(arms=("bn", HOSTILE))
    ]
    lines += [dataclasses.replace(one, shift=HOSTILE, remedy=HOSTILE) for one in lines if one.shift == "fog"]
    path = written(tmp_path / "in" / "results.jsonl", lines)
    html = report.build_results(path, tmp_path / "out").read_text(encoding="utf-8")
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: tags.append(tag)  # type: ignore[method-assign]  # of this one parser
    parser.feed(html)
    assert (tags.count("script"), tags.count("img")) == (3, 0)
    assert "alert(1)</script>" not in html
    assert {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")} == {"in", "out"}
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert not [row for row in text.splitlines() if "<script" in row and not row.startswith("    ")]  # but for code
    for figure in (tmp_path / "out" / "figures").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(figure).iter()}
        assert not tags & {"script", "image", "img", "foreignObject"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold at least one line of results, got none$"),
        ('{"setting": 1}\n', "line 1 is no line of results: "),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        report.build_results(path, tmp_path)
    with pytest.raises(InputError, match=r"^results must be a file of results or a folder with results\.jsonl, got '"):
        report.build_results(tmp_path / "none", tmp_path)


def test_the_order_of_lines_within_a_group_changes_no_number(file: Path, tmp_path: Path) -> None:
    lines = results.read(file)
    random.Random(0).shuffle(lines)
    other = load(written(tmp_path / "results.jsonl", lines))
    one = load(file)

    def numbers(found: Any) -> dict[Any, Any]:
        return {(c.group, c.arm, tuple(sorted(dict(c.case).items()))): (c.interval, c.adjusted) for c in found.cells}

    assert numbers(one) == numbers(other)


def test_a_corruption_at_all_severities_is_named_once() -> None:
    lines = [line(shift=s, severity=v) for s in ("fog", "snow") for v in range(1, 6) if (s, v) != ("snow", 2)]
    path_of = groups(lines)
    commands = reproduce._evaluations("x", path_of[0], lines)
    assert "--shift fog snow:1 snow:3 snow:4 snow:5 --out" in commands[0]


def test_a_figure_says_whether_its_corruptions_are_the_published_ones(tmp_path: Path) -> None:
    def basis(*shifts: str) -> str:
        lines = [one for shift in shifts for k in (1, 2) for one in table(shift=shift, severity=k)]
        found = load(written(tmp_path / f"{len(shifts)}-{shifts[0].count('/')}.jsonl", lines))
        (figure,) = conditions.severity(found, found.groups[0], "robust")
        return figure.basis

    assert basis("fog").startswith("Corruptions of the test split, regenerated, the same")
    assert basis("CIFAR-10-C/fog").startswith("Corruptions of the test split, as published, the same")
    assert "split, regenerated where no folder is named, the same" in basis("fog", "CIFAR-10-C/fog")


def test_arms_with_values_of_their_own_are_compared_and_told(tmp_path: Path) -> None:
    lines = [one for arm, lr in (("bn", 0.1), ("gn", 0.4)) for one in table(arms=(arm,), lr=lr, per_arm=["lr"])]
    found = load(written(tmp_path / "results.jsonl", lines))
    assert [c.arm for c in found.headline] == ["gn"]
    head, *sections, command = reproduce.commands(found).splitlines()
    assert head == "# arms.toml, a line a value:"
    assert sections == ['# ["bn"] lr = 0.1', '# ["gn"] lr = 0.4']
    assert " --arms-file arms.toml " in command
    assert "arms.toml" not in reproduce.commands(load(written(tmp_path / "plain.jsonl", table())))


def test_the_commands_name_the_weights_that_runs_began_at(tmp_path: Path) -> None:
    def text(name: str, **start: Any) -> str:
        begun = [line(seed=s, pretrained={"sha256": f"{s}" * 64, "new_head": False, **start}) for s in (1, 2)]
        return reproduce.commands(load(written(tmp_path / name, begun)))

    by_seed = text("a.jsonl", by_seed=True).splitlines()
    assert by_seed[0] == (
        "# WEIGHTS-{seed}: what these runs began at, by SHA-256 111111111111… of seed 1 and 222222222222… of seed 2"
    )
    words = shlex.split(by_seed[1])
    assert words[words.index("--weights") + 1] == "WEIGHTS-{seed}"
    assert len(by_seed) == 2
    assert [one for one in text("b.jsonl").splitlines() if "WEIGHTS" in one and one[0] == "#"] == [
        "# WEIGHTS: what these runs began at, by SHA-256 111111111111…",
        "# WEIGHTS: what these runs began at, by SHA-256 222222222222…",
    ]
    assert "WEIGHTS" not in reproduce.commands(load(written(tmp_path / "c.jsonl", table())))


def test_arms_with_other_seeds_or_other_cases_are_sweeps_of_their_own(tmp_path: Path) -> None:
    lines = [*table(("bn", "gn"), 2), *table(("bn", "gn"), 2, shift="fog", severity=1)]
    lines += [one for one in table(("bn", "gn", "published"), 5) if one.arm == "published" or one.seed >= 2]
    first, evaluation, second, third = reproduce.commands(load(written(tmp_path / "r.jsonl", lines))).splitlines()
    for command, arms, seeds, out in (
        (first, "bn gn", "0 1", "runs/demo"),
        (second, "bn gn", "2 3 4", "runs/demo-part-2"),
        (third, "published", "0 1 2 3 4", "runs/demo-part-3"),
    ):
        assert f" --arms {arms} --seeds {seeds} --batch-sizes" in command
        assert command.endswith(f" --out {out}")
    assert evaluation.startswith("icsbound evaluate runs/demo --setting demo --phase explore --shift none fog:1 --out ")


def test_two_rates_at_one_batch_size_are_no_curve() -> None:
    from icsbound.report.results import table as module

    lines = [one for size, lr in ((4, 0.1), (4, 0.2), (8, 0.1)) for one in table(batch_size=size, lr=lr)]
    found = groups(lines)
    frame = module._frame(lines, found)
    whole = module.Table(lines, found, list(ARMS), [], [], [], [], None, frame, frame, frame)
    assert conditions.batch_sizes(whole) == []


def test_contrasts_come_in_the_order_of_the_arms(tmp_path: Path) -> None:
    lines = [one for seed in range(2) for arm in ("bn", "unitized", "gn") for one in [line(arm=arm, seed=seed)]]
    lines += [dataclasses.replace(line(arm=arm), shift="fog", severity=1) for arm in ("gn", "bn", "unitized")]
    found = load(written(tmp_path / "results.jsonl", lines))
    assert [c.arm for c in found.headline] == ["unitized", "gn"] * 2


@pytest.mark.skipif(not KEPT.exists(), reason="the project keeps no results yet")
def test_the_kept_text_is_that_of_the_kept_lines() -> None:
    """The command in protocol.md was run after the last change of lines, claims or writer."""
    rounds = sorted(KEPT.parent.glob("claims*.json"), key=lambda path: (len(path.name), path.name))
    found = load(KEPT, rounds)
    drawn = figures.all_figures(found)
    assert markdown.text(found, drawn) == KEPT.with_name("results.md").read_text(encoding="utf-8")
    assert {p.stem for p in (KEPT.parent / "figures").glob("*.svg")} == {figure.name for figure in drawn}


def test_what_confirms_was_never_explored() -> None:
    explored = results.read(KEPT.with_name("explored.jsonl"))
    confirmed = results.read(KEPT)
    assert {one.phase for one in explored} == {"explore"}
    assert {(one.phase, one.split) for one in confirmed} == {("confirm", "test")}
    assert not {one.seed for one in explored} & {one.seed for one in confirmed}


def test_the_protocol_shows_what_was_explored() -> None:
    text = KEPT.with_name("protocol.md").read_text(encoding="utf-8")
    rates: dict[float, dict[str, str]] = {}
    for one in results.read(KEPT.with_name("explored.jsonl")):
        if one.setting == "learning-rate" and (one.perturbation, one.remedy) == ("none", "none"):
            rates.setdefault(one.config["recipe"]["lr"], {})[one.arm] = f"{100 * one.accuracy:.2f}"
    for rate, by_arm in rates.items():
        row = " | ".join([f"{rate}", *(by_arm[arm] for arm in ("bn", "unitized", "published", "unitized-1"))])
        assert f"| {row} |" in text


def test_the_readme_quotes_the_kept_text() -> None:
    """Each verdict there stands in a row of results.md, with its difference and interval."""
    readme = (KEPT.parents[2] / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(r"\| (\S+ \(\S+ to \S+\)) \| (\*\*[\w ]+\*\*) \|", readme)
    kept = KEPT.with_name("results.md").read_text(encoding="utf-8")
    assert len(quoted) > 20
    for difference, verdict in quoted:
        assert f"| {verdict} | {difference} |" in kept
