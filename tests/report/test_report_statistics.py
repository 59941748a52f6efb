"""Intervals against scipy, pairing, ratios that are known, and certificates that are broken on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recorded
from hypothesis import given, settings
from hypothesis import strategies as hs
from scipy import stats

from icsbound.records import DistanceRecord, ResultRecord
from icsbound.report import statistics as st
from icsbound.report.runs import load


@settings(deadline=None, derandomize=True, max_examples=60)
@given(hs.integers(2, 12), hs.integers(0, 2**31), hs.floats(-3, 3))
def test_student_is_scipys_interval_and_test(count: int, seed: int, shift: float) -> None:
    values = np.random.default_rng(seed).normal(size=count) + shift
    found = st.student(values)
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert st.p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    # The interval leaves out 0 exactly where the test rejects.
    assert (found.verdict() != "not resolved") == (st.p_value(values) < 0.05)
    assert found.verdict() in ("not resolved", "higher" if values.mean() > 0 else "lower")


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3, 0.3], [0.1 + 0.2, 0.3]])  # the last differ by rounding alone
def test_no_interval_without_spread(values: list[float]) -> None:
    found = st.student(values)
    assert found.mean == pytest.approx(0.3)
    assert not found.known
    assert found.verdict() == "not resolved"
    assert st.p_value(values) == 1


def test_nothing_at_all_is_nan() -> None:
    found = st.student([])
    assert found.count == 0
    assert np.isnan(found.mean)
    assert np.isnan(found.exp().mean)


def test_pairing_uses_common_seeds_and_removes_what_they_share(tmp_path: Path) -> None:
    recorded.comparison(tmp_path, seeds=(0, 1, 2, 3))
    recorded.save(tmp_path / "bn-seed9", recorded.changed(recorded.of_run("bn", 9), ResultRecord, accuracy=0.1))
    study = load(tmp_path)
    paired = st.accuracy_difference(study, "unitized", "bn")
    assert paired.count == 4  # seed 9 has no partner
    assert paired.mean == pytest.approx(0.007, abs=1e-9)
    assert st.accuracy(study, "bn").std() > 1e-3
    assert paired.high - paired.low < 1e-9 or not paired.known


def test_accuracy_of_an_interrupted_run_does_not_count(tmp_path: Path) -> None:
    recorded.comparison(tmp_path)
    recorded.save(tmp_path / "bn-seed7", recorded.of_run("bn", 7)[:-1])
    study = load(tmp_path)
    assert set(st.accuracy(study, "bn").index) == {0, 1, 2}
    assert 7 in set(study.distances["seed"])
    assert 7 not in set(study.finished(study.distances)["seed"])


def test_ratio_finds_the_factor_that_was_planted(tmp_path: Path) -> None:
    study = load(recorded.comparison(tmp_path, seeds=range(5)))
    ratios = st.log_ratios(study, "unitized", "bn", "pooled")
    assert len(ratios) == 5 * 3 * 6
    # Arms of a seed share their noise, so the ratio is exact.
    assert st.ratio(ratios).mean == pytest.approx(0.5, rel=1e-12)
    early, late = st.early_and_late(ratios)
    assert (early.mean, late.mean) == pytest.approx((0.5, 0.5))


def test_ratio_is_taken_only_at_equal_steps(tmp_path: Path) -> None:
    recorded.save(tmp_path / "a", recorded.of_run("bn", 0))
    recorded.save(tmp_path / "b", recorded.of_run("unitized", 0, steps=(0, 1, 5, 9)))
    ratios = st.log_ratios(load(tmp_path), "unitized", "bn", "sample")
    assert set(zip(ratios["step_a"], ratios["step_b"], strict=True)) == {(0, 1)}


def test_layers_are_judged_together(tmp_path: Path) -> None:
    """Of many layers without an effect, some single intervals leave out 1; with the rate controlled almost none."""
    layers = [f"layer{i}" for i in range(120)]
    recorded.comparison(tmp_path, arms=("bn", "none"), layers=layers, views=("pooled",), steps=(0, 1))
    for seed in range(3):  # own noise for the second arm, whose factor is 1
        lines = recorded.of_run("none", 100 + seed, layers=layers, views=("pooled",), steps=(0, 1))
        own = [
            recorded.changed([line], type(line), run=f"none-seed{seed}", **({"seed": seed} if k == 0 else {}))[0]
            for k, line in enumerate(lines)
        ]
        (tmp_path / f"none-seed{seed}" / "records.jsonl").unlink()
        recorded.save(tmp_path / f"none-seed{seed}", own)
    study = load(tmp_path)
    table = st.ratio_by_layer(study, st.log_ratios(study, "none", "bn", "pooled"))
    alone = (table["low"] > 1) | (table["high"] < 1)
    assert alone.sum() > 0
    assert (table["verdict"] != "not resolved").sum() < alone.sum()
    assert list(table["layer"]) == layers


def frame(**values: float) -> pd.DataFrame:
    """One distance inside its bracket, and one with `values`."""
    good = recorded.distance(np.random.default_rng(0), "run", "layer", "pooled", (0, 1), 1.0, 0.0)
    rows = [vars(good), vars(recorded.changed([good], DistanceRecord, **values)[0])]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("field", "factor"),
    [("paired", 0.99), ("independent", 0.99), ("mean_shift", 1.01), ("norms", 1.01), ("lower", 1.01)],
)
def test_certificate_sees_every_bound_on_the_wrong_side(field: str, factor: float) -> None:
    value = frame()["value"][0]
    check = st.certificate(frame(**{field: factor * value}))
    assert (check.checked, check.violations) == (2, 1)
    assert st.certificate(frame()).violations == 0


def test_certificate_sees_a_loose_gap_and_counts_brackets() -> None:
    value = frame()["value"][0]
    check = st.certificate(frame(lower=value * (1 - 1e-6)))
    assert (check.loose, check.violations) == (1, 0)
    assert check.largest_relative_gap == pytest.approx(1e-6, rel=1e-3)
    assert check.largest_gap == pytest.approx(value * 1e-6, rel=1e-3)
    bracket = st.certificate(frame(value=None, lower=None, scale_free=None))
    assert (bracket.checked, bracket.bracket_only, bracket.violations, bracket.loose) == (1, 1, 0, 0)


def test_certificate_allows_rounding_but_no_more() -> None:
    value = frame()["value"][0]
    assert st.certificate(frame(paired=value * (1 - 1e-11))).violations == 0
    assert st.certificate(frame(paired=value * (1 - 1e-7))).violations == 1


def test_tightness_is_em_over_paired() -> None:
    assert st.tightness(frame()).to_list() == pytest.approx([0.9, 0.9])
    assert len(st.tightness(frame(paired=0.0, value=0.0))) == 1


@pytest.mark.parametrize("count", [1, 59, 60, 61, 1000])
def test_binning_keeps_every_row_and_the_last_step(count: int) -> None:
    steps = np.arange(count) ** 2
    rows = pd.DataFrame({"step": steps, "value": steps})
    found = st.binned(rows, "step", 60)
    assert len(found) == count
    assert found["step"].nunique() == min(count, 60)
    assert found["step"].max() == steps[-1]
    assert (found["step"] >= found["value"]).all()  # named by the last step of its bin


def test_evenly_spread_layers_keep_both_ends() -> None:
    names = [str(i) for i in range(200)]
    found = st.evenly(names, st.PANELS)
    assert len(found) == st.PANELS
    assert (found[0], found[-1]) == ("0", "199")
    assert st.evenly(names[:5], st.PANELS) == names[:5]


def test_allowed_share_needs_both_radii(tmp_path: Path) -> None:
    study = load(recorded.comparison(tmp_path))
    share = st.allowed(study)
    assert set(share["arm"]) == {"unitized"}  # bn has no finite radius
    assert len(share) == 3 * 3 * 6
    assert (share["share"] == share["value"] / 400).all()


def test_figures_take_one_side_and_one_law(tmp_path: Path) -> None:
    lines = recorded.of_run("bn", 0)
    inputs = [
        line for line in recorded.changed(lines, DistanceRecord, side="inputs") if isinstance(line, DistanceRecord)
    ]
    train = [line for line in recorded.changed(lines, DistanceRecord, law="train") if isinstance(line, DistanceRecord)]
    recorded.save(tmp_path, [*lines, *inputs, *train])
    distances = load(tmp_path).distances
    main = st.main_part(distances)
    assert len(distances) == 3 * len(main)
    assert set(main["side"]) == {"outputs"}
    assert set(main["law"]) == {"eval"}
