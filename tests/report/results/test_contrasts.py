import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lines import line, shifted, table
from scipy import stats

from icsbound._check import InputError
from icsbound.report.controls import CONTROLS
from icsbound.report.intervals import holm
from icsbound.report.results.contrasts import averaged, contrasts, incomplete, summary
from icsbound.report.results.groups import case_of, case_text
from icsbound.training import arms


def test_differences_are_paired_by_seed() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.9, 6)
    gain = rng.normal(0.02, 0.005, 6)
    lines = [line(seed=s, accuracy=float(base[s])) for s in range(6)]
    lines += [line(seed=s, arm="unitized", accuracy=float(base[s] + gain[s])) for s in reversed(range(6))]
    lines += [line(seed=9, arm="unitized", accuracy=0.1)]  # no control on this seed: left out
    (found,) = contrasts(lines)
    assert (found.arm, found.control, found.seeds) == ("unitized", "bn", (0, 1, 2, 3, 4, 5))
    assert found.interval.mean == pytest.approx(gain.mean())
    expected = stats.t.interval(0.95, 5, gain.mean(), stats.sem(gain))
    assert (found.interval.low, found.interval.high) == pytest.approx(expected)
    assert found.p == pytest.approx(stats.ttest_rel(base + gain, base).pvalue)
    assert found.verdict == "higher"
    assert found.interval.low < found.boot[0] < found.interval.mean < found.boot[1] < found.interval.high
    assert dict(found.case)["shift"] == "none"


def test_each_arm_is_judged_by_its_own_control() -> None:
    lines = [
        line(seed=s, arm=arm, accuracy=accuracy + s / 100)
        for s in range(3)
        for arm, accuracy in (
            ("bn", 0.5),
            ("published", 0.6),
            ("published-batch", 0.58),
            ("unitized:alpha_init=0.3", 0.5),
        )
    ]
    found = {c.arm: c for c in contrasts(lines)}
    assert {arm: c.control for arm, c in found.items()} == {
        "published": "published-batch",
        "published-batch": "bn",
        "unitized:alpha_init=0.3": "bn",
    }
    assert found["published"].interval.mean == pytest.approx(0.02)
    without = [one for one in lines if one.arm != "published-batch"]
    assert {c.arm: c.control for c in contrasts(without)}["published"] == "bn"


@pytest.mark.parametrize("arm", arms.ARMS)
def test_controls_are_those_of_the_arms(arm: str) -> None:
    first, *_ = CONTROLS.get(arm, ("bn",))
    assert (first if first != arm else None) == arms.ARMS[arm].control


@pytest.mark.parametrize("gain", [0.0, 0.01])
def test_equal_differences_have_no_spread_to_judge_by(gain: float) -> None:
    lines = [line(seed=s, arm=a, accuracy=0.5 + (a == "gn") * gain) for s in range(3) for a in ("bn", "gn")]
    (found,) = contrasts(lines)
    assert (found.p, found.verdict, found.interval.known) == (1.0, "not resolved", False)


# Each of these makes another experiment of a run.
@pytest.mark.parametrize(
    "change",
    [
        {"setting": "other"},
        {"phase": "confirm"},
        {"dataset": "cifar10"},
        {"model": "resnet20"},
        {"batch_size": 64},
        {"epochs": 6},
        {"split": "validation"},
        {"dropout": 0.4},
        {"lr": 0.2},
        {"precision": "bf16"},
        {"shift": "fog", "severity": 1},
        {"perturbation": "prune:0.5"},
        {"remedy": "mix:0.5"},
        {"eval_batch": 4},
    ],
)
def test_unlike_runs_are_never_compared(change: dict[str, object]) -> None:
    lines = [line(seed=s) for s in range(3)] + [line(seed=s, arm="gn", accuracy=0.6, **change) for s in range(3)]
    assert contrasts(lines) == []
    assert len(contrasts([*lines, *(line(seed=s, accuracy=0.4 + s / 9, **change) for s in range(3))])) == 1
    assert contrasts([dataclasses.replace(one, device="cuda") for one in lines]) == []


def test_what_decides_speed_alone_does_not_part_runs() -> None:
    lines = [line(seed=s, accuracy=0.5, threads=1) for s in range(2)]
    lines += [line(seed=s, arm="gn", accuracy=0.6 + s / 9, threads=4) for s in range(2)]
    assert len(contrasts(lines)) == 1


def test_holm_is_over_the_contrasts_of_a_setting_and_phase() -> None:
    lines = table(seeds=5) + table(seeds=5, phase="confirm") + table(seeds=5, setting="other")
    found = contrasts(lines)
    assert [c.family for c in found] == [2] * 6
    assert all(c.adjusted == pytest.approx(min(1.0, 2 * c.p)) or c.adjusted >= c.p for c in found)
    both = [c for c in found if c.group == found[0].group]
    assert [c.adjusted for c in both] == holm([c.p for c in both])


