"""Verdicts on the studies of trained networks in both directions, and what they say where little was measured."""

import made
import pytest
from made import verdict

from icsbound.records import Record

LAYERS = range(7)


def reduction(share: float, ratio: float, seeds: range = made.SEEDS) -> tuple[str, str]:
    curve = "scale-free, sample view"
    return verdict(
        "reduction",
        made.curve("reduction", "construction", "W1 after / before", (1, 0.1), lambda s: 1 / s, lambda s: 1 / s,
                   "equal", tolerance=1e-6, noise=0),
        made.curve("reduction", "share", curve, LAYERS, lambda x: share, noise=0.3, seeds=seeds),
        made.curve("reduction", "training", curve, LAYERS, lambda x: ratio, seeds=seeds),
    )  # fmt: skip


def test_reduction() -> None:
    word, text = reduction(0.3, 1.2)
    assert word == "holds"
    assert text.startswith("A pair of laws moves 10.0 times as far after batch norm as before, at equal variance. ")
    assert "In training (scale-free, sample view) it enlarged the shift in " in text
    assert "on average it did" not in text
    word, text = reduction(0.3, 0.6)
    assert word == "holds"
    assert "It need not reduce the shift, but on average it did" in text
    word, text = reduction(0.0, 0.6)
    assert word == "fails"
    assert "It never enlarged it: the construction shows a possibility and no more." in text
    word, text = reduction(0.0, 0.6, range(1))  # one seed has no interval
    assert word == "not resolved"
    assert "It never enlarged it" not in text


@pytest.mark.parametrize(("survives", "word"), [(0.4, "holds"), (0.01, "fails")])
def test_moments(survives: float, word: str) -> None:
    said, text = verdict(
        "moments",
        made.curve("moments", "training", "survives matching", LAYERS, lambda x: survives),
        made.curve("moments", "training", "seen by: coordinates", LAYERS, lambda x: 0.7, lambda x: 1.0, "at most"),
        made.curve("moments", "survivors", "coordinates", LAYERS, lambda x: 0.6, lambda x: 1.0, "at most"),
        made.curve("moments", "pairs", "mirrored", (1, 64), lambda d: 0.9, lambda d: 0.85, "at least"),
    )
    assert said == word
    assert "Cheap lower bounds see, of what survives and on average: coordinates 60.0 % (59.9 to 60.1)." in text
    assert ("That is negligible, less than 5 %." in text) == (word == "fails")
    assert "coordinates 70.0 % (69." in text
    assert "0.900 (0.891 to 0.909) (mirrored) of √(2d) apart at d = 64" in text


def test_moments_below_their_least_fail() -> None:
    word, text = verdict(
        "moments",
        made.curve("moments", "training", "survives matching", LAYERS, lambda x: 0.4),
        made.curve("moments", "pairs", "mirrored", (1, 64), lambda d: 0.7, lambda d: 0.85, "at least"),
    )
    assert word == "fails"
    assert "measured 0.700, predicted at least 0.850" in text or "measured 0.70" in text


def alpha(
    end: float, *, frozen: float = 0.95, trained: float = 0.97, own: str = "trained", **others: float
) -> tuple[str, str]:
    """Accuracies of alpha trained and frozen, and of `others`, whose names are those of their curves in short."""
    names = {"random": "frozen at random", "faster": "trained, rate × 10", "published": "as published"}
    names |= {"batch": "as published, batch scope", "scaled": "batch norm, γ × √(L/C)"}
    names |= {"kept": "as published, κ keeps the rms", "final": "frozen at its final values"}

    def ends(name: str, value: float) -> list[Record]:
        return made.curve("alpha", "accuracy", name, [0], lambda x: value, noise=0.001)

    return verdict(
        "alpha",
        made.curve("alpha", "alpha", own, (0, 100), lambda step: 0.45 if step else 0.5, noise=0.002),
        made.curve("alpha", "reach", own, (0, 100), lambda step: end if step else 0.0),
        ends(own, trained),
        ends("frozen at 0.5", frozen),
        ends("batch scope", 0.99),  # of the default form: batch norm, and no control of its own
        *(ends(names[name], value) for name, value in others.items()),
    )


def test_alpha() -> None:
    word, text = alpha(0.4)
    assert word == "holds"
    assert "the channel of alpha that moved most is 0.400" in text
    assert "the mean over channels moved by −0.0" in text
    word, text = alpha(0.001)
    assert word == "fails"
    assert "Alpha stayed where it started." in text
    word, text = alpha(0.4, frozen=0.99)
    assert word == "fails"
    assert "More accurate than what it is a control of: frozen at 0.5." in text
    word, text = alpha(0.4, frozen=0.97)
    assert word == "not resolved"
    assert "Not told apart from what it is a control of: frozen at 0.5." in text


@pytest.mark.parametrize(
    ("seeds", "end", "word"),
    [(range(1), 0.0, "not resolved"), (range(5), 0.0, "fails"), (range(1), 0.4, "not resolved")],
)
def test_one_seed_does_not_say_that_alpha_stayed(seeds: range, end: float, word: str) -> None:
    said, text = verdict(
        "alpha",
        made.curve("alpha", "alpha", "trained", (0, 100), lambda step: 0.5, seeds=seeds, noise=0),
        made.curve("alpha", "reach", "trained", (0, 100), lambda step: end if step else 0.0, seeds=seeds, noise=0),
        made.curve("alpha", "accuracy", "trained", [0], lambda x: 0.97, seeds=seeds),
    )
    assert said == word
    assert ("Alpha stayed where it started." in text) == (word == "fails")


