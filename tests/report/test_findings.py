"""The sentences of the page, where the records say what they must be."""

from __future__ import annotations

from pathlib import Path

import pytest
import recorded

from icsbound.records import DistanceRecord, ResultRecord
from icsbound.report import findings
from icsbound.report.finding import Finding, Group
from icsbound.report.runs import load


def of(folder: Path) -> dict[str, Group]:
    return {group.title: group for group in findings.all_groups(load(folder))}


def starting(group: Group, text: str) -> Finding:
    found = [finding for finding in group.findings if finding.text.startswith(text)]
    assert len(found) == 1, [finding.text for finding in group.findings]
    return found[0]


def accuracies(folder: Path, arm: str, values: list[float]) -> None:
    for seed, value in enumerate(values):
        (folder / f"{arm}-seed{seed}" / "records.jsonl").unlink(missing_ok=True)
        recorded.save(
            folder / f"{arm}-seed{seed}", recorded.changed(recorded.of_run(arm, seed), ResultRecord, accuracy=value)
        )


@pytest.mark.parametrize(
    ("values", "sentence", "verdict"),
    [
        (
            [0.974, 0.976, 0.981],  # differences 0.4, 0.6, 1.1 points
            "unitized reaches 97.70 % (95 % interval 96.8 to 98.6 %): "
            "+0.70 points (95 % interval −0.20 to +1.60) against bn.",
            "not resolved",
        ),
        (
            [0.979, 0.980, 0.981],  # 0.9, 1.0, 1.1
            "unitized reaches 98.00 % (95 % interval 97.8 to 98.2 %): "
            "+1.00 points (95 % interval +0.75 to +1.25) against bn.",
            "higher",
        ),
        (
            [0.960, 0.961, 0.963],  # -1.0, -0.9, -0.7
            "unitized reaches 96.13 % (95 % interval 95.8 to 96.5 %): "
            "−0.87 points (95 % interval −1.25 to −0.49) against bn.",
            "lower",
        ),
        (
            [0.985, 0.990, 1.000],  # 1.5, 2.0, 3.0; no accuracy exceeds 1
            "unitized reaches 99.17 % (95 % interval 97.3 to 100 %): "
            "+2.17 points (95 % interval +0.27 to +4.06) against bn.",
            "higher",
        ),
        (
            [0.970, 0.970, 0.970],  # equal differences prove nothing about their spread
            "unitized reaches 97.00 %: 0.00 points (the same at every seed: no interval) against bn.",
            "not resolved",
        ),
    ],
)
def test_accuracy(tmp_path: Path, values: list[float], sentence: str, verdict: str) -> None:
    accuracies(tmp_path, "bn", [0.970, 0.970, 0.970])
    accuracies(tmp_path, "unitized", values)
    found = starting(of(tmp_path)["Accuracy"], "unitized reaches")
    assert found.text == sentence
    assert found.verdict == verdict


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    group = of(recorded.comparison(tmp_path, seeds=(0,)))["Accuracy"]
    found = starting(group, "unitized reaches")
    assert "+0.70 points (one seed: no interval) against bn" in found.text
    assert found.verdict == "not resolved"
    assert "1 seed" in group.basis


def test_floor(tmp_path: Path) -> None:
    groups = of(recorded.comparison(tmp_path))
    assert starting(groups["Accuracy"], "Every arm reaches the floor of 96 %").verdict == "holds"
    assert "Look at this first" not in groups
    accuracies(tmp_path, "gn", [0.95, 0.97, 0.94])
    groups = of(tmp_path)
    alert = starting(groups["Look at this first"], "gn stays below the 96 % that its data set allows: 95.3 %.")
    assert alert.verdict == "alert"
    assert not [f for f in groups["Accuracy"].findings if "floor" in f.text]


def test_no_floor_where_none_is_known(tmp_path: Path) -> None:
    groups = of(recorded.comparison(tmp_path, dataset="elsewhere"))
    assert not [f for group in groups.values() for f in group.findings if "floor" in f.text]


def test_shift_against_the_control(tmp_path: Path) -> None:
    groups = of(recorded.comparison(tmp_path, arms=("bn", "unitized", "gn"), seeds=range(4)))
    group = groups["How far the layers moved, pooled view"]
    assert "n = 256, d = 16" in group.basis
    found = starting(group, "The layers of unitized moved 0.50 times")
    assert "as far as those of bn" in found.text
    starting(groups["How far the layers moved, sample view"], "The layers of gn moved 2.00 times")


def test_shift_verdict_comes_from_the_interval(tmp_path: Path) -> None:
    """Own noise for each arm: a factor of 2 is found, by layer and in all, and its interval is given."""
    recorded.comparison(tmp_path, arms=("bn",), seeds=range(5), noise=0.1)
    for seed in range(5):
        lines = recorded.of_run("gn", 50 + seed, noise=0.1)
        lines = [
            recorded.changed([line], type(line), run=f"gn-seed{seed}", **({"seed": seed} if k == 0 else {}))[0]
            for k, line in enumerate(lines)
        ]
        recorded.save(tmp_path / f"gn-seed{seed}", lines)
    found = starting(of(tmp_path)["How far the layers moved, pooled view"], "The layers of gn moved ")
    assert found.verdict == "higher"
    assert "(95 % interval " in found.text
    assert "Layer by layer: all 3 higher." in found.text


def test_an_arm_alone_is_described(tmp_path: Path) -> None:
    recorded.save(tmp_path, recorded.of_run("unitized", 0))
    group = of(tmp_path)["How far the layers moved, pooled view"]
    assert len(group.findings) == 1
    assert group.findings[0].verdict == ""
    assert group.findings[0].text.startswith("In unitized, ")
    assert "18 distances" in group.findings[0].basis