def test_a_measurement_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"^results must hold each measurement once, got demo, bn, seed 0, fog 2 with accuracy 0\.5 and 0\.6$",
    ):
        contrasts([line(accuracy=a, shift="fog", severity=2) for a in (0.5, 0.6)])
    assert contrasts([line(), line()]) == []


def test_shifts_are_averaged_within_a_run() -> None:
    lines = shifted(seeds=3)
    found = [one for one in averaged(lines) if one.shift != "none"]
    assert len(found) == 9
    assert {case_text(case_of(one)) for one in found} == {"mean of 2 corruptions at severities 1, 3, 5"}
    own = [one.accuracy for one in lines if (one.arm, one.seed) == ("gn", 2) and one.shift != "none"]
    mean = next(one for one in found if (one.arm, one.seed) == ("gn", 2))
    assert mean.accuracy == pytest.approx(np.mean(own))
    # a run that lacks a case has another mean, and none is made of it
    partial = [one for one in lines if (one.arm, one.seed, one.shift, one.severity) != ("gn", 2, "fog", 5)]
    assert len([one for one in averaged(partial) if one.shift != "none"]) == 8
    assert (incomplete(lines), incomplete(partial)) == (0, 1)
    single = [one for one in lines if (one.shift, one.severity) in (("none", 0), ("fog", 3))]
    assert averaged(single) == single


def test_runs_that_were_measured_under_other_cases_have_a_mean_of_their_own() -> None:
    rounds = {(0, 1): (("fog", 3),), (2, 3): (("contrast", 3), ("blur", 3))}
    lines = [
        line(arm=arm, seed=seed, accuracy=0.1 * seed + 0.01 * (shift == "blur"), shift=shift, severity=severity)
        for seeds, cases in rounds.items() for seed in seeds for shift, severity in cases for arm in ("bn", "gn")
    ]  # fmt: skip
    found = averaged(lines)
    assert incomplete(lines) == 0
    assert len(found) == 8
    assert {(one.seed, case_text(case_of(one))) for one in found} == {
        (0, "fog 3"), (1, "fog 3"),
        (2, "mean of 2 corruptions at severity 3"), (3, "mean of 2 corruptions at severity 3"),
    }  # fmt: skip
    assert [one.accuracy for one in found if one.seed == 3] == pytest.approx([0.305, 0.305])
    assert {dict(c.case)["shift"]: c.seeds for c in contrasts(found)} == {
        "fog": (0, 1), "mean of 2 corruptions at severity 3": (2, 3),
    }  # fmt: skip


def test_cases_stay_apart_where_two_means_would_have_one_name() -> None:
    cases = {0: ("fog", "blur"), 1: ("fog", "snow")}
    lines = [line(arm=arm, seed=seed, shift=shift, severity=3)
             for seed, shifts in cases.items() for shift in shifts for arm in ("bn", "gn")]  # fmt: skip
    assert {(one.seed, one.shift) for one in averaged(lines)} == {(0, "fog"), (0, "blur"), (1, "fog"), (1, "snow")}
    assert len(averaged(lines)) == len(lines)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set[int]()
        for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            if p[index] * (len(p) - rank) >= level:
                break
            rejected.add(index)
        assert {i for i, a in enumerate(adjusted) if a < level} == rejected


def test_the_summary_says_what_varies_and_what_is_not_resolved() -> None:
    lines = [
        line(seed=s, arm=arm, shift=shift, severity=severity, accuracy=accuracy + s * spread)
        for s in range(3)
        for shift, severity in (("none", 0), ("fog", 1))
        for arm, accuracy, spread in (("bn", 0.5, 0.01), ("gn", 0.6, 0.012))
    ]
    assert summary(lines)[0] == "bn: 51.00 % over 3 seeds"
    assert summary(lines)[1].startswith("gn: 61.20 % over 3 seeds; +10.20 to bn (95 %: +9.70 to +10.70; p 0.0")
    assert summary(lines)[2] == "fog 1, bn: 51.00 % over 3 seeds"
    assert "not resolved" not in summary(lines)[1]
    close = [
        line(seed=s, arm=arm, accuracy=a, batch_size=size)
        for size in (4, 8)
        for s, (b, g) in enumerate([(0.5, 0.52), (0.5, 0.49)])
        for arm, a in (("bn", b), ("gn", g))
    ]
    assert summary(close)[1].startswith("batch size 4, gn: ")
    assert summary(close)[1].endswith(", not resolved)")
    assert summary([line()]) == ["bn: 50.00 % over 1 seed"]
    assert summary([line(), line(arm="gn", accuracy=0.6)])[1] == "gn: 60.00 % over 1 seed; +10.00 to bn (no interval)"
