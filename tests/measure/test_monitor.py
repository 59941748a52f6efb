"""The monitor's records are distances between captures, on schedule, and training does not notice it."""

import copy
import dataclasses
import math
import time
from pathlib import Path

import networks
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import false_discovery_control
from torch import nn

from icsbound import records
from icsbound._check import InputError
from icsbound.measure import bounds, schedules
from icsbound.measure import monitor as monitor_module
from icsbound.measure.capture import capture
from icsbound.measure.emd import emd
from icsbound.measure.entries import judged, layer_record
from icsbound.measure.floor import control, shift_report
from icsbound.measure.monitor import ICSMonitor
from icsbound.measure.plane import Plane
from icsbound.measure.schedules import Budget
from icsbound.norm.modules import UnitizedBatchNorm2d
from icsbound.records import (
    CostRecord,
    DistanceRecord,
    LayerRecord,
    ShiftRecord,
    TransportRecord,
    VerdictRecord,
    without_clock,
)


def optimizer_steps(model: nn.Module, monitor: ICSMonitor | None, steps: range) -> list[records.Record]:
    """Train `model` with plain SGD; the batch and the dropout of a step depend on the number of the step alone."""
    found = monitor.step(0) if monitor is not None and steps.start == 1 else []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(networks.images(8)), torch.randint(5, (8,))).backward()
        optimizer.step()
        found += monitor.step(step) if monitor is not None else []
    return found


def distances(found: list[records.Record]) -> list[DistanceRecord]:
    """The distance records of `found`."""
    return [record for record in found if isinstance(record, DistanceRecord)]


def test_records_are_distances_of_captures() -> None:
    model, probe = networks.cnn(), networks.images(24)
    before = copy.deepcopy(model)
    found = optimizer_steps(model, ICSMonitor(model, probe, run="bn-seed0", every=3), range(1, 4))
    layers = ["1", "4", "9"]
    assert [record.layer for record in found if isinstance(record, LayerRecord)] == layers * 2
    assert [(r.layer, r.view) for r in distances(found)] == [(la, v) for la in layers for v in ("pooled", "sample")]
    for record in distances(found):
        a, b = (capture(m, probe, record.layer, view=record.view)[record.layer].double() for m in (before, model))
        result = emd(a, b)
        assert (record.run, record.side, record.law, record.step_a, record.step_b) == (
            "bn-seed0",
            "outputs",
            "eval",
            0,
            3,
        )
        assert (record.n, record.d, record.estimator) == (24, a.shape[1], result.estimator)
        assert record.value == pytest.approx(result.value, rel=1e-12)
        assert record.lower == pytest.approx(result.lower, rel=1e-12)
        assert record.paired == pytest.approx((a - b).norm(dim=1).mean().item(), rel=1e-12)
        assert record.independent == pytest.approx(bounds.independent(a, b), rel=1e-12)
        assert record.mean_shift == pytest.approx((a.mean(0) - b.mean(0)).norm().item(), rel=1e-9)
        assert record.norms == pytest.approx(bounds.norms(a, b), rel=1e-9)
        variances = [x.var(0, correction=0).sum() for x in (a, b)]
        assert record.scale == pytest.approx(math.sqrt(sum(variances) / 2), rel=1e-12)
        assert record.scale_free == pytest.approx(record.value / record.scale, rel=1e-12)
        assert max(record.mean_shift, record.norms) <= record.value <= min(record.paired, record.independent)
        assert record.seconds > 0