def test_what_is_said_of_distances_says_n_d_and_estimator(tmp_path: Path) -> None:
    recorded.comparison(tmp_path / "compared", arms=("bn", "unitized", "published"))
    recorded.save(tmp_path / "alone", recorded.judged(recorded.of_run("gn", 0)))
    brackets = recorded.changed(recorded.of_run("gn", 1), DistanceRecord, value=None, lower=None, scale_free=None)
    recorded.save(tmp_path / "brackets", brackets)
    said = 0
    for name in ("compared", "alone", "brackets"):
        for title, group in of(tmp_path / name).items():
            for finding in group.findings:
                if title in ("What moved", "What the exact distance adds, and what certifies it") or any(
                    word in title + finding.text for word in ("How far the layers moved", "its layers used at most")
                ):
                    basis = group.basis + finding.basis
                    assert "n = 256, d = " in basis, finding.text
                    assert "exact assignment." in basis, finding.text
                    said += 1
    assert said == 8 + 7 + 1


def test_means_of_an_arm_without_control_have_intervals_over_seeds(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        recorded.save(tmp_path / str(seed), recorded.of_run("unitized", seed, noise=0.1))
    (found,) = of(tmp_path)["How far the layers moved, pooled view"].findings
    assert found.text.count("(95 % interval ") == 4  # furthest, least, first, last
    assert found.basis == "54 distances; means and intervals over 3 seeds."
    recorded.save(tmp_path / "one", recorded.of_run("unitized", 0))
    (found,) = of(tmp_path / "one")["How far the layers moved, pooled view"].findings
    assert "interval" not in found.text
    assert found.basis == "18 distances; a single run, and so no interval."
    used = starting(of(tmp_path)["Alpha, and what the layer allows"], "The noise-free radius of unitized")
    assert "(95 % interval " in used.text


def test_exactness_by_view(tmp_path: Path) -> None:
    group = of(recorded.comparison(tmp_path))["What the exact distance adds, and what certifies it"]
    pooled = starting(group, "In the pooled view")
    assert "smaller than the paired displacement in 108 of 108 distances: on average by 10 %" in pooled.text
    sample = starting(group, "In the sample view")
    assert "equals the paired displacement in all 108 distances" in sample.text
    certified = starting(group, "All 216 exact distances lie inside their bounds")
    assert certified.verdict == "holds"
    assert "1.0 × 10⁻¹² of its size" in certified.text


def test_a_broken_bracket_is_an_alert(tmp_path: Path) -> None:
    recorded.comparison(tmp_path)
    recorded.save(tmp_path / "x", recorded.changed(recorded.of_run("bn", 8), DistanceRecord, paired=0.0))
    groups = of(tmp_path)
    alert = starting(groups["Look at this first"], "Of 252 exact distances, 36 lie outside their bounds")
    assert alert.verdict == "alert"
    exact = groups["What the exact distance adds, and what certifies it"]
    assert not [f for f in exact.findings if f.verdict == "holds"]


def test_alpha(tmp_path: Path) -> None:
    groups = of(recorded.comparison(tmp_path, arms=("bn", "unitized", "unitized-1", "published")))
    group = groups["Alpha, and what the layer allows"]
    moved = starting(group, "In unitized alpha went from 0.500 to 0.400, by −0.100")
    assert moved.verdict == "not resolved"  # the same at every seed: no spread to judge by
    starting(group, "In unitized-1 alpha stayed where it started, at 1.00.")
    starting(group, "In published alpha went from 0 to 0.200")
    starting(group, "published has no noise-free radius (R = ∞)")
    starting(group, "The noise-free radius of unitized allows a shift of R + R′")
    assert not [f for f in group.findings if f.text.startswith("In bn")]


def test_interrupted_and_missing_runs_come_first(tmp_path: Path) -> None:
    recorded.comparison(tmp_path)
    (tmp_path / "unitized-seed2" / "records.jsonl").unlink()
    path = tmp_path / "bn-seed1" / "records.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:20]))
    title, group = next(iter(of(tmp_path).items()))
    assert title == "Look at this first"
    starting(group, "1 run of the plan left no record: unitized-seed2.")
    starting(group, "bn, seed 1, did not finish: its last record is of step 4 of 36.")
    assert {finding.verdict for finding in group.findings} == {"alert"}


def test_verdicts_hold_over_the_whole_page(tmp_path: Path) -> None:
    """Those of a monitor were judged step by step; the page judges all together, and says so."""
    for name, among in (("all", None), ("steps", 6)):
        recorded.save(tmp_path / name, recorded.judged(recorded.of_run("bn", 0), among=among))
    of_all, of_steps = (of(tmp_path / name)["What moved"].basis for name in ("all", "steps"))
    for basis in (of_all, of_steps):
        assert "Of all that is called moved, at most 5 % are expected to be false" in basis
        assert "whatever the dependence between layers and steps. " in basis
    assert "All are judged together here; what a monitor said as the training went, of one step each, may" in of_steps
    assert "judged together" not in of_all


def test_only_brackets(tmp_path: Path) -> None:
    lines = recorded.changed(recorded.of_run("bn", 0), DistanceRecord, value=None, lower=None, scale_free=None)
    recorded.save(tmp_path, lines)
    group = of(tmp_path)["What the exact distance adds, and what certifies it"]
    starting(group, "36 distances were taken as a bracket only")
    assert "How far the layers moved, pooled view" not in of(tmp_path)
