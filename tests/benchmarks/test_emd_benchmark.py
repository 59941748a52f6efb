"""The assignment benchmark: its classes, its marks, and that a wrong peer stops it."""

import dataclasses
import io
from pathlib import Path

import emd as bench
import numpy as np
import pyarrow
import pytest
import torch
from emd_clouds import Case, cifar10, digits, latent, synthetic
from PIL import Image
from pyarrow import parquet

from icsbound.training import hub


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
        "over": [],
    }


def test_goals_are_marked_met_or_missed_by_class() -> None:
    rows = [row(1, 4, 9), row(1, 1, 9, "ties"), row(3, 9, 2, "ties", "layers, digits")]
    lines = {
        line[:17].strip(): line for line in bench.table(rows, ["icsbound", "laprust", "POT", "scipy"]).splitlines()
    }
    assert lines["far"].split()[4:12] == ["0.250", "met", "0.111", "0.250", "met", "0.250", "met", "-"]
    assert lines["ties"].split()[4:6] == ["0.577", "MISSED"]  # sqrt(1/1 * 3/9)
    assert lines["ties"].endswith("own 3")  # the worst case: 3 / min(9, 2)
    assert "1.500 MISSED" in lines["ties"]
    assert lines["layers, digits"].split()[3] == "1"
    assert lines["all"].split()[2] == "3"


def slow(*problem: object) -> float:
    """A peer that would never end."""
    while len(problem[0]) > 8:  # but for the small problem that every process begins with
        pass
    return 0.0


def test_a_peer_beyond_the_limit_is_ended_and_its_time_is_a_bound() -> None:
    names = bench.solvers()
    peers = {"icsbound": names["icsbound"], "laprust": slow, "POT": names["POT"], "scipy": slow}
    found = bench.measure(synthetic()[0], 40, 3, peers, limit=0.3, tired={"scipy": 0.2, "lapx": 9.0})
    assert found["over"] == ["laprust", "scipy"]
    seconds = found["seconds"]
    assert 0 < seconds["laprust"] <= 0.5  # what it had used
    assert seconds["scipy"] == 0.2
    assert 0 < seconds["POT"] < 0.1
    last = bench.table([found], peers).splitlines()[-1].split()
    assert last[4:6] == [f"≤{seconds['icsbound'] / seconds['laprust']:.3f}", "met"]
    assert last[6] == f"{seconds['icsbound'] / seconds['POT']:.3f}"
    assert f"≤{seconds['icsbound'] / 0.2:.3f}" in last[10:]
    late = {**row(0.9, 1.0, 1.0), "over": ["laprust", "POT"]}
    assert "≤0.900 OPEN" in bench.table([late], ["icsbound", "laprust", "POT"])


def test_a_peer_that_fails_stops_the_benchmark(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*problem: object) -> float:
        raise ArithmeticError("no solution")

    names = {"icsbound": bench.solvers()["icsbound"], "POT": broken}
    with pytest.raises(SystemExit, match="a solver ended with status"):
        bench.measure(synthetic()[0], 40, 1, names)
    assert "ArithmeticError: no solution" in capfd.readouterr().err


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
        found = bench.measure(case, 40, 1, {name: names[name] for name in ("icsbound", "POT", "scipy")})
        assert found["seconds"].keys() == {"icsbound", "POT", "scipy"}
        assert found["kind"] in {*bench.BY_DISTANCE, "independent", "ties", "repeated points", "shuffled"}
    wrong = {**names, "POT": lambda c, shift, pair: 1.001 * names["scipy"](c, shift, pair)}
    with pytest.raises(SystemExit, match="POT found"):
        bench.measure(synthetic()[0], 40, 1, wrong)


def test_large_clouds_are_each_charged_with_their_own_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first case leaves a peak behind, under which the next would hide."""
    monkeypatch.setattr(bench, "LARGE", n := 2100)  # a matrix beyond what an allocator keeps for reuse
    rows = bench.large(list)
    assert len(rows) == 3
    assert all(8 * n * n <= row["bytes"] < 3 * 8 * n * n for row in rows)
    assert all(row["seconds"] > 0 and row["d"] == 64 for row in rows)
    *_, last = capsys.readouterr().out.split("\n\n")[0].splitlines()
    slowest = max(row["seconds"] for row in rows)
    assert last.startswith(f"2100 rows: d = 64 {bench.mark(slowest, 5.0)} (5.0 s), 0.0")  # no other width was there


def test_layers_are_those_of_the_network_at_both_steps() -> None:
    found = digits(30, gaps=(1, 3))
    cases = list(found.cases(bench.VIEWS))
    assert len(cases) == 2 * 2 * 7
    assert {case.source for case in cases} == {"layers, digits"}
    case = next(case for case in cases if case.name == "layer blocks.1.norms.0 pooled, d 8, 3 steps")
    a, b = case.make(20)
    for cloud, steps in ((a, 0), (b, 3)):
        found.model.load_state_dict(found.states[steps])
        model = found.model.eval()
        outputs = model.blocks[1].norms[0](model.blocks[0](model.stem(found.probe[:20]))).detach()
        torch.testing.assert_close(cloud, outputs.mean((2, 3)))
    assert bench.measure(case, 20, 1, {"icsbound": bench.solvers()["icsbound"]})["source"] == "layers, digits"


def test_layers_of_cifar10_where_its_files_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(hub.KNOWN, "cifar10", dataclasses.replace(hub.KNOWN["cifar10"], rows=(6, 6)))
    buffer = io.BytesIO()
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(buffer, "png")
    rows = {"img": [{"bytes": buffer.getvalue(), "path": None}] * 6, "label": [3, 1, 4, 1, 5, 9]}
    for part in ("train", "test"):
        parquet.write_table(pyarrow.table(rows), tmp_path / f"{part}-00000-of-00001.parquet")
    cases = list(cifar10(tmp_path, 6, gaps=(1,)).cases(bench.VIEWS))
    assert {case.source for case in cases} == {"layers, CIFAR-10"}
    last = {case.make(6)[1].shape for case in cases if case.name.startswith("layer norm ")}
    assert last == {(6, 64), (6, 64 * 8 * 8)}
