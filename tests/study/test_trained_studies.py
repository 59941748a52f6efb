"""Studies of trained networks, on runs small enough for a test: what they measure, and which runs they take."""

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import small
import torch

from icsbound import records
from icsbound._check import InputError
from icsbound.measure.emd import emd
from icsbound.norm.modules import UnitizedBatchNorm
from icsbound.records import LayerRecord, PointRecord
from icsbound.study import alpha, information, moments, networks, reduction, shift
from icsbound.study.setting import Setting
from icsbound.training import arms, loop, pool
from icsbound.training.config import TrainConfig

LAYERS = 7  # normalization layers of a resnet8


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Two finished runs of two epochs, with what they kept on the way."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        small.few_digits(patch)
        for arm in ("bn", "unitized"):
            loop.train(small.config(arm=arm, dropout=0.0), folder / arm, snapshots=1)
        yield Setting(runs=folder)


def by_panel(points: list[PointRecord]) -> dict[str, list[PointRecord]]:
    found: dict[str, list[PointRecord]] = {}
    for point in points:
        found.setdefault(point.panel, []).append(point)
    return found


def test_states_are_those_that_were_kept(runs: Setting) -> None:
    (run,) = networks.trained(runs, ["bn"], 0)
    states = list(run.states())
    assert [step for step, _ in states] == [0, 6, 12]
    final = run.network().state_dict()
    assert all(torch.equal(value, final[name]) for name, value in states[-1][1].state_dict().items())
    assert not torch.equal(states[0][1].state_dict()["stem.weight"], final["stem.weight"])
    assert run.inputs(8).shape == (8, 1, 28, 28)


def test_runs_of_the_user_are_taken_by_arm_and_seed(runs: Setting) -> None:
    assert [run.arm for run in networks.trained(runs, ["unitized", "gn", "bn"], 0)] == ["unitized", "bn"]
    with pytest.raises(InputError, match=r"^runs must hold finished runs of gn at seed 0, .* got none in "):
        networks.trained(runs, ["gn"], 0)
    with pytest.raises(InputError, match=r"^runs must hold finished runs of bn at seed 3, "):
        networks.trained(runs, ["bn"], 3)