@pytest.mark.parametrize("law", ["eval", "train", "frozen"])
def test_monitored_training_is_the_unmonitored_one(law) -> None:
    """Bit for bit: weights, buffers, gradients and what is drawn next; with dropout, and every law and view."""
    plain = networks.cnn()
    watched = copy.deepcopy(plain)
    statistics = {"statistics": networks.images(6)} if law == "frozen" else {}
    views = ("sample", "pooled", "position", "projection")
    monitor = ICSMonitor(watched, networks.images(10), every=2, cheap_every=1, law=law, views=views, **statistics)
    ends = []
    for model, watch in ((plain, None), (watched, monitor)):
        optimizer_steps(model, watch, range(1, 6))
        gradients = [parameter.grad for parameter in model.parameters()]
        ends.append([*model.state_dict().values(), *gradients, torch.get_rng_state()])
        assert all(module.training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_model_that_does_not_move() -> None:
    model = networks.cnn()
    monitor = ICSMonitor(model, networks.images(8), every=1)
    monitor.step(0)
    for record in distances(monitor.step(1)):
        assert record.value == record.paired == record.scale_free == 0
    constant = nn.Sequential(nn.BatchNorm1d(2))
    nn.init.zeros_(constant[0].weight)
    monitor = ICSMonitor(constant, torch.randn(5, 2), every=1, views=("pooled",))
    monitor.step(0)
    assert distances(monitor.step(1))[0].scale_free == 0
    nn.init.ones_(constant[0].bias)  # all outputs from one point to another: no spread to compare with
    record = distances(monitor.step(2))[0]
    assert record.value == pytest.approx(math.sqrt(2))
    assert record.scale == 0
    assert record.scale_free == math.inf


def test_schedules() -> None:
    model, probe = networks.cnn(), networks.images(8)
    monitor = ICSMonitor(model, probe, layers="1", views="pooled", every=lambda step: step in (0, 4), cheap_every=3)
    found = distances(optimizer_steps(model, monitor, range(1, 8)))
    assert [(r.step_a, r.step_b, r.value is None) for r in found] == [(0, 3, True), (3, 4, False), (4, 6, True)]
    assert all(r.lower is None and r.scale_free is None and r.estimator == "bracket" for r in found if r.value is None)
    only_cheap = ICSMonitor(model, probe, layers="1", every=None, cheap_every=2)
    assert [only_cheap.step(step) == [] for step in range(3)] == [False, True, False]


@pytest.mark.parametrize(
    ("against", "pairs"),
    [("previous", [(0, 1), (1, 2), (2, 3)]), ("first", [(0, 1), (0, 2), (0, 3)]), (2, [(0, 2), (1, 3)])],
)
def test_against(against, pairs) -> None:
    model, probe = networks.cnn(), networks.images(8)
    clouds = [capture(model, probe, "9")["9"]]
    monitor = ICSMonitor(model, probe, layers="9", views=["sample"], every=1, against=against)
    found = monitor.step(0)
    for step in (1, 2, 3):
        found += optimizer_steps(model, monitor, range(step, step + 1)) if step > 1 else monitor_first(model, monitor)
        clouds.append(capture(model, probe, "9")["9"])
    assert [(r.step_a, r.step_b) for r in distances(found)] == pairs
    for record, (a, b) in zip(distances(found), pairs, strict=True):
        assert record.value == pytest.approx(emd(clouds[a], clouds[b]).value, rel=1e-12)


def monitor_first(model: nn.Module, monitor: ICSMonitor) -> list[records.Record]:
    """Step 1 alone."""
    optimizer_steps(model, None, range(1, 2))
    return monitor.step(1)


@pytest.mark.parametrize("against", ["previous", "first", 2])
def test_a_resumed_training_goes_on_with_the_same_references(tmp_path: Path, against) -> None:
    def new_monitor(model):
        views = ("pooled", "projection")
        return ICSMonitor(model, probe, every=2, cheap_every=1, against=against, views=views, picture=True)

    probe, start = networks.images(8), networks.cnn()
    model = copy.deepcopy(start)
    whole = optimizer_steps(model, new_monitor(model), range(1, 7))
    first = copy.deepcopy(start)
    monitor = new_monitor(first)
    begun = optimizer_steps(first, monitor, range(1, 4))
    torch.save(monitor.state_dict(), tmp_path / "monitor.pt")
    save_file(monitor.state_dict(), tmp_path / "monitor.safetensors")
    for state in (torch.load(tmp_path / "monitor.pt", weights_only=True), load_file(tmp_path / "monitor.safetensors")):
        second = copy.deepcopy(first)
        resumed = new_monitor(second)
        resumed.load_state_dict(state)
        again = begun + optimizer_steps(second, resumed, range(4, 7))
        assert [without_clock(r) for r in again] == [without_clock(r) for r in whole]


def test_one_layer_is_drawn_at_every_exact_measurement() -> None:
    model, probe = networks.cnn(), networks.images(200)
    before = capture(model, probe, "9", view="pooled")["9"]
    found = optimizer_steps(model, ICSMonitor(model, probe, every=2, cheap_every=1, picture=True), range(1, 5))
    drawn = [r for r in found if isinstance(r, TransportRecord)]
    # The captures before an exact one are those of the cheap schedule.
    assert [(r.layer, r.view, r.step_a, r.step_b, r.n) for r in drawn] == [
        ("9", "pooled", 1, 2, 160),
        ("9", "pooled", 3, 4, 160),
    ]
    plane = Plane(before)  # of the first capture
    assert all(r.share == pytest.approx(plane.share, rel=1e-4) for r in drawn)
    rows = torch.linspace(0, 199, 160).round().long()
    after = plane.place(capture(model, probe, "9", view="pooled")["9"][rows])
    assert sorted(drawn[-1].x_b) == pytest.approx(sorted(after[:, 0].tolist()), rel=1e-3, abs=1e-5)
    exact = {(r.step_a, r.value) for r in distances(found) if (r.layer, r.view) == ("9", "pooled") and r.value}
    assert len(exact) == 2
    state = ICSMonitor(model, probe, every=1, picture=True)
    state.step(0)
    without = ICSMonitor(model, probe, every=1)
    without.load_state_dict(state.state_dict())  # what is drawn may be left out
    assert not any(isinstance(r, TransportRecord) for r in without.step(1))
    torn = {key: value for key, value in state.state_dict().items() if key != "plane.mean"}
    with pytest.raises(InputError, match=r"state must hold a whole plane to draw on, .* got \['directions', 'share'\]"):
        ICSMonitor(model, probe, every=1, picture=True).load_state_dict(torn)


def test_a_fresh_monitor_has_a_state_too() -> None:
    model, probe = networks.cnn(), networks.images(8)
    monitor = ICSMonitor(model, probe, every=1)
    monitor.load_state_dict(ICSMonitor(model, probe, every=1).state_dict())
    assert [record.kind for record in monitor.step(0)] == ["cost", "layer", "layer", "layer"]


def test_a_state_that_does_not_fit() -> None:
    model, probe = networks.cnn(), networks.images(8)
    monitor = ICSMonitor(model, probe, every=1)
    monitor.step(5)
    with pytest.raises(InputError, match="step must lie above the last measured step, 5, got 5"):
        monitor.step(5)
    resumed = ICSMonitor(model, probe, every=1)
    resumed.load_state_dict(monitor.state_dict())
    with pytest.raises(InputError, match="step must lie above the last measured step, 5, got 4"):
        resumed.step(4)
    other = ICSMonitor(model, probe, every=1, views=("position",))
    with pytest.raises(
        InputError, match=r"state must hold the views \['position'\] of this monitor, got \['pooled', 's"
    ):
        other.load_state_dict(monitor.state_dict())
    with pytest.raises(
        InputError, match=r"state must hold 'steps', 'pace' and clouds, as state_dict gives it, got \['clouds'\]"
    ):
        other.load_state_dict({"clouds": torch.ones(1)})
    longer = ICSMonitor(model, networks.images(9), every=1)
    with pytest.raises(InputError, match="state must be of a probe of 9 inputs, got 8 for layer '1'"):
        longer.load_state_dict(monitor.state_dict())
    assert longer.last_step is None
    fewer = ICSMonitor(model, probe, every=1, layers=["1", "4"])
    fewer.load_state_dict(monitor.state_dict())
    message = "layers must be the same at every capture, got '9' in only one of the steps 5 and 6"
    with pytest.raises(InputError, match=message):
        fewer.step(6)
    assert "9" not in {r.layer for r in distances(fewer_records(fewer, monitor))}


SHAPE = "state must hold 'steps', 'pace' and clouds, as state_dict gives it, got "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clouds": torch.ones(1)}, SHAPE),
        ({"0.pooled": torch.ones(1)}, SHAPE),
        ({"9.pooled.1": torch.ones(1, 1)}, SHAPE),
        ({"x.pooled.1": torch.ones(1, 1)}, SHAPE),
        ({3: torch.ones(1)}, SHAPE),
        ({"steps": [0, 1]}, SHAPE),
        ({"steps": torch.tensor([])}, SHAPE),
        ({"pace": torch.ones(1)}, r"'pace' in state must hold 7 finite numbers, got \[1.0\]"),
        ({"pace": torch.full((7,), torch.nan)}, "'pace' in state must hold 7 finite numbers"),
        ({"0.pooled.1": torch.ones(8)}, r"'0.pooled.1' in state must be a floating-point tensor of shape \(n, d\)"),
        ({"0.pooled.1": torch.ones(8, 8).long()}, "'0.pooled.1' in state must be a floating-point tensor"),
        ({"0.pooled.1": torch.full((8, 8), torch.inf)}, "'0.pooled.1' in state must be finite, got NaN or infinity"),
        ({"0.pooled.1": None}, r"'0.pooled.1' in state must be a torch tensor of shape \(n, d\), got None"),
    ],
    ids=str,
)
def test_a_state_that_was_damaged_is_refused_and_changes_nothing(change, message) -> None:
    model, probe = networks.cnn(), networks.images(8)
    monitor = ICSMonitor(model, probe, every=1)
    monitor.step(5)
    before = monitor.state_dict()
    with pytest.raises(InputError, match=message):
        monitor.load_state_dict({**before, **change})
    for other in (None, [1], {}):
        with pytest.raises(InputError, match=SHAPE):
            monitor.load_state_dict(other)
    assert monitor.last_step == 5
    assert all(torch.equal(before[name], tensor) for name, tensor in monitor.state_dict().items() if name != "pace")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"view": "pooled"},
            r"view must be an argument of ICSMonitor or of capture, and is none \(did you mean 'views'",
        ),
        ({"dtyp": None}, r"dtyp must be an argument of .* \(did you mean 'dtype'\?\)"),
        ({"sink": 3}, "sink must be callable with a record, got 3"),
        ({"sink": [print, "x"]}, "sink must be callable with a record, got 'x'"),
        ({"alert": True}, "alert must be callable with a record, got True"),
        ({"run": 3}, "run must be a text, got 3"),
        ({"run": "a\0"}, "run must be a text, got 'a"),
    ],
    ids=str,
)
def test_choices_that_would_fail_in_the_middle_of_a_training(choice, message) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        ICSMonitor(networks.cnn(), networks.images(8), **choice)


