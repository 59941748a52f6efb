"""Two checkpoints, a whole training, or other data: every layer with its distance and a verdict, resumable."""

import dataclasses
import os
import re
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small import config as run_config
from small import few_digits
from torch import nn

from icsbound import records
from icsbound._check import InputError
from icsbound.measure.capture import capture
from icsbound.measure.collector import Snapshot
from icsbound.measure.floor import control, shift_report
from icsbound.records import DistanceRecord, LayerRecord, ShiftRecord, VerdictRecord
from icsbound.training import checkpoint, loop, measure, weights
from icsbound.training.measure import Measured
from icsbound.training.progress import Event
from icsbound.training.states import MeasureConfig, State, States

LAYERS = 7  # normalization layers of a resnet8


@pytest.fixture(scope="module", autouse=True)
def small_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two epochs of six steps, with the network after each of them."""
    out = tmp_path_factory.mktemp("trained") / "run"
    loop.train(run_config(monitor=None), out, snapshots=1)
    return out


@pytest.fixture(scope="module")
def files(run: Path) -> tuple[str, str]:
    first, second = sorted((run / "snapshots").iterdir())
    return str(first), str(second)


def of_run(run: Path, **changes: Any) -> MeasureConfig:
    return MeasureConfig(**{"checkpoints": (str(run),), "probe": 32, "views": ("pooled",), **changes})


def of_files(files: tuple[str, ...], **changes: Any) -> MeasureConfig:
    named = {"model": "resnet8:width=2", "arm": "unitized", "data": "digits"}
    return MeasureConfig(**{"checkpoints": files, "probe": 32, "views": ("pooled",), **named, **changes})


def lines(out: Path) -> list[records.Record]:
    return [records.without_clock(line) for line in records.read(out / "records.jsonl")]


def texts(found: list[Measured]) -> set[str]:
    return {one.verdict.text for one in found}


def test_numbers_are_those_of_the_two_networks(files: tuple[str, str], tmp_path: Path) -> None:
    config = of_files(files, views=("pooled", "sample"))
    found = measure.measure(config, tmp_path / "m", jobs=1)
    states = States(config)
    pair = states.pairs[0]
    probe = states._inputs("digits")[0]
    for view in ("pooled", "sample"):
        a, b = (capture(states.network(state), probe, view=view) for state in (pair.a, pair.b))
        for one in (one for one in found if one.distance.view == view):
            layer = one.distance.layer
            expected = shift_report(a[layer], b[layer])
            assert one.distance.value == expected.em.value
            for name in ("potential", "shift", "norm"):  # sums whose order may depend on where tensors lie in memory
                estimates = [getattr(shift.held_out, name) for shift in (one.shift, expected)]
                assert estimates[0].value == pytest.approx(estimates[1].value, rel=1e-9)
                assert estimates[0].error == pytest.approx(estimates[1].error, rel=1e-9)
            assert (one.shift.floor, one.shift.error, one.shift.spread) == (
                expected.floor,
                expected.error,
                expected.spread,
            )
    assert len(found) == 2 * LAYERS
    assert [one.verdict for one in found] == control([one.shift for one in found])
    assert all(one.verdict.p >= one.shift.held_out.p for one in found)
    assert found[0].distance.run == "step-000000012.safetensors against step-000000006.safetensors"


def test_the_same_weights_did_not_move(files: tuple[str, str], tmp_path: Path) -> None:
    found = measure.measure(of_files((files[0], files[0])), tmp_path / "m", jobs=1)
    assert [one.distance.value for one in found] == [0.0] * LAYERS
    assert texts(found) == {"below the floor"}


def test_what_moved_far_is_called_moved(run: Path, files: tuple[str, str], tmp_path: Path) -> None:
    state = {name: value * 3 if name == "norm.weight" else value for name, value in measured_state(files[0]).items()}
    checkpoint.write_model(tmp_path / "far.safetensors", state)
    found = measure.measure(of_files((files[0], str(tmp_path / "far.safetensors"))), tmp_path / "m", jobs=1)
    assert {one.distance.layer for one in found if one.verdict.text == "moved"} == {"norm"}
    assert next(one for one in found if one.distance.layer == "norm").verdict


def measured_state(path: str) -> dict[str, torch.Tensor]:
    return weights.read(path)


def test_a_training_is_measured_snapshot_by_snapshot(run: Path, tmp_path: Path) -> None:
    found = measure.measure(of_run(run), tmp_path / "m", jobs=2)
    pairs = list(dict.fromkeys((one.distance.step_a, one.distance.step_b) for one in found))
    assert pairs == [(0, 6), (6, 12)]  # the untrained network is the one that the seed gives
    assert len(found) == len(pairs) * LAYERS
    written = lines(tmp_path / "m")
    for kind, count in ((DistanceRecord, 14), (ShiftRecord, 14), (VerdictRecord, 14), (LayerRecord, 21)):
        assert sum(isinstance(line, kind) for line in written) == count
    assert {line.run for line in written} == {"unitized-seed0"}
    assert [type(line) for line in written[-14:]] == [VerdictRecord] * 14


def test_the_untrained_network_is_the_one_that_was_trained(run: Path, tmp_path: Path) -> None:
    monitored = tmp_path / "monitored"
    loop.train(run_config(), monitored)
    before = [r for r in lines(monitored) if isinstance(r, LayerRecord) and r.step == 0]
    measure.measure(of_run(run), tmp_path / "m", jobs=1)
    assert [r for r in lines(tmp_path / "m") if isinstance(r, LayerRecord) and r.step == 0] == before


def test_numbers_do_not_depend_on_the_jobs(run: Path, tmp_path: Path) -> None:
    for jobs in (1, 3):
        measure.measure(of_run(run), tmp_path / str(jobs), jobs=jobs)
    assert lines(tmp_path / "1") == lines(tmp_path / "3")


def test_jobs_are_distances_at_a_time(files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each distance waits for another one: one at a time would break the barrier."""
    alone, meeting = measure._one, threading.Barrier(2)

    def together(*of: Any) -> list[records.Record]:
        meeting.wait(timeout=60)
        return alone(*of)

    monkeypatch.setattr(measure, "_one", together)
    found = measure.measure(of_files(files, views=("pooled", "sample")), tmp_path / "m", jobs=2)
    assert len(found) == 2 * LAYERS