def test_networks_are_trained_once_where_none_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.few_digits(monkeypatch)
    monkeypatch.setattr(networks, "MODEL", "resnet8:width=2")
    monkeypatch.setattr(networks, "MONITOR", {"probe": 12, "captures": 2})
    setting = Setting(networks=tmp_path, jobs=1)
    (first,) = networks.trained(setting, ["unitized*10"], 0)
    assert first.arm == "unitized, alpha's rate × 10"
    assert first.config.recipe.alpha_lr_factor == 10
    assert len(list((first.folder / "snapshots").iterdir())) == first.config.recipe.epochs
    stamp = (first.folder / "model.safetensors").stat().st_mtime_ns
    (again,) = networks.trained(setting, ["unitized*10"], 0)
    assert again == first
    assert (again.folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_networks_of_all_seeds_are_trained_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def without_training(tasks: list[pool.Task], **_: object) -> None:
        asked.append([task.out.name for task in tasks])

    monkeypatch.setattr(pool, "run", without_training)
    setting = Setting(networks=tmp_path, seeds=(3, 5))
    found = networks.trained(setting, ["bn", "gn"], 5)
    assert [run.folder.name for run in found] == ["bn-seed5", "gn-seed5"]
    assert asked == [["bn-seed5", "gn-seed5", "bn-seed3", "gn-seed3"]]
    networks.trained(setting, lambda seed: [f"unitized:alpha_init=0.{seed}"], 3)
    assert asked[1] == ["unitized_alpha_init=0.3-seed3", "unitized_alpha_init=0.5-seed5"]


def test_reduction_compares_inputs_with_outputs(runs: Setting) -> None:
    found = by_panel(list(reduction.points(0, runs)))
    assert len(found["training"]) == len(found["share"]) == LAYERS * 4
    (run,) = networks.trained(runs, ["bn"], 0)
    inputs = run.inputs(networks.PROBE)
    states = [network for _, network in run.states()]
    ratios = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        before, after = (
            emd(
                *(
                    networks.clouds(states[k], inputs, ("pooled",), side, "train").clouds["norm", "pooled"]
                    for k in (a, b)
                )
            )
            for side in ("inputs", "outputs")
        )
        ratios.append(after.value / before.value)
    last = next(p for p in found["training"] if p.curve == "absolute, pooled view" and p.x == LAYERS - 1)
    assert last.value == pytest.approx(float(torch.tensor(ratios).log().mean().exp()), rel=1e-5)
    share = next(p for p in found["share"] if p.curve == "absolute, pooled view" and p.x == LAYERS - 1)
    assert share.value == pytest.approx(sum(ratio > 1 for ratio in ratios) / 3)


def test_moments_of_a_training_are_shares(runs: Setting) -> None:
    panels = by_panel(list(moments.points(0, runs)))
    found, survivors = panels["training"], panels["survivors"]
    assert len(found) == LAYERS * (1 + len(moments.LOWER))
    assert len(survivors) == LAYERS * len(moments.LOWER)
    assert all(0 <= p.value <= 1 + 1e-9 for p in survivors)
    most = {name: max(p.value for p in survivors if p.curve == name) for name in moments.LOWER}
    assert most["shift of the mean"] < 1e-9
    assert most["moments 2 and 4"] < 1e-6  # the second agree
    assert most["coordinates"] > 0.1
    assert most["moments 4 and 8"] > 1e-4
    assert all(0 <= p.value <= 1 + 1e-9 for p in found if p.curve.startswith("seen by"))
    assert all(0 < p.value < 2 for p in found if p.curve == "survives matching")


def test_alpha_follows_the_runs(runs: Setting) -> None:
    assert runs.runs is not None
    found = by_panel(list(alpha.points(0, runs)))
    course = [p for p in found["alpha"] if p.curve == "trained"]
    assert course[0].x == 0
    assert course[0].value == pytest.approx(0.5)
    assert course[-1].x == 12
    reach = [p.value for p in found["reach"] if p.curve == "trained"]
    assert reach[0] == 0
    assert reach[-1] > abs(course[-1].value - 0.5)  # the farthest channel, not the mean
    assert {p.curve for p in found["accuracy"]} == {"trained", "frozen at 0 (batch norm)"}
    assert {p.curve for p in found["tightness"]} == {"trained"}  # batch norm says nothing of a radius
    layers = [r for r in records.read(runs.runs / "unitized" / "records.jsonl") if isinstance(r, LayerRecord)]
    last = [1 / r.bound for r in layers if r.step == 12 and r.bound is not None]
    assert found["tightness"][-1].value == pytest.approx(sum(last) / LAYERS)
    no_radius = dataclasses.replace(layers[0], bound=math.inf)
    assert alpha._means([no_radius], lambda row: None if row.bound is None else 1 / row.bound) == [(0, 0.0)]


def test_alpha_is_frozen_at_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.few_digits(monkeypatch)
    monkeypatch.setattr(networks, "MODEL", "resnet8:width=2")
    monkeypatch.setattr(networks, "MONITOR", {"probe": 12, "captures": 1, "views": ("pooled",)})
    found = by_panel(list(alpha.points(0, Setting(networks=tmp_path, jobs=1))))
    curves = [*alpha.CURVES, alpha.FINAL, alpha.RANDOM]
    assert [p.curve for p in found["accuracy"]] == curves
    assert {p.curve for p in found["alpha"]} == {c for c in curves if c.startswith(("trained", "as published"))}
    runs = {run.config.arm: run for run in map(_trained, sorted(tmp_path.iterdir()))}
    arm = next(arm for arm in runs if "alpha_drawn" in arm)
    drawn = set(arms.parse(arm).settings["alpha_drawn"])
    ended = next(run for run in map(_trained, tmp_path.iterdir()) if run.config.recipe.alpha_lr_factor == 10)
    low, high = alpha._alphas(ended).aminmax()
    assert float(low) - 1e-3 <= min(drawn) < max(drawn) <= float(high) + 1e-3
    kept = alpha._alphas(runs[arm])
    assert {round(a, 3) for a in kept.tolist()} <= drawn
    assert len(set(kept.tolist())) > 1
    ended, own = _trained(tmp_path / "unitized-seed0"), runs["unitized:frozen=true"]
    assert torch.equal(alpha._alphas(own), alpha._alphas(ended))
    assert len(set(alpha._alphas(own).tolist())) > 1
    start, other = own.untrained().state_dict(), ended.untrained().state_dict()
    assert all(torch.equal(value, other[name]) for name, value in start.items() if not name.endswith("alpha"))
    assert not torch.equal(start["norm.alpha"], other["norm.alpha"])
    assert not torch.equal(own.network().state_dict()["norm.weight"], start["norm.weight"])


def test_the_second_gain_is_batch_norm_with_a_larger_weight() -> None:
    layer = arms.parse(alpha.LONGER["batch norm, γ × √(L/C)"]).make(2)
    x = torch.randn(5, 2, 28, 28)
    reference = torch.nn.BatchNorm2d(2, eps=1e-3).train()(x)
    factor = 1 / math.sqrt(2 / 28**2 + 1e-3)  # √(L/C), but for the published ε
    torch.testing.assert_close(layer.train()(x), factor * reference, rtol=1e-3, atol=1e-3)


def _trained(folder: Path) -> networks.Trained:
    return networks.Trained(folder, TrainConfig.load(folder))


@pytest.mark.parametrize(("factor", "curve"), [(5.0, "trained"), (10.0, "trained, rate × 10")])
def test_alpha_takes_runs_of_any_rate(runs: Setting, tmp_path: Path, factor: float, curve: str) -> None:
    assert runs.runs is not None
    shutil.copytree(runs.runs, tmp_path / "runs")
    for path in (tmp_path / "runs").glob("*/config.json"):  # of a sweep at one rate for all arms
        config = json.loads(path.read_text(encoding="utf-8"))
        config["recipe"]["alpha_lr_factor"] = factor
        path.write_text(json.dumps(config), encoding="utf-8")
    found = by_panel(list(alpha.points(0, Setting(runs=tmp_path / "runs"))))
    assert {p.curve for p in found["accuracy"]} == {curve, "frozen at 0 (batch norm)"}


def test_information_is_read_by_probes(runs: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(information, "OFFSETS", (0.0, 1000.0))
    found = by_panel(list(information.points(0, runs)))
    assert len(found["by layer"]) == LAYERS * len(information.MAPS)
    inverse = [p for p in found["norm"] if p.curve == "inverse of the layer"]
    assert all(p.value == pytest.approx(1.0, abs=1e-6) for p in inverse)
    assert [p.curve for p in found["trained"]] == [information.TRAINED, "α = 1"] * LAYERS
    none, own, whole = (p for p in found["norm"] if p.curve == "probe where α was trained")
    assert (none.x, whole.x) == (0, 1)
    (run,) = networks.trained(runs, ["unitized"], 0)
    layers = [m for m in run.network().modules() if isinstance(m, UnitizedBatchNorm)]
    assert own.x == pytest.approx(float(layers[LAYERS // 2].clamped_alpha().mean()))
    far = {p.curve: p.value for p in found["offset"] if p.x == 1000}
    near = {p.curve: p.value for p in found["offset"] if p.x == 0}
    assert far["batch norm, unitized"] == pytest.approx(near["batch norm, unitized"], abs=0.03)


def test_each_channel_is_unitized_at_its_own_alpha() -> None:
    x, alpha = torch.randn(9, 6, dtype=torch.float64), torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0]).double()
    each = [information.unitized(x, value) for value in (0.0, 0.5, 1.0)]
    expected = torch.cat([z[:, 2 * k : 2 * k + 2] for k, z in enumerate(each)], 1)
    assert torch.allclose(information.unitized(x, alpha), expected)
    assert torch.allclose(each[0], x)
    norms = torch.linalg.vector_norm(each[2], dim=1)
    assert torch.allclose(norms, torch.full_like(norms, math.sqrt(6)))


def test_ridge_is_least_squares_with_a_penalty() -> None:
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    z, level = x - x.mean(0), y.mean(0)
    penalty = information.PENALTY * 30 * float(x.square().sum(1).mean())
    weights = torch.linalg.solve(z.T @ z + penalty * torch.eye(4, dtype=torch.float64), z.T @ (y - level))
    assert torch.allclose(information.ridge(x, y, x), z @ weights + level)


def test_shift_is_bounded_and_beside_the_accuracy(runs: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "SHIFTS", ("contrast:5",))
    monkeypatch.setattr(shift, "CHANGES", ("prune:0.5",))
    found = by_panel(list(shift.points(0, runs)))
    assert len(found["by layer"]) == 2 * 2 * LAYERS
    assert all(p.value <= p.predicted * (1 + 1e-9) for p in found["by layer"] if p.predicted is not None)
    assert {p.curve for p in found["accuracy"]} == {
        f"{condition} · {arm}" for condition in ("none", "contrast:5", "prune:0.5") for arm in ("bn", "unitized")
    }
    rows = {p.curve: (p.x, p.value) for p in found["distance against accuracy"]}
    accuracy = {p.curve: p.value for p in found["accuracy"]}
    assert all(value == accuracy[curve] for curve, (_, value) in rows.items())
    last = {p.curve: p.value for p in found["by layer"] if p.x == LAYERS - 1}
    assert {curve: x for curve, (x, _) in rows.items()} == last