def test_a_schedule_may_return_anything_true() -> None:
    monitor = ICSMonitor(networks.cnn(), networks.images(8), every=lambda step: "yes", sink=(kept := []).append)
    assert monitor.step(0)[0].exact is True
    assert kept[0].exact is True


def fewer_records(fewer: ICSMonitor, other: ICSMonitor) -> list[records.Record]:
    """A step that failed leaves the monitor where it was, so that the right state makes it go on."""
    state = {key: value for key, value in other.state_dict().items() if not key.endswith(".9")}
    fewer.load_state_dict(state)
    return fewer.step(6)


def test_sinks_have_each_record_at_once(tmp_path: Path) -> None:
    model, kept = networks.cnn(), []
    with records.Writer(tmp_path / "records.jsonl") as writer:
        monitor = ICSMonitor(model, networks.images(8), every=1, sink=[writer.write, kept.append])
        found = optimizer_steps(model, monitor, range(1, 3))
        assert kept == found
        assert records.read(tmp_path / "records.jsonl") == found
    assert monitor.seconds >= sum(record.seconds for record in distances(found)) > 0


def test_interruption_keeps_what_was_written() -> None:
    model, kept = networks.cnn(), []

    def sink(record: records.Record) -> None:
        if len(kept) == 5:
            raise KeyboardInterrupt
        kept.append(record)

    monitor = ICSMonitor(model, networks.images(8), every=1, sink=sink)
    monitor.step(0)
    with pytest.raises(KeyboardInterrupt):
        monitor.step(1)
    assert [record.kind for record in kept] == ["cost"] + ["layer"] * 3 + ["distance"]