def test_alpha_without_its_course_is_judged_by_its_controls() -> None:
    ends = [
        made.curve("alpha", "accuracy", name, [0], lambda x, value=value: value, noise=0.001)
        for name, value in (("trained", 0.95), ("frozen at 1", 0.97))
    ]
    word, text = verdict("alpha", *ends)
    assert word == "fails"
    assert "was not recorded: its runs were trained without a monitor." in text
    assert "More accurate than what it is a control of: frozen at 1." in text
    assert verdict("alpha", ends[0])[0] == "not resolved"
    assert verdict("alpha", ends[1]) == ("not resolved", "No network with a trained alpha was measured.")


def test_every_control_of_alpha_is_judged_by_what_it_controls() -> None:
    better = {"faster": 0.98, "random": 0.96, "published": 0.95, "batch": 0.93, "scaled": 0.94}
    word, text = alpha(0.4, **better)
    assert word == "holds"
    assert "with alpha of the same values by chance: frozen at random, +2.00 points" in text
    assert "As published, less that with a gain alone: as published, batch scope, +2.00 points" in text
    controls = {"random": "frozen at random", "scaled": "batch norm, γ × √(L/C)"}
    controls["final"] = "frozen at its final values"
    for name, curve in controls.items():
        word, text = alpha(0.4, **better | {name: 0.99})
        assert word == "fails"
        assert f"More accurate than what it is a control of: {curve}." in text
    word, text = alpha(0.4, **better | {"kept": 0.99})
    assert word == "holds"
    assert "adds to one that keeps the root mean square: −4.00 points" in text
    # Better than alpha as published, but no control of it, and worse than alpha at ten times the rate.
    assert alpha(0.4, **better | {"random": 0.965})[0] == "holds"
    word, text = alpha(0.4, **better | {"batch": 0.95})
    assert word == "not resolved"
    assert "Not told apart from what it is a control of: as published, batch scope." in text


def test_alpha_is_judged_at_ten_times_the_rate_where_there_is_no_other() -> None:
    word, text = alpha(0.4)
    faster, said = alpha(0.4, own="trained, rate × 10")
    assert faster == word == "holds"
    assert said == "Alpha was trained at ten times its rate alone. " + text


@pytest.mark.parametrize(("raw", "word"), [(0.8, "holds"), (0.95, "fails"), (0.9, "not resolved")])
def test_information(raw: float, word: str) -> None:
    # Both curves of one seed share their noise unless they are shifted against one another.
    said, text = verdict(
        "information",
        made.curve("information", "by layer", "raw, unitized", LAYERS, lambda x: raw, noise=0.0),
        made.curve("information", "by layer", "batch norm, unitized", LAYERS, lambda x: 0.9, noise=0.02),
        made.curve("information", "offset", "raw, unitized", (0, 1000), lambda x: 0.1),
        made.curve("information", "offset", "batch norm, unitized", (0, 1000), lambda x: 0.9),
        made.curve("information", "norm", "linear probe", (0.0, 1.0), lambda a: 1 - 0.5 * a, noise=0),
        made.curve("information", "trained", "α as trained", LAYERS, lambda x: 0.9, noise=0),
        made.curve("information", "trained", "α = 1", LAYERS, lambda x: 0.8, noise=0.01),
    )
    assert said == word
    assert "it gains by that alpha over alpha = 1: +10.0" in text or "alpha = 1: +9.9" in text
    assert "With means 1,000 deviations away from 0 it is right in 10" in text or "it is right in 9.9" in text
    assert "explains 100.0 % at α = 0 and 50.0 % at α = 1" in text


def shift(slope: float) -> tuple[str, str]:
    """Accuracy along a line of distances; the moments say the same."""
    conditions = {f"shift{k}": 0.2 * k for k in range(1, 6)}
    lines = []
    for arm in ("bn", "gn"):
        for name, far in conditions.items():
            curve = f"{name} · {arm}"
            for panel in ("distance", "moments"):
                lines.append(
                    made.curve(
                        "shift", f"{panel} against accuracy", curve, [far], lambda x: 0.5 + slope * x, noise=0.001
                    )
                )
            lines.append(made.curve("shift", "by layer", curve, LAYERS, lambda x, far=far: far * (1 + x)))
            lines.append(made.curve("shift", "accuracy", curve, [0], lambda x, far=far: 0.5 + slope * far))
    return verdict("shift", *lines)


def test_shift() -> None:
    word, text = shift(-0.3)
    assert word == "not resolved"  # every seed says −1 exactly: there is no interval
    assert "of −1.00 (the same at every seed: no interval)" in text
    lines = _scattered(-1.0)
    assert lines[0] == "holds"
    assert _scattered(1.0)[0] == "fails"


def _scattered(sign: float) -> tuple[str, str]:
    """Ranks that differ from seed to seed, on one side of 0 at all of them."""
    lines = []
    for panel in ("distance", "moments"):
        for seed in made.SEEDS:
            order = [0.0, 1.0, 2.0, 3.0, 4.0]
            order[seed % 4], order[seed % 4 + 1] = order[seed % 4 + 1], order[seed % 4]
            if seed == 4:
                order.sort()
            for k, y in enumerate(order):
                lines.append(
                    made.curve("shift", f"{panel} against accuracy", f"shift{k} · bn", [float(k)],
                               lambda x, y=y: 10 + sign * y, seeds=[seed], noise=0)
                )  # fmt: skip
    lines.append(made.curve("shift", "by layer", "shift0 · bn", LAYERS, lambda x: 1 + x))
    lines.append(made.curve("shift", "accuracy", "shift0 · bn", [0], lambda x: 0.5))
    return verdict("shift", *lines)
