"""Claims fixed before the runs: what a table must hold for each verdict, and what no table can do to one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lines import changed, line, shifted, table
from scipy import stats

from icsbound import report, results
from icsbound._check import InputError
from icsbound.report.results.claims import Claim, judge, read, rounds
from icsbound.results import Line

CONFIRM = {"setting": "robust", "phase": "confirm", "split": "test"}


def claim(**values: Any) -> Claim:
    given = {"name": "a", "says": "It helps.", "setting": "robust", "arm": "unitized", "control": "bn"}
    return Claim(**{**given, "shows": "higher", "seeds": tuple(range(6)), **values})


def test_a_claim_is_judged_by_the_paired_differences_of_its_own_seeds() -> None:
    lines = table(seeds=8, **CONFIRM)
    (found,) = judge([claim()], lines)
    own, other = (np.array([one.accuracy for one in lines if one.arm == arm][:6]) for arm in ("unitized", "bn"))
    assert found.accuracies == tuple(own)
    assert found.controls == tuple(other)
    assert found.p == pytest.approx(stats.ttest_rel(own, other).pvalue)
    assert (found.verdict, found.interval.count) == ("confirmed", 6)
    (against,) = judge([claim(arm="bn", control="unitized")], lines)
    assert against.verdict == "refuted"
    (unclear,) = judge([claim(arm="gn", control="gn", name="b")], lines)
    assert (unclear.verdict, unclear.p) == ("not resolved", 1.0)


def test_no_worse_is_tested_against_the_margin() -> None:
    lines = table(seeds=6, noise=0.002, **CONFIRM)  # unitized stands 3 points above bn, gn 5 below
    own, other = (np.array([one.accuracy for one in lines if one.arm == arm]) for arm in ("gn", "bn"))
    for margin, verdict in ((8.0, "confirmed"), (1.0, "refuted"), (-100 * float((own - other).mean()), "not resolved")):
        (found,) = judge([claim(arm="gn", shows="no worse", margin=margin)], lines)
        assert found.verdict == verdict
        p = stats.ttest_1samp(own - other, -margin / 100).pvalue
        assert found.p == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize(
    "change", [{"phase": "explore"}, {"split": "validation"}, {"setting": "other"}, {"arm": "arithmetic"}]
)
def test_lines_that_do_not_count_leave_a_claim_waiting(change: dict[str, Any]) -> None:
    lines = [
        dataclasses.replace(one, **change) if one.seed == 5 and one.arm == "unitized" else one
        for one in table(seeds=9, **CONFIRM)
    ]
    (found,) = judge([claim()], lines)
    assert (found.verdict, found.interval.count, found.p, found.adjusted) == ("waiting", 5, 1.0, 1.0)
    assert found.lacks == ""
    assert judge([claim()], [])[0].verdict == "waiting"


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"setting": "robst"}, "no line of setting 'robst' (did you mean 'robust'?)"),
        ({"arm": "arithmetic"}, "no line of 'arithmetic' there"),
        ({"control_case": "contrst 3"}, "no line of 'bn' under 'contrst 3' (did you mean 'contrast 3'?)"),
        ({"seeds": (7, 8)}, ""),
    ],
)
def test_a_claim_that_waits_for_more_than_seeds_says_for_what(change: dict[str, Any], lacks: str) -> None:
    (found,) = judge([claim(**change)], shifted(seeds=6, **CONFIRM))
    assert (found.verdict, found.interval.count, found.lacks) == ("waiting", 0, lacks)


def test_holm_counts_the_claims_that_wait() -> None:
    lines = table(seeds=6, noise=0.02, **CONFIRM)
    (alone,) = judge([claim()], lines)
    found = judge([claim(), *(claim(name=f"w{k}", setting=f"s{k}") for k in range(9))], lines)
    assert found[0].adjusted == pytest.approx(min(1.0, 10 * alone.p))
    assert {one.verdict for one in found[1:]} == {"waiting"}


def test_a_claim_may_set_one_case_against_another_or_mean_all_shifts() -> None:
    lines = shifted(seeds=6, **CONFIRM)
    mean = claim(case="mean of 2 corruptions at severities 1, 3, 5")
    one = claim(name="b", case="fog 5", control_case="contrast 3")
    found = judge([mean, one], lines)
    assert [judged.interval.count for judged in found] == [6, 6]
    by = {(x.arm, x.shift, x.severity, x.seed): x.accuracy for x in lines}
    assert found[0].accuracies[2] == pytest.approx(
        np.mean([by["unitized", shift, severity, 2] for shift in ("fog", "contrast") for severity in (1, 3, 5)])
    )
    assert found[1].accuracies[4] == by["unitized", "fog", 5, 4]
    assert found[1].controls[4] == by["bn", "contrast", 3, 4]
    (remedied,) = judge([claim(control_case="prune:0.6, recalibrate:1000")], changed(seeds=6, **CONFIRM))
    assert remedied.verdict == "confirmed"


def test_a_claim_that_fits_two_experiments_is_refused() -> None:
    lines = [*table(seeds=6, **CONFIRM), *table(seeds=6, dropout=0.5, **CONFIRM)]
    with pytest.raises(
        InputError,
        match=r"^claim 'a' must mean one experiment, got 2 of setting 'robust' that differ in more than arm and seed$",
    ):
        judge([claim()], lines)


def test_a_claim_may_name_what_else_the_two_differ_in() -> None:
    """Each arm at a rate of its own, as two sweeps gave them; no other difference is let through with it."""
    lines = [
        dataclasses.replace(one, config={**one.config, "recipe": {**one.config["recipe"], "lr": 0.2}})
        if one.arm == "unitized"
        else one
        for one in table(seeds=6, **CONFIRM)
    ]
    (apart,) = judge([claim()], lines)
    assert (apart.verdict, apart.lacks) == ("waiting", "the two arms differ in recipe.lr")
    (found,) = judge([claim(unlike=("recipe.lr",))], lines)
    assert found.accuracies == tuple(one.accuracy for one in lines if one.arm == "unitized")
    assert found.verdict == "confirmed"
    assert found.lacks == ""
    (misspelt,) = judge([claim(unlike=("lr",))], lines)
    assert (misspelt.verdict, misspelt.lacks) == ("waiting", "the two arms differ in recipe.lr")
    both = [*lines, *table(seeds=6, **CONFIRM)]
    with pytest.raises(InputError, match=r"^claim 'a' must mean one experiment, got 2 of setting 'robust'"):
        judge([claim(unlike=("recipe.lr",))], both)


def test_a_control_may_stand_in_a_setting_of_its_own() -> None:
    """Where one setting has the control in two ways, a claim could mean either."""
    other = {**CONFIRM, "setting": "robust-standardized"}
    lines = [*table(seeds=6, **CONFIRM), *table(seeds=6, standardize=True, drop=0.02, **other)]
    own, controls = (
        tuple(one.accuracy for one in lines if (one.arm, one.setting) == side)
        for side in (("unitized", "robust"), ("bn", "robust-standardized"))
    )
    there = {"control_setting": "robust-standardized"}
    (found,) = judge([claim(unlike=("standardize",), **there)], lines)
    assert (found.accuracies, found.controls, found.verdict) == (own, controls, "confirmed")
    assert found.claim.sides == ("as trained", "as trained of robust-standardized")
    (apart,) = judge([claim(**there)], lines)
    assert (apart.verdict, apart.lacks) == ("waiting", "the two arms differ in standardize")
    (unknown,) = judge([claim(control_setting="robust-standard")], lines)
    assert unknown.lacks == "no line of setting 'robust-standard' (did you mean 'robust-standardized'?)"
    assert claim().sides == ("as trained", "as trained")


def test_runs_that_began_at_networks_of_their_own_seeds_are_one_experiment() -> None:
    def begun(by_seed: bool) -> list[Line]:
        return [
            dataclasses.replace(one, config={**one.config, "pretrained": {"sha256": f"{one.seed}", **given}})
            for one in table(seeds=6, **CONFIRM)
            for given in [{"new_head": False, **({"by_seed": True} if by_seed else {})}]
        ]

    assert judge([claim()], begun(True))[0].verdict == "confirmed"
    with pytest.raises(InputError, match=r"^claim 'a' must mean one experiment, got 6 of setting 'robust'"):
        judge([claim()], begun(False))


GIVEN = {"name": "a", "says": "b", "setting": "c", "arm": "d", "control": "e", "shows": "higher", "seeds": [1, 2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shows": "lower"}, r"shows must be one of 'higher', 'no worse', got 'lower'"),
        ({"shows": "no worse"}, r"margin must be above 0 points where a claim shows 'no worse', and not"),
        (
            {"margin": 0.5},
            r"margin must be above 0 points where a claim shows 'no worse', and not",
        ),
        ({"seeds": [1]}, r"seeds must be at least two, all different, got \[1\]"),
        ({"seeds": [1, 2, 1]}, r"seeds must be at least two, all different, got \[1, 2, 1\]"),
        ({"seeds": [1, "2"]}, r"seeds must be a list of whole numbers, got \[1, '2'\]"),
        ({"seeds": 3}, r"seeds must be a list of whole numbers, got 3"),
        ({"unlike": "recipe.lr"}, r"unlike must be a list of names, got 'recipe\.lr'"),
        ({"unlike": [1]}, r"unlike must be a list of names, got \[1\]"),
        ({"arm": 3}, r"arm must be str, got 3"),
        ({"margn": 0.5}, r"a claim's value must be one of .*, got 'margn' \(did you mean 'margin'\?\)"),
        ({"says": "\0"}, r"a claim must be of printable text, got "),
    ],
)
def test_what_is_wrong_with_a_file_of_claims_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "claims.json"
    path.write_text(json.dumps([GIVEN, {**GIVEN, "name": "z", **change}]))
    with pytest.raises(InputError, match=rf"claims\.json, claim 2: {message}"):
        read(path)


def test_a_file_that_holds_no_claims_is_named(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    with pytest.raises(InputError, match=r"^claims must be a JSON file that can be read, got '.*No such file"):
        read(path)
    for text, message in (
        ("[", "claims must be a JSON file that can be read"),
        ("[" * 100_000, "claims must be a JSON file that can be read"),
        ("{}", "must hold a list of claims, each an object of names and values"),
        (json.dumps([GIVEN, GIVEN]), "must name each claim differently, got 'a' twice"),
        ('[{"name": "a"}]', r"claim 1: a claim must say says, got"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read(path)


def test_page_and_markdown_say_what_became_of_each_claim(tmp_path: Path) -> None:
    for one in table(seeds=6, **CONFIRM):
        results.append(tmp_path / "results.jsonl", one)
    claims = [
        {**GIVEN, "says": "Up <b>.", "setting": "robust", "arm": "unitized", "control": "bn", "seeds": [*range(6)]},
        {**GIVEN, "name": "b", "says": "Not yet.", "setting": "later"},
    ]
    (tmp_path / "claims.json").write_text(json.dumps(claims))
    page = report.build_results(tmp_path, tmp_path / "out", claims=[tmp_path / "claims.json"]).read_text("utf-8")
    assert 'class="confirmed"' in page
    assert 'class="waiting"' in page
    assert "Up <b>" not in page
    assert "later; to show: higher; 0 of 2 seeds (no line of setting &#39;later&#39;)." in page
    text = (tmp_path / "out" / "results.md").read_text("utf-8")
    assert text.index("## Claims fixed before the runs") < text.index("## robust")
    row = next(row for row in text.splitlines() if row.startswith("| Up &lt;b>."))
    assert "| **confirmed** |" in row
    assert "| Not yet. | **waiting** |  | > 0 |  | " in text
    assert line().setting not in text


def test_each_file_of_claims_is_a_round_of_its_own(tmp_path: Path) -> None:
    for one in table(seeds=6, **CONFIRM):
        results.append(tmp_path / "results.jsonl", one)
    up = {**GIVEN, "says": "Up.", "setting": "robust", "arm": "unitized", "control": "bn", "seeds": [*range(6)]}
    (tmp_path / "first.json").write_text(json.dumps([up]))
    (tmp_path / "later.json").write_text(json.dumps([up, {**up, "name": "b", "setting": "later"}]))
    files = [tmp_path / "first.json", tmp_path / "later.json"]
    first, later = rounds(files, results.read(tmp_path / "results.jsonl"))
    assert first.judged[0].adjusted == first.judged[0].p
    assert later.judged[0].adjusted == pytest.approx(2 * first.judged[0].p)
    text = report.build_results(tmp_path, tmp_path, markdown=True, claims=files).read_text("utf-8")
    assert text.index("## Claims fixed before the runs, round 1") < text.index(
        "## Claims fixed before the runs, round 2"
    )
    assert "by Holm's adjustment over 1 claim." in text
    assert "by Holm's adjustment over 2 claims." in text
    fresh, joint = (
        "Confirmation: nothing was chosen by these accuracies.",
        "Confirming runs of several rounds together: ",
    )
    assert (fresh in text, joint in text) == (False, True)
    text = report.build_results(tmp_path, tmp_path, markdown=True, claims=files[:1]).read_text("utf-8")
    assert (fresh in text, joint in text) == (True, False)


def test_one_file_is_no_two_rounds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^claims must be different files, got '.*claims\.json' twice"):
        rounds([tmp_path / "claims.json", tmp_path / "claims.json"], [])