def test_verdicts_follow_the_distances() -> None:
    model, probe, kept = networks.cnn(), networks.images(24), []
    monitor = ICSMonitor(model, probe, every=2, cheap_every=1, sink=kept.append, verdicts=True, smallest=0.1, rate=0.2)
    found = optimizer_steps(model, monitor, range(1, 3))
    kinds = [record.kind for record in found if record.kind != "layer"]
    assert kinds == ["cost"] + ["distance"] * 6 + ["cost"] + ["distance", "shift"] * 6 + ["verdict"] * 6 + ["cost"]
    assert kept == found
    exact = [record for record in distances(found) if record.value is not None]
    said = [record for record in found if isinstance(record, ShiftRecord)]
    verdicts = [record for record in found if isinstance(record, VerdictRecord)]
    places = [[(r.layer, r.view, r.step_a, r.step_b) for r in rows] for rows in (exact, said, verdicts)]
    assert places[0] == places[1] == places[2]
    assert {(v.rate, v.smallest, v.among) for v in verdicts} == {(0.2, 0.1, 6)}


def test_verdicts_are_those_of_the_clouds() -> None:
    model, probe = networks.cnn(), networks.images(24)
    clouds = {view: [capture(model, probe, view=view)] for view in ("pooled", "sample")}
    monitor = ICSMonitor(model, probe, every=1, verdicts=True)
    monitor.step(0)
    optimizer_steps(model, None, range(1, 3))
    found = monitor.step(1)
    for view, taken in clouds.items():
        taken.append(capture(model, probe, view=view))
    places = [(layer, view) for layer in ("1", "4", "9") for view in ("pooled", "sample")]
    shifts = [shift_report(*(cloud[layer] for cloud in clouds[view])) for layer, view in places]
    said = [record for record in found if isinstance(record, ShiftRecord)]
    assert [(r.layer, r.view) for r in said] == places
    assert [(r.floor, r.error, r.p) for r in said] == [(s.floor, s.error, s.held_out.p) for s in shifts]
    verdicts = [(r.verdict, r.p) for r in found if isinstance(r, VerdictRecord)]
    assert verdicts == [(v.text, v.p) for v in control(shifts)]
    assert all(p >= min(1.0, s.p()) for (_, p), s in zip(verdicts, shifts, strict=True))
    assert verdicts != [(s.verdict().text, s.p()) for s in shifts]  # what each would be if it were judged alone


