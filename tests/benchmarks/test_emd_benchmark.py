"""The assignment benchmark: its classes, its marks, and that a wrong peer stops it."""

import emd as bench
import pytest
import torch
from emd_clouds import Case, latent, synthetic


def row(own: float, laprust: float, pot: float, kind: str = "far", source: str = "synthetic") -> dict:
    seconds = {"icsbound": own, "laprust": laprust, "POT": pot}
    return {
        "kind": kind,
        "source": source,
        "case": f"own {own}",
        "n": 64,
        "d": 4,
        "matrix_seconds": 1.0,
        "seconds": seconds,
    }


def test_goals_are_marked_met_or_missed_by_class() -> None:
    rows = [row(1, 4, 9), row(1, 1, 9, "ties"), row(3, 9, 2, "ties", "layer outputs")]
    lines = {
        line[:17].strip(): line for line in bench.table(rows, ["icsbound", "laprust", "POT", "scipy"]).splitlines()
    }
    assert lines["far"].split()[4:12] == ["0.250", "met", "0.111", "0.250", "met", "0.250", "met", "-"]
    assert lines["ties"].split()[4:6] == ["0.577", "MISSED"]  # sqrt(1/1 * 3/9)
    assert lines["ties"].endswith("own 3")  # the worst case: 3 / min(9, 2)
    assert "1.500 MISSED" in lines["ties"]
    assert lines["layer outputs"].split()[3] == "1"
    assert lines["all"].split()[2] == "3"


def test_classes_follow_from_the_distance() -> None:
    case = Case(None, "", "", latent(3, 4, 0.1))
    assert [bench.kind(case, v, 1.0) for v in (1.0, 0.995, 0.9)] == list(bench.BY_DISTANCE)
    assert bench.kind(case._replace(kind="ties"), 0.5, 1.0) == "ties"


def test_wide_clouds_are_compared_with_their_cost_matrix() -> None:
    wide = {**row(0.5, 1, 1), "d": 4000}
    assert "1.500 MISSED times the cost matrix" in bench.flat([wide, row(9, 1, 1)])
    assert bench.flat([row(9, 1, 1)]) == ""


def test_every_synthetic_case_is_measured_and_values_are_compared() -> None:
    torch.manual_seed(0)
    names = bench.solvers()
    for case in synthetic():
        found = bench.measure(case, 40, 1, 1.0, {name: names[name] for name in ("icsbound", "POT", "scipy")})
        assert found["seconds"].keys() == {"icsbound", "POT", "scipy"}
        assert found["kind"] in {*bench.BY_DISTANCE, "independent", "ties", "repeated points", "shuffled"}
    wrong = {**names, "POT": lambda c, shift, pair: 1.001 * names["scipy"](c, shift, pair)}
    with pytest.raises(SystemExit, match="POT found"):
        bench.measure(synthetic()[0], 40, 1, 1.0, wrong)
