import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_results import line

from icsbound._check import InputError
from icsbound.training.contrasts import contrasts, holm, summary


def test_differences_are_paired_by_seed() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.9, 6)
    gain = rng.normal(0.02, 0.005, 6)
    lines = [line(seed=s, accuracy=float(base[s])) for s in range(6)]
    lines += [line(seed=s, arm="unitized", accuracy=float(base[s] + gain[s])) for s in reversed(range(6))]
    lines += [line(seed=9, arm="unitized", accuracy=0.1)]  # no control on this seed: left out
    (found,) = contrasts(lines)
    assert (found.arm, found.control, found.seeds) == ("unitized", "bn", (0, 1, 2, 3, 4, 5))
    assert found.difference == pytest.approx(gain.mean())
    expected = stats.t.interval(0.95, 5, gain.mean(), stats.sem(gain))
    assert (found.low, found.high) == pytest.approx(expected)
    paired = stats.ttest_rel(base + gain, base)
    assert found.p == pytest.approx(paired.pvalue)
    assert found.resolved
    assert found.low < found.boot_low < found.difference < found.boot_high < found.high
    assert dict(found.where)["shift"] == "none"


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
    assert found["published"].difference == pytest.approx(0.02)
    # differences that are all the same, and 0: nothing to tell apart
    assert found["unitized:alpha_init=0.3"].p == 1.0
    without = [one for one in lines if one.arm != "published-batch"]
    assert {c.arm: c.control for c in contrasts(without)}["published"] == "bn"


def test_settings_are_kept_apart_and_contradictions_refused() -> None:
    lines = [
        line(seed=s, arm=arm, shift=shift, accuracy=0.5)
        for s in (0, 1)
        for arm in ("bn", "gn")
        for shift in ("none", "fog")
    ]
    assert [dict(c.where)["shift"] for c in contrasts(lines)] == ["none", "fog"]
    assert contrasts(lines[:1]) == []
    with pytest.raises(InputError, match=r"^results must hold each measurement once, got bn seed 0 twice"):
        contrasts([line(accuracy=0.5), line(accuracy=0.6)])


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
        line(seed=s, arm=arm, shift=shift, accuracy=accuracy + s * spread)
        for s in range(3)
        for shift in ("none", "fog")
        for arm, accuracy, spread in (("bn", 0.5, 0.01), ("gn", 0.6, 0.012))
    ]
    assert summary(lines)[0] == "shift none, bn: 51.00 % over 3 seeds"
    assert summary(lines)[1].startswith(
        "shift none, gn: 61.20 % over 3 seeds; +10.20 to bn (95 %: +9.70 to +10.70; p 0.0"
    )
    assert "not resolved" not in summary(lines)[1]
    close = [
        line(seed=s, arm=arm, accuracy=a)
        for s, (b, g) in enumerate([(0.5, 0.52), (0.5, 0.49)])
        for arm, a in (("bn", b), ("gn", g))
    ]
    assert summary(close)[1].endswith(", not resolved)")
    assert summary([line()]) == ["bn: 50.00 % over 1 seed"]