class Drawn(nn.Module):
    """Outputs of one law that are drawn anew at every step: whatever is called moved is a false alarm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seed", torch.zeros(1, dtype=torch.int64))
        self.layers = nn.ModuleList(nn.Identity() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Three layers' outputs (n, 1)."""
        g = torch.Generator().manual_seed(int(self.seed))
        for layer in self.layers:
            x = layer(torch.randn(len(x), 1, generator=g, dtype=torch.float64))
        return x


def test_steps_are_judged_one_by_one_and_a_whole_training_together() -> None:
    """A network that stands still raises a false alarm at no more than a share of the steps."""
    model, steps, rate = Drawn(), 20, 0.3
    monitor = ICSMonitor(
        model, torch.zeros(16, 1), layers=nn.Identity, every=1, views="sample", verdicts=True, rate=rate
    )
    found = []
    for step in range(steps + 1):
        model.seed.fill_(step)
        found += monitor.step(step)
    raw = [r for r in found if isinstance(r, ShiftRecord)]
    live = [r for r in found if isinstance(r, VerdictRecord)]
    for step in range(1, steps + 1):
        alone = false_discovery_control([r.p for r in raw if r.step_b == step], method="by")
        assert [r.p for r in live if r.step_b == step] == pytest.approx(list(alone))
    alarms = {r.step_b for r in live if r.verdict == "moved"}
    assert len(alarms) <= rate * steps + 3 * math.sqrt(rate * (1 - rate) * steps)
    together = judged(found, rate)
    assert [r.p for r in together] == pytest.approx(list(false_discovery_control([r.p for r in raw], method="by")))
    assert [(r.layer, r.step_a, r.step_b) for r in together] == [(r.layer, r.step_a, r.step_b) for r in raw]
    assert {r.among for r in live} == {3}
    assert {r.among for r in together} == {3 * steps}
    one = [r for r in found if getattr(r, "step_b", None) == 7]
    assert judged(one, rate) == [r for r in one if isinstance(r, VerdictRecord)]  # of one step, what the monitor said
    bracket = [dataclasses.replace(r, value=None) if isinstance(r, DistanceRecord) else r for r in one]
    with pytest.raises(InputError, match="distance must be exact to be judged, got 'exact: "):
        judged(bracket)
    alone = [r for r in one if not isinstance(r, DistanceRecord)]
    message = "lines must hold the distance of every shift, got a shift alone for layer 'layers.[012]', sample view, of"
    with pytest.raises(InputError, match=f"^{message} run 'run' from step 6 to 7$"):
        judged(alone)