def test_numbers_do_not_depend_on_where_outputs_lie(run: Path, tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    choice = of_run(run, views=("pooled", "sample"))
    measure.measure(choice, tmp_path / "plain", jobs=1)
    for name, room in (("files", {}), ("some", {"memory": 20_000}), ("all", {"memory": 1})):
        measure.measure(choice, tmp_path / name, jobs=2, spill=spill, **room)
        assert lines(tmp_path / name) == lines(tmp_path / "plain")
        assert list(spill.iterdir()) == []


def test_memory_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    states = States(of_run(run))
    needed = sum(cloud.nbytes for cloud in states.capture(states.pairs[0].a).clouds.values())
    with pytest.raises(InputError, match=rf"^memory must be at least {needed} bytes for 7 clouds of 32 inputs"):
        measure.measure(of_run(run), tmp_path / "out", jobs=1, memory=needed - 1)
    for spill, message in (
        (tmp_path / "none", "^spill must be an existing folder, got '"),
        (Path(__file__), "^spill must be an existing folder, got '"),
    ):
        with pytest.raises(InputError, match=message):
            measure.measure(of_run(run), tmp_path / "out", jobs=1, spill=spill)
    assert not (tmp_path / "out").exists()
    assert len(measure.measure(of_run(run), tmp_path / "out", jobs=1, memory=needed)) == 2 * LAYERS
    halves = States(of_run(run, dtype="float16"), memory=needed // 2)
    assert {cloud.dtype for cloud in halves.capture(halves.pairs[0].a).clouds.values()} == {torch.float16}


def test_no_more_than_two_states_are_held(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, held, most = States.capture, weakref.WeakSet[torch.Tensor](), [0]

    def counted(states: States, state: State, few: int | None = None) -> Snapshot:
        found = whole(states, state, few)
        if few is None:
            held.add(found.clouds["norm", "pooled"])
            most[0] = max(most[0], len(held))
        return found

    monkeypatch.setattr(States, "capture", counted)
    measure.measure(of_run(run), tmp_path / "m", jobs=2)
    assert most == [2]  # of three


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 0.97, 1.0])
def test_a_measurement_cut_anywhere_goes_on(run: Path, tmp_path: Path, share: float) -> None:
    whole = measure.measure(of_run(run), tmp_path / "whole", jobs=1)
    cut = tmp_path / "cut"
    measure.measure(of_run(run), cut, jobs=1)
    content = (cut / "records.jsonl").read_bytes()
    stood = content[: int(share * len(content))]
    (cut / "records.jsonl").write_bytes(stood)
    again = measure.measure(measure.load(cut), cut, jobs=1)
    assert lines(cut) == lines(tmp_path / "whole")
    assert [one.verdict for one in again] == [one.verdict for one in whole]
    kept = stood[: max(0, stood.rfind(b'"kind": "distance"'))]  # clocks included: nothing was measured again
    assert (cut / "records.jsonl").read_bytes().startswith(kept)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_was_measured(run: Path, tmp_path: Path, number: signal.Signals) -> None:
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if len(seen) == 3:
            os.kill(os.getpid(), number)

    out = tmp_path / "m"
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        measure.measure(of_run(run), out, jobs=1, progress=stop)
    if number == signal.SIGINT:
        assert str(caught.value) == f"stopped; what was measured is kept; go on with: icsbound measure --resume {out}"
    else:
        assert caught.value.code == 143
    kept = lines(out)
    assert sum(isinstance(line, ShiftRecord) for line in kept) in (3, 4)
    assert not any(isinstance(line, VerdictRecord) for line in kept)
    measure.measure(measure.load(out), out, jobs=1)
    measure.measure(of_run(run), tmp_path / "whole", jobs=1)
    assert lines(out) == lines(tmp_path / "whole")


def test_progress_ends_at_its_total(run: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    measure.measure(of_run(run), tmp_path / "m", jobs=2, progress=seen.append)
    assert [event.step for event in seen] == list(range(1, 15))
    assert {(event.steps, event.unit) for event in seen} == {(14, "distances")}


def test_a_finished_measurement_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    first = measure.measure(of_run(run), tmp_path / "m", jobs=1)
    file = tmp_path / "m" / "records.jsonl"
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    again = measure.measure(of_run(run), tmp_path / "m", jobs=1)
    assert [(one.distance, one.verdict) for one in again] == [(one.distance, one.verdict) for one in first]
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_folder_with_other_weights_or_choices_is_refused(files: tuple[str, str], tmp_path: Path) -> None:
    moved = tmp_path / "a.safetensors"
    moved.write_bytes(Path(files[0]).read_bytes())
    config, out = of_files((str(moved), files[1])), tmp_path / "m"
    measure.measure(config, out, jobs=1)
    with pytest.raises(
        InputError, match=r"holds another run and cannot go on as this one \(probe: 32 there, 16 here\)"
    ):
        measure.measure(dataclasses.replace(config, probe=16), out, jobs=1)
    moved.write_bytes(Path(files[1]).read_bytes())
    with pytest.raises(InputError, match=r"cannot go on as this one \(files\.0: a\.safetensors: "):
        measure.measure(config, out, jobs=1)


def test_two_runs_each_by_its_own_config(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    loop.train(run_config(monitor=None, arm="bn", seed=1), other)
    found = measure.measure(MeasureConfig(checkpoints=(str(run), str(other)), probe=32), tmp_path / "m", jobs=1)
    assert {one.distance.run for one in found} == {"other against run"}
    assert {one.distance.view for one in found} == {"pooled", "sample"}


def test_other_data_on_the_same_weights(run: Path, tmp_path: Path) -> None:
    shifted = "digits:shift=contrast,severity=5"
    config = of_run(run, data_b=("digits", shifted))
    seen: list[Event] = []
    found = measure.measure(config, tmp_path / "m", jobs=1, progress=seen.append)
    assert [(event.run, event.step, event.steps) for event in seen] == [
        (name, step, LAYERS) for name in ("digits", shifted) for step in range(1, LAYERS + 1)
    ]
    by_run = {name: [one for one in found if one.distance.run == name] for name in ("digits", shifted)}
    assert [one.distance.value for one in by_run["digits"]] == [0.0] * LAYERS
    assert texts(by_run["digits"]) == {"below the floor"}
    assert "moved" in texts(by_run[shifted])
    assert {(one.distance.step_a, one.distance.step_b) for one in by_run[shifted]} == {(0, 2)}


def test_weights_in_bfloat16_are_run_in_it(files: tuple[str, str], tmp_path: Path) -> None:
    state = measured_state(files[0])
    rounded = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
    checkpoint.write_model(tmp_path / "half.safetensors", rounded)
    config = of_files((files[0], str(tmp_path / "half.safetensors")))
    states = States(config)
    assert {p.dtype for p in states.network(states.pairs[0].b).parameters()} == {torch.bfloat16}
    found = measure.measure(config, tmp_path / "m", jobs=1)
    assert all(0 < one.distance.value < 0.1 * one.shift.spread for one in found)


@pytest.mark.parametrize(
    "choice",
    [
        {"side": "inputs"},
        {"law": "train", "batch_size": 16},
        {"law": "frozen", "batch_size": 24},
        {"layers": ("blocks.1.norms.*", "head"), "views": ("sample",)},
        {"views": ("projection", "position")},
    ],
    ids=str,
)
def test_choices_reach_the_capture(files: tuple[str, str], tmp_path: Path, choice: dict[str, Any]) -> None:
    found = measure.measure(of_files(files, **choice), tmp_path / "m", jobs=1)
    assert {one.distance.side for one in found} == {choice.get("side", "outputs")}
    assert {one.distance.law for one in found} == {choice.get("law", "eval")}
    assert {one.distance.view for one in found} == set(choice.get("views", ["pooled"]))
    if "layers" in choice:
        assert "head" in {one.distance.layer for one in found}
    plain = measure.measure(of_files(files), tmp_path / "plain", jobs=1)
    assert [one.distance.value for one in found] != [one.distance.value for one in plain]


MODULE = '''
import torch
from torch import nn

class Tiny(nn.Module):
    """A transformer of one layer on tokens, called by keywords."""
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 11)
    def forward(self, tokens, scale=1.0):
        return self.head(self.layer(self.embed(tokens) * scale))

def make():
    return Tiny()

def other():
    return nn.BatchNorm2d(3)

def wrong():
    return 3

class Expert(nn.Module):
    """A layer that runs only where an input needs it."""
    def __init__(self):
        super().__init__()
        self.expert, self.head = nn.Linear(2, 3), nn.Linear(2, 3)
    def forward(self, x):
        return self.expert(x) if bool((x > 1).any()) else self.head(x)

def expert():
    return Expert()

def rare(n):
    return torch.linspace(0, 1.5, 2 * n).reshape(n, 2)

def few(n):
    return tokens(5)

def tokens(n):
    return {"tokens": torch.randint(11, (n, 5), generator=torch.Generator().manual_seed(0)), "scale": 1.0}
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_network_of_test_measure.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "own_network_of_test_measure"


def test_a_network_and_a_probe_of_ones_own(module: str, tmp_path: Path) -> None:
    made: nn.Module = weights.imported("model", f"{module}:make")()
    torch.save(made.state_dict(), tmp_path / "a.pt")
    made.get_parameter("layer.linear2.weight").data.mul_(3)
    torch.save({"state_dict": made.state_dict()}, tmp_path / "b.pt")
    config = MeasureConfig(
        checkpoints=(str(tmp_path / "a.pt"), str(tmp_path / "b.pt")),
        model=f"{module}:make",
        data=f"{module}:tokens",
        layers=("layer.self_attn", "layer.norm*", "head"),
        probe=64,
    )
    found = measure.measure(config, tmp_path / "m", jobs=2)
    values = {(one.distance.layer, one.distance.view): one.distance.value for one in found}
    assert set(values) == {
        (n, v) for n in ("layer.self_attn", "layer.norm1", "layer.norm2", "head") for v in config.views
    }
    assert values["layer.self_attn", "sample"] == values["layer.norm1", "pooled"] == 0.0
    assert values["layer.norm2", "sample"] > 0.0


def test_a_layer_that_the_first_inputs_do_not_reach(module: str, tmp_path: Path) -> None:
    made: nn.Module = weights.imported("model", f"{module}:expert")()
    for name in ("a.pt", "b.pt"):
        torch.save(made.state_dict(), tmp_path / name)
        made.get_parameter("expert.weight").data.mul_(3)
    config = MeasureConfig(
        checkpoints=(str(tmp_path / "a.pt"), str(tmp_path / "b.pt")),
        model=f"{module}:expert",
        data=f"{module}:rare",
        layers=("expert",),
        probe=64,
    )
    found = measure.measure(config, tmp_path / "m", jobs=1)
    assert {one.distance.layer for one in found} == {"expert"}
    assert all(one.distance.value > 0.0 for one in found)
    with pytest.raises(InputError, match=r"^layers must run on the probe; layer 'head' never ran on the probe: the"):
        measure.measure(dataclasses.replace(config, layers=("head",)), tmp_path / "none", jobs=1)


def bad(**changes: Any) -> tuple[dict[str, Any], str]:
    message = changes.pop("says")
    return changes, message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        bad(checkpoints=(), says=r"^checkpoints must be one or two files or runs, got \(\)$"),
        bad(checkpoints=("FILE",), says="checkpoints must be two, or one with data_b, or the folder of a run, got "),
        bad(checkpoints=("FILE", "none.pt"), says="a checkpoint must be a file of weights or the fold"),
        bad(checkpoints=("FILE", "FILE"), model=None, says="^model must be given for files of weights"),
        bad(checkpoints=("FILE", "FILE"), data=None, says=r"^data must name the probe's data set \(digits, "),
        bad(checkpoints=("FILE", "FILE"), data_b=("digits",), says="^data_b must come with one checkpoint"),
        bad(checkpoints=("RUN",), data_b=("digits", "digits"), says="^data_b must name each data set once"),
        bad(checkpoints=("RUN",), data_b=("digit",), says=r"^data must be one of digits, .*mean 'digits'\?\)$"),
        bad(checkpoints=("RUN",), data_b=("digits:shift=fog,hard=1",), says="a setting of data 'digits' must be shift"),
        bad(checkpoints=("RUN",), data_b=("digits:shift=fogg",), says=r"^shift must be one of .*'fog'\?\)$"),
        bad(checkpoints=("RUN",), probe=41, says="^probe must be at most the 40 held-out images of digits, got 41$"),
        bad(checkpoints=("RUN",), probe=7, says="^probe must be an integer of at least 8, got 7$"),
        bad(checkpoints=("RUN",), views=("pool",), says=r"^view must be one of .*'pooled'\?\)$"),
        bad(checkpoints=("RUN",), law="batch", says="^law must be one of 'eval', 'train', 'frozen', got 'batch'$"),
        bad(checkpoints=("RUN",), dtype="float8", says=r"^dtype must be one of 'float16', .*got 'float8'"),
        bad(checkpoints=("RUN",), rate=2.0, says=r"^rate must lie in \[0, 1\], got 2\.0$"),
        bad(checkpoints=("RUN",), layers=("nrom",), says="^layers must match layers of the model, got 'nrom'.*'norm'"),
        bad(checkpoints=("FILE", "FILE"), model="resnet8:width=4", says="must fit the network, but has another shape"),
        bad(checkpoints=("FILE", "FILE"), arm="bn", says="must fit the network, but holds the unknown 'blocks.*alpha'"),
        bad(checkpoints=("FILE", "FILE"), model="MODULE:other", says="must fit the network, but lacks"),
        bad(checkpoints=("TINY", "TINY"), model="MODULE:make", says="^model must run on the probe: the model raised R"),
        bad(
            checkpoints=("TINY", "TINY"),
            model="MODULE:make",
            data="MODULE:tokens",
            probe=30_000,
            says="^probe must hold at most 23,170 inputs for exact distances, got 30,000, .* 7,200,000,000 bytes",
        ),
        bad(
            checkpoints=("TINY", "TINY"),
            model="MODULE:make",
            data="MODULE:few",
            says="^data must be a function that returns 32 inputs when asked for them, got 5$",
        ),
        bad(
            checkpoints=("TINY", "TINY"),
            model="MODULE:make",
            data="MODULE:tokens",
            layers=("head", "layer.self_attn.out_proj"),
            says="^layers must run on the probe; layer 'layer.self_attn.out_proj' never ran on the probe: ",
        ),
        bad(checkpoints=("FILE", "ODD"), says="^checkpoints must have names that can be shown, got "),
        bad(checkpoints=("RUN", "EMPTY"), says="must be the folder of a finished run; icsbound train --resume"),
        bad(checkpoints=("EMPTY",), says="must be the folder of a run, and holds no config.json"),
        bad(checkpoints=("FILE", "FILE"), model="MODULE:wrong", says="^model must be a function that returns a torch"),
        bad(checkpoints=("FILE", "FILE"), data="MODULE:tokens", says="model must be pkg.module:factory where the data"),
        bad(
            checkpoints=("FILE", "FILE"),
            data="MODULE:tokens",
            law="frozen",
            says="^law must be 'eval' or 'train' with data from a function",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    run: Path, files: tuple[str, str], module: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    torch.save(weights.imported("model", f"{module}:make")().state_dict(), tmp_path / "tiny.pt")
    (tmp_path / "\x1b[31m").write_bytes(Path(files[0]).read_bytes())
    place = {
        "ODD": str(tmp_path / "\x1b[31m"),
        "TINY": str(tmp_path / "tiny.pt"),
        "FILE": files[0],
        "RUN": str(run),
        "EMPTY": str(tmp_path / "empty"),
    }
    changes["checkpoints"] = tuple(place.get(name, name) for name in changes["checkpoints"])
    changes = {k: v.replace("MODULE", module) if isinstance(v, str) else v for k, v in changes.items()}
    named = {"model": "resnet8:width=2", "arm": "unitized", "data": "digits"}
    if str(run) in changes["checkpoints"] or place["EMPTY"] in changes["checkpoints"]:
        named = {}
    with pytest.raises(InputError, match=message):
        measure.measure(MeasureConfig(**{"probe": 32, **named, **changes}), tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


def test_a_run_without_states_says_how_to_keep_some(tmp_path: Path) -> None:
    from icsbound.training.config import claim

    claim(tmp_path / "begun", run_config(monitor=None).resolved().to_dict())
    with pytest.raises(
        InputError, match=r"must hold states of its training to compare, got none; icsbound train --snaps"
    ):
        measure.measure(of_run(tmp_path / "begun"), tmp_path / "out", jobs=1)


def test_layers_of_other_widths_are_named(run: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    loop.train(run_config(monitor=None, model="resnet8:width=3"), wide)
    config = MeasureConfig(checkpoints=(str(run), str(wide)), probe=16)
    message = "layer 'blocks.0.norms.0' must have equally many values in the states of step 0 and 1, got 2 and 3"
    with pytest.raises(InputError, match=re.escape(message)):
        measure.measure(config, tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


def test_a_training_under_way_is_measured_as_far_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "begun"
    steps: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        loop.train(run_config(monitor=None), out, snapshots=1, progress=steps.append, stop=lambda: len(steps) == 8)
    found = measure.measure(of_run(out), tmp_path / "m", jobs=1)
    pairs = list(dict.fromkeys((one.distance.step_a, one.distance.step_b) for one in found))
    assert pairs == [(0, 6), (6, 9)]  # the last is the checkpoint of the step at which it stopped