def test_an_alert_may_stop_the_training_and_the_monitor_goes_on() -> None:
    model, heard, kept = networks.cnn(), [], []

    def alert(record: VerdictRecord) -> None:
        heard.append(record)
        if len(heard) == 1:
            raise StopIteration

    probe = networks.images(24)
    monitor = ICSMonitor(model, probe, every=2, cheap_every=1, sink=kept.append, alert=alert)
    optimizer_steps(model, monitor, range(1, 2))
    assert heard == []  # a bracket alone has no verdict
    with torch.no_grad():
        model[9].bias += 5  # the last layer moves by far more than its spread
    with pytest.raises(StopIteration):
        optimizer_steps(model, monitor, range(2, 3))
    verdicts = [record for record in kept if isinstance(record, VerdictRecord)]
    assert len(verdicts) == 6
    assert [(r.layer, r.verdict) for r in heard] == [(r.layer, "moved") for r in verdicts if r.verdict == "moved"][:1]
    assert "9" in {r.layer for r in verdicts if r.verdict == "moved"}
    assert [r.step_a for r in distances(optimizer_steps(model, monitor, range(3, 4)))] == [2] * 6


def test_an_alert_is_for_what_moved_by_more_than_counts() -> None:
    model, heard = networks.cnn(), []
    monitor = ICSMonitor(model, networks.images(24), every=1, views="pooled", smallest=2.0, alert=heard.append)
    monitor.step(0)
    with torch.no_grad():
        model[9].bias += 10
        model[4].bias += 0.1  # seen, and too small
    found = [record for record in monitor.step(1) if isinstance(record, VerdictRecord)]
    assert [(r.layer, r.verdict) for r in found if r.verdict == "moved"] == [("9", "moved")]
    assert heard == [record for record in found if record.layer == "9"]


def test_layers_that_diverged_are_named() -> None:
    model = networks.cnn()
    monitor = ICSMonitor(model, networks.images(8), every=1)
    monitor.step(0)
    with torch.no_grad():
        model[4].weight.fill_(torch.inf)
    message = r"outputs of layer '4' \(view 'pooled'\) must be finite, got NaN or infinity in 8 of 8 rows"
    with pytest.raises(InputError, match=message):
        monitor.step(1)


def test_layer_records() -> None:
    layer = UnitizedBatchNorm2d(4, alpha_init=0.25)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([-3.0, 1, 2, 0]))
        layer.alpha[0] = 1.5  # an optimizer's step beyond the range: the layer uses 1
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4))
    _, *found = ICSMonitor(model, networks.images(5), run="r", every=1).step(0)
    expected = [
        LayerRecord(
            run="r",
            layer="1",
            step=0,
            alpha_mean=(1 + 3 * 0.25) / 4,
            alpha_min=0.25,
            alpha_max=1.0,
            weight_mean=1.5,
            weight_max=3.0,
            bound=layer.bound(36),
        ),
        LayerRecord(
            run="r",
            layer="3",
            step=0,
            alpha_mean=None,
            alpha_min=None,
            alpha_max=None,
            weight_mean=1.0,
            weight_max=1.0,
            bound=None,
        ),
    ]
    assert found == expected
    with torch.no_grad():
        layer.alpha[1] = 0
    assert ICSMonitor(model, networks.images(5), every=1).step(0)[1].bound == math.inf
    assert layer_record("r", "0", 0, model[0], 36) is None  # a convolution's weight is no scale of a channel


def test_a_transformer_is_measured_as_a_cnn_is() -> None:
    model, tokens = networks.Classifier(), networks.tokens(16)
    monitor = ICSMonitor(model, tokens, every=1, views=("sample", "pooled", "position"))
    monitor.step(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    nn.functional.cross_entropy(model(tokens), torch.randint(3, (16,))).backward()
    optimizer.step()
    found = distances(monitor.step(1))
    assert {(r.view, r.d) for r in found} == {("sample", 56), ("pooled", 8), ("position", 8)}
    assert len({r.layer for r in found}) == 4
    assert all(r.value > 0 for r in found)


def test_clouds_on_disk_give_the_same_records(tmp_path: Path) -> None:
    start, probe = networks.cnn(), networks.images(8)
    found = []
    for options in ({}, {"spill": tmp_path}, {"batch_size": 3}):
        model = copy.deepcopy(start)
        monitor = ICSMonitor(model, probe, every=1, **options)
        found.append(distances(optimizer_steps(model, monitor, range(1, 3))))
    assert [without_clock(r) for r in found[0]] == [without_clock(r) for r in found[1]]
    for a, b in zip(found[0], found[2], strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-4)  # float32 products differ with the size of a batch


SCHEDULE = "a number of steps of at least 1, a function of the step or None"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, f"every must be 'budget', {SCHEDULE}, got 0"),
        ({"every": "buget"}, f"every must be 'budget', {SCHEDULE}, got 'buget'"),
        ({"every": True}, f"every must be 'budget', {SCHEDULE}, got True"),
        ({"cheap_every": 1.5}, f"cheap_every must be {SCHEDULE}, got 1.5"),
        ({"cheap_every": "budget"}, f"cheap_every must be {SCHEDULE}, got 'budget'"),
        ({"cheap_every": Budget(0.1)}, f"cheap_every must be {SCHEDULE}, got <icsbound.measure.schedules.Bu"),
        ({"against": "last"}, "against must be 'previous', 'first' or a number of captures to look back, got 'last'"),
        ({"against": 0}, "against must be an integer of at least 1, got 0"),
        ({"law": "test"}, "law must be one of 'eval', 'train', 'frozen', got 'test'"),
        ({"views": ()}, r"views must name at least one view, got \(\)"),
        (
            {"views": ("pooled", "flat")},
            "view must be one of 'sample', 'pooled', 'position', 'projection', got 'flat'",
        ),
        ({"layers": "norm1"}, "layers must match layers of the model, got 'norm1', which matches none"),
    ],
)
def test_bad_arguments_are_named_at_once(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        ICSMonitor(networks.cnn(), networks.images(2), **arguments)


def test_a_probe_too_large_for_exact_distances_is_refused_before_the_training() -> None:
    model, probe, passes = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)), torch.randn(30_000, 2), []
    model.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    message = "probe must hold at most 23,170 inputs for exact distances, got 30,000, .* would take 7,200,000,000 bytes"
    with pytest.raises(InputError, match=message):
        ICSMonitor(model, probe)
    assert passes == [2]
    assert ICSMonitor(model, probe, every=None, cheap_every=1, batch_size=30_000).step(0)
    one = ICSMonitor(model, probe, layers="1", every=1, batch_size=30_000)  # on the line sorting does
    one.step(0)
    assert distances(one.step(1))[0].value == 0


def test_a_step_that_is_no_step() -> None:
    with pytest.raises(InputError, match="step must be an integer of at least 0, got -1"):
        ICSMonitor(networks.cnn(), networks.images(2)).step(-1)


def test_the_first_record_says_what_measuring_costs() -> None:
    model = networks.cnn()
    monitor = ICSMonitor(model, networks.images(16), every=2, cheap_every=1)
    first, *_ = monitor.step(0)
    assert isinstance(first, CostRecord)
    assert (first.step, first.exact, first.training, first.share) == (0, True, None, None)
    assert first.capture > 0
    assert first.distances > 0  # of every cloud compared with itself
    start = time.perf_counter()
    found = [record for step in range(1, 5) for record in monitor.step(step)]
    elapsed = time.perf_counter() - start
    costs = [record for record in found if isinstance(record, CostRecord)]
    assert [(c.step, c.exact) for c in costs] == [(1, False), (2, True), (3, False), (4, True)]
    assert sum(c.capture + c.distances for c in [first, *costs]) == pytest.approx(monitor.seconds)
    training = 4 * costs[-1].training
    assert 0 < training < elapsed
    # The share is of the time since the last exact distances: two steps, one of which had a bracket.
    own = costs[2].capture + costs[2].distances + costs[3].capture + costs[3].distances
    assert costs[3].share == pytest.approx(own / (training - 2 * costs[1].training), rel=1e-6)


@pytest.mark.parametrize("verdicts", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_the_first_cost_is_of_what_will_run(monkeypatch: pytest.MonkeyPatch, verdicts: bool, exact: bool) -> None:
    """With verdicts that is some five times the distance alone; by the clock of the test each part takes its time."""
    clock = Clock(monkeypatch)

    def slow(name: str, seconds: float) -> None:
        real = getattr(monitor_module, name)

        def call(*arguments: torch.Tensor) -> object:
            clock.now += seconds
            return real(*arguments)

        monkeypatch.setattr(monitor_module, name, call)

    for name, seconds in (("cheap_bracket", 1.0), ("emd", 10.0), ("shift_report", 50.0)):
        slow(name, seconds)
    schedule = {"every": 1} if exact else {"every": None, "cheap_every": 1}
    model = networks.cnn()
    monitor = ICSMonitor(model, networks.images(16), layers="9", views="pooled", verdicts=verdicts, **schedule)
    costs = [r for step in (0, 1) for r in monitor.step(step) if isinstance(r, CostRecord)]
    assert {cost.distances for cost in costs} == {1.0 + (0 if not exact else 50 if verdicts else 10)}


class Clock:
    """A clock that the test moves, so that schedules by time are tested without any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def watched(monkeypatch: pytest.MonkeyPatch, capture_seconds: float, **options) -> tuple[ICSMonitor, Clock]:
    """A monitor whose captures take a given time by the clock."""
    clock, taken = Clock(monkeypatch), monitor_module.snapshot

    def slow(*arguments):
        clock.now += capture_seconds
        return taken(*arguments)

    monkeypatch.setattr(monitor_module, "snapshot", slow)
    return ICSMonitor(networks.cnn(), networks.images(8), layers="9", views="pooled", **options), clock


def run_by(clock: Clock, monitor: ICSMonitor, seconds: float, steps: range) -> list[int]:
    """Steps of training that take `seconds` each; returns those that were measured."""
    measured = []
    for step in steps:
        clock.now += seconds if step else 0.0
        if monitor.step(step):
            measured.append(step)
    return measured


def test_the_default_keeps_to_a_share_of_the_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement of 0.3 s, steps of 0.1 s: 5 % pay for one in 60 steps, so for one in 100."""
    monitor, clock = watched(monkeypatch, 0.3)
    assert run_by(clock, monitor, 0.1, range(1001)) == [0, *range(200, 1001, 100)]
    assert monitor.seconds <= 0.05 * monitor.pace.training


def test_a_slow_first_step_does_not_break_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation takes 30 s: early measurements are paid for by it, and the interval grows to what the rest asks."""
    monitor, clock = watched(monkeypatch, 0.3)
    monitor.step(0)
    measured = []
    for step in range(1, 3001):
        clock.now += 30.0 if step == 1 else 0.1
        if monitor.step(step):
            measured.append(step)
            assert monitor.seconds <= 0.05 * monitor.pace.training
    assert measured[0] < 10
    assert measured[-5:] == [2600, 2700, 2800, 2900, 3000]


def test_a_share_goes_on_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, clock = watched(monkeypatch, 0.3, every=Budget(0.1))
    assert run_by(clock, monitor, 0.1, range(151)) == [0, 100, 150]
    resumed, clock = watched(monkeypatch, 0.3, every=Budget(0.1))
    resumed.load_state_dict(monitor.state_dict())
    assert run_by(clock, resumed, 0.1, range(151, 301)) == [200, 250, 300]
    assert resumed.pace.training == pytest.approx(29.9)  # the time of the step across the break is not known


def test_monitors_do_not_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(0.1)
    monitor, clock = watched(monkeypatch, 0.3, every=budget)
    ICSMonitor(networks.cnn(), networks.images(8), every=budget).step(0)
    assert run_by(clock, monitor, 0.1, range(151)) == [0, 100, 150]


def test_a_share_that_is_none() -> None:
    with pytest.raises(InputError, match="share must be above 0, got 0"):
        Budget(0)
    with pytest.raises(InputError, match=r"share must lie in \[0, 1\], got 1.5"):
        Budget(1.5)


@pytest.mark.parametrize(
    ("steps", "rounded"), [(0.2, 1), (1, 1), (1.1, 2), (2.5, 5), (5.5, 10), (10, 10), (10.1, 20), (99, 100), (101, 200)]
)
def test_intervals_are_round_numbers(steps: float, rounded: int) -> None:
    assert schedules._round(steps) == rounded
