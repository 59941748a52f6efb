"""The loop: resumption, interruption, refusal and divergence, on a few real digits."""

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small import config, few_digits, measured

from icsbound import records
from icsbound._check import InputError
from icsbound.training import checkpoint, data, interrupts, loop, models, recipes
from icsbound.training.config import MonitorConfig, TrainConfig
from icsbound.training.progress import Event


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps that was never stopped."""
    with pytest.MonkeyPatch.context() as patch:
        few_digits(patch)
        out = tmp_path_factory.mktemp("unbroken")
        loop.train(config(), out)
    return out


def same_run(a: Path, b: Path) -> None:
    """Weights bit by bit, records line by line."""
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert measured(a) == measured(b)


class Act:
    """A progress that does something after one step, once."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act, self.notes = step, act, list[str]()

    def __call__(self, event: Event) -> None:
        if event.note:
            self.notes.append(event.note)
        elif event.step == self.step and self.act is not None:
            act, self.act = self.act, None
            act()


def test_a_run_leaves_its_config_records_and_model(unbroken: Path) -> None:
    assert sorted(p.name for p in unbroken.iterdir()) == [".lock", "config.json", "model.safetensors", "records.jsonl"]
    assert TrainConfig.load(unbroken) == config().resolved()
    kinds = [r.kind for r in measured(unbroken)]
    assert (kinds[0], kinds[-1]) == ("run", "result")
    assert kinds.count("epoch") == 2
    # captures after steps 0, 1, 5 and 12: three pairs of 7 layers in 2 views, and 7 layers described at each of four
    assert kinds.count("distance") == 3 * 7 * 2
    assert kinds.count("layer") == 4 * 7
    run, *_, result = measured(unbroken)
    assert isinstance(run, records.RunRecord)
    assert isinstance(result, records.ResultRecord)
    assert (run.steps, run.train_size, run.evaluation_size, run.split) == (12, 96, 40, "test")
    assert run.parameters == sum(p.numel() for p in network().parameters())
    assert result.step == 12
    trained = load_file(unbroken / "model.safetensors")
    assert not torch.equal(trained["stem.weight"], network().state_dict()["stem.weight"])


def network() -> torch.nn.Module:
    from icsbound.training import arms

    made = config()
    return models.build(made.model, classes=10, channels=1, norm=arms.parse(made.arm).make, seed=made.seed)


def test_a_run_repeats_bit_by_bit(unbroken: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # the state of the caller's generator has no part in it
    loop.train(config(), tmp_path)
    same_run(unbroken, tmp_path)


# after one step, inside an epoch, at its end, and one step before the end
@pytest.mark.parametrize("steps", [1, 4, 6, 11])
def test_a_stopped_run_goes_on_as_if_it_had_not(unbroken: Path, tmp_path: Path, steps: int) -> None:
    counted = iter(range(1, 100))
    with pytest.raises(
        KeyboardInterrupt, match=rf"^unitized-seed0 stopped after step {steps} of 12; go on with: icsbound"
    ):
        loop.train(config(), tmp_path, stop=lambda: next(counted) == steps)
    assert loop.finished(tmp_path) is None
    progress = Act(0, None)
    loop.resume(tmp_path, progress=progress)
    assert progress.notes == [f"goes on from step {steps} of 12 (step-{steps:09d}.pt)"]
    same_run(unbroken, tmp_path)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["SIGINT", "SIGTERM"]
)
def test_signals_are_kept_until_the_step_is_done(
    unbroken: Path, tmp_path: Path, number: signal.Signals, raised: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(raised) as caught:
        loop.train(config(), tmp_path, progress=Act(3, lambda: os.kill(os.getpid(), number)))
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    assert signal.getsignal(number) is before
    assert [p.name for p in checkpoint.paths(tmp_path / "checkpoints")] == ["step-000000004.pt"]
    loop.resume(tmp_path)
    same_run(unbroken, tmp_path)


def test_a_signal_in_the_last_step_is_not_lost(unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^unitized-seed0 is finished$"):
        loop.train(config(), tmp_path, progress=Act(12, lambda: os.kill(os.getpid(), signal.SIGINT)))
    same_run(unbroken, tmp_path)


def test_a_run_killed_before_its_first_checkpoint_begins_again(unbroken: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        loop.train(config(), tmp_path, progress=Act(7, kill))
    assert not (tmp_path / "checkpoints").exists()
    assert len(measured(tmp_path)) > 1
    loop.train(config(), tmp_path)
    same_run(unbroken, tmp_path)


def test_a_damaged_checkpoint_is_passed_over_with_a_word(unbroken: Path, tmp_path: Path) -> None:
    counted = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        loop.train(config(), tmp_path, checkpoint_every=4, stop=lambda: next(counted) == 9)
    newest, older = checkpoint.paths(tmp_path / "checkpoints")
    assert (newest.name, older.name) == ("step-000000009.pt", "step-000000008.pt")
    newest.write_bytes(newest.read_bytes()[:-1])
    progress = Act(0, None)
    loop.resume(tmp_path, progress=progress)
    assert progress.notes[0].endswith("does not match its checksum; the one before it is taken instead")
    assert progress.notes[1] == "goes on from step 8 of 12 (step-000000008.pt)"
    same_run(unbroken, tmp_path)


def test_where_every_checkpoint_is_damaged_the_run_begins_again_and_says_so(unbroken: Path, tmp_path: Path) -> None:
    counted = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        loop.train(config(), tmp_path, checkpoint_every=4, stop=lambda: next(counted) == 9)
    for path in checkpoint.paths(tmp_path / "checkpoints"):
        path.write_bytes(b"")
    progress = Act(0, None)
    loop.resume(tmp_path, progress=progress)
    assert len(progress.notes) == 3
    assert progress.notes[2] == "no checkpoint is sound: the run begins again"
    same_run(unbroken, tmp_path)


def test_a_disk_that_is_full_at_a_checkpoint_keeps_the_one_before(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1, 100))
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(".pt") and next(calls) == 3:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError, match=r"step-000000006\.pt cannot be written: No space left on device$"):
            loop.train(config(), tmp_path, checkpoint_every=2)
    assert [p.name for p in checkpoint.paths(tmp_path / "checkpoints")] == ["step-000000004.pt", "step-000000002.pt"]
    assert not list(tmp_path.rglob("*.part"))
    loop.resume(tmp_path)
    same_run(unbroken, tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other rights")
def test_a_folder_that_may_not_be_written_is_named(unbroken: Path) -> None:
    root = Path(tempfile.mkdtemp())  # one that every user may enter
    try:
        (root / "run").mkdir()
        os.chmod(root, 0o555)
        os.chmod(root / "run", 0o555)
        with unprivileged():
            for name in ("fresh", "run"):
                with pytest.raises(
                    InputError, match=r"run/config\.json cannot be written: P|fresh': Permission denied$"
                ):
                    loop.train(config(), root / name)
        # A run that has begun, in a folder that can no longer be written.
        (root / "run" / "config.json").write_bytes((unbroken / "config.json").read_bytes())
        with (
            unprivileged(),
            pytest.raises(
                InputError, match=r"^out must be a folder that can be written, got '.*run': Permission denied$"
            ),
        ):
            loop.train(config(), root / "run")
        assert sorted(p.name for p in root.rglob("*")) == ["config.json", "run"]
    finally:
        os.chmod(root, 0o755)
        shutil.rmtree(root)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom a folder's rights bind: root is bound by none."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_data_may_move_and_are_named_where_they_are_gone(tmp_path: Path) -> None:
    pixels = torch.randint(256, (16, 8, 8, 3), dtype=torch.uint8)
    for k, picture in enumerate(pixels):
        folder = tmp_path / "here" / ("train" if k < 12 else "val") / str(k % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.numpy()).save(folder / f"{k}.png")
    made = config(data="folder", data_dir=str(tmp_path / "here"), image_size=8, monitor=None, recipe={"batch_size": 4})
    counted = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        loop.train(made, tmp_path / "run", stop=lambda: next(counted) == 2)
    (tmp_path / "here").rename(tmp_path / "there")
    data._in_memory.cache_clear()  # as in a fresh process
    with pytest.raises(InputError, match=r"^data_dir must .*'.*/here'"):
        loop.resume(tmp_path / "run")
    assert checkpoint.paths(tmp_path / "run" / "checkpoints")
    loop.resume(tmp_path / "run", data_dir=str(tmp_path / "there"))
    loop.train(dataclasses.replace(made, data_dir=str(tmp_path / "there")), tmp_path / "whole")
    same_run(tmp_path / "whole", tmp_path / "run")


def test_the_best_network_is_kept_by_validation_and_never_by_test(tmp_path: Path) -> None:
    # The last epoch's learning rate undoes what was learned.
    steps = {"schedule": "steps", "milestones": (4,), "factors": (20.0,)}
    made = config(split="validation", monitor=None, recipe={"epochs": 5, **steps})
    loop.train(made, tmp_path / "whole", snapshots=1)
    epochs = [r for r in measured(tmp_path / "whole") if isinstance(r, records.EpochRecord)]
    accuracies = [e.accuracy for e in epochs]
    assert accuracies.index(max(accuracies)) < len(accuracies) - 1, "the last epoch is the best: it shows nothing"
    best = epochs[accuracies.index(max(accuracies))]
    kept = (tmp_path / "whole" / "best.safetensors").read_bytes()
    assert kept == (tmp_path / "whole" / "snapshots" / f"step-{best.step:09d}.safetensors").read_bytes()
    # Stopped after the best epoch and resumed, the best is not forgotten.
    counted = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        loop.train(made, tmp_path / "stopped", stop=lambda: next(counted) == best.step + 1)
    loop.resume(tmp_path / "stopped")
    assert (tmp_path / "stopped" / "best.safetensors").read_bytes() == kept
    loop.train(config(split="test", monitor=None, recipe={"epochs": 1}), tmp_path / "tested")
    assert not (tmp_path / "tested" / "best.safetensors").exists()


def test_a_finished_run_is_not_touched(unbroken: Path) -> None:
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in unbroken.iterdir()}
    seen: list[Event] = []
    result = loop.train(config(), unbroken, progress=seen.append)
    assert result == loop.finished(unbroken)
    assert [(e.step, e.steps) for e in seen] == [(12, 12)]
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in unbroken.iterdir()} == before


def test_another_run_is_refused_with_every_difference(unbroken: Path, tmp_path: Path) -> None:
    other = config(seed=1, recipe={"lr": 0.2}, monitor=None)
    with pytest.raises(InputError) as caught:
        loop.train(other, unbroken)
    message = str(caught.value)
    assert message.startswith(f"{unbroken} holds another run and cannot go on as this one (")
    assert "recipe.lr: 0.1 there, 0.2 here; seed: 0 there, 1 here)" in message
    assert "monitor: {" in message


def test_the_monitor_leaves_training_as_it_is(unbroken: Path, tmp_path: Path) -> None:
    loop.train(config(monitor=None), tmp_path)
    assert (unbroken / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_divergence_names_step_and_layer_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    # without a monitor, which would itself refuse values that are not finite
    wild = config(recipe={"lr": 1e30, "warmup": 0.0}, monitor=None, arm="bn")
    with pytest.raises(loop.Diverged) as caught:
        loop.train(wild, tmp_path, checkpoint_every=1)
    message = str(caught.value)
    assert message.startswith("bn-seed0 diverged at step ")
    assert " of 12: " in message
    assert "the first layer whose output is not finite is '" in message
    assert message.endswith("a smaller lr than 1e+30 may help")
    for _, state in checkpoint.newest(tmp_path / "checkpoints"):
        assert isinstance(state, dict)
        assert all(bool(torch.isfinite(v).all()) for v in state["model"].values())
    assert loop.finished(tmp_path) is None
    assert measured(tmp_path)[0].kind == "run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recipe": {"batch_size": 1}},
            "^batch_size must be at least 2, since batch statistics of one image do not exist, got 1$",
        ),
        ({"monitor": MonitorConfig(probe=41)}, "^probe must be at most the 40 images of the test part, got 41$"),
        ({"model": "resnet9"}, "^model must be one of resnet8"),
        (
            {"model": "nets:strided", "dropout": 0.0},
            r"^channels_last must be False \(--no-channels-last\) where a strided 1x1 convolution",
        ),
        ({"data": "cifar10", "data_dir": "nowhere"}, "^data_dir must be the folder"),
        ({"device": "mps"}, "^device must be one that torch can use here, cpu"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if changes.get("device") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has that device")
    recipe = recipes.recipe(epochs=2, **{"batch_size": 16, **changes.pop("recipe", {})})
    with pytest.raises(InputError, match=message):
        loop.train(
            TrainConfig(**{"model": "resnet8:width=2", "recipe": recipe, **changes}),
            tmp_path / "run",
        )
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        InputError, match=r"^out must be a folder that can be written, got '.*file/run': Not a directory$"
    ):
        loop.train(config(), tmp_path / "file" / "run")


def test_a_full_disk_is_said_and_survived(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = iter(range(100))
    write = records.Writer.write

    def full(writer: records.Writer, record: records.Record) -> None:
        if next(written) == 60:
            writer._file.write(b'{"kind": "dist')  # as much as there was room for
            raise OSError(28, "No space left on device")
        write(writer, record)

    with monkeypatch.context() as patch:
        patch.setattr(records.Writer, "write", full)
        with pytest.raises(
            InputError, match=r"records.jsonl cannot be written: No space left on device; what was .* --resume"
        ):
            loop.train(config(), tmp_path, checkpoint_every=2)
    loop.resume(tmp_path)
    same_run(unbroken, tmp_path)


def test_a_folder_in_use_is_refused_and_a_stale_lock_is_not(tmp_path: Path) -> None:
    with (
        interrupts.only_here(tmp_path),
        pytest.raises(InputError, match=r"is in use by another process that is still running$"),
        interrupts.only_here(tmp_path, patience=0.0),
    ):
        pass
    assert (tmp_path / ".lock").exists()  # left behind, and no hindrance
    with interrupts.only_here(tmp_path, patience=0.0):
        pass


def test_threads_are_the_callers_again(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    loop.train(config(threads=1, monitor=None, recipe={"epochs": 1}), tmp_path)
    assert torch.get_num_threads() == before


CHANNELS_LAST = {"channels_last": True, "model": "resnet8:width=16"}


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"dtype": "float64"}, CHANNELS_LAST])
def test_other_arithmetic_trains_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    loop.train(
        config(monitor=None, recipe={"epochs": 1, "clip_norm": 1.0, "label_smoothing": 0.1}, **settings), tmp_path
    )
    dtype = torch.float64 if settings.get("dtype") == "float64" else torch.float32
    assert load_file(tmp_path / "model.safetensors")["stem.weight"].dtype == dtype
    epoch = next(r for r in measured(tmp_path) if isinstance(r, records.EpochRecord))
    assert 1.5 < epoch.train_loss < 4.0


def test_gradients_may_be_summed_over_parts_of_a_batch(tmp_path: Path) -> None:
    # group norm knows no batch, so that three parts of a batch give what the whole gives
    made = {"arm": "gn", "dtype": "float64", "dropout": 0.0, "monitor": None}
    told: dict[int, list[Event]] = {1: [], 3: []}
    for accumulate, events in told.items():
        made_so = config(recipe={"accumulate": accumulate}, **made)
        loop.train(made_so, tmp_path / str(accumulate), progress=events.append)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "3"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=1e-11)
    one, three = measured(tmp_path / "1"), measured(tmp_path / "3")
    assert [r.train_loss for r in three if isinstance(r, records.EpochRecord)] == pytest.approx(
        [r.train_loss for r in one if isinstance(r, records.EpochRecord)]
    )
    # Nor does it change what is told of a step: 16 images in parts of 6, 5 and 5.
    assert [event.loss for event in told[3]] == pytest.approx([event.loss for event in told[1]], rel=1e-9)
    assert all(event.loss is not None for event in told[1])


def test_a_running_average_is_what_is_kept_and_survives_a_stop(tmp_path: Path) -> None:
    made = config(recipe={"ema": 0.5}, monitor=None)
    states: list[dict[str, torch.Tensor]] = []

    def look(event: Event) -> None:
        if event.step < 12:
            newest = checkpoint.paths(tmp_path / "whole" / "checkpoints")[0]
            states.append(checkpoint.load(newest)["model"])

    loop.train(made, tmp_path / "whole", progress=look, checkpoint_every=1)
    average = load_file(tmp_path / "whole" / "model.safetensors")
    expected = states[0]["stem.weight"].clone()
    for state in states[1:]:
        expected = 0.5 * expected + 0.5 * state["stem.weight"]
    # the checkpoint of the last step is gone by then; its weights are those of the run without an average
    plain = config(monitor=None)
    loop.train(plain, tmp_path / "plain")
    last = load_file(tmp_path / "plain" / "model.safetensors")["stem.weight"]
    torch.testing.assert_close(average["stem.weight"], 0.5 * expected + 0.5 * last)
    counted = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        loop.train(made, tmp_path / "stopped", stop=lambda: next(counted) == 5)
    loop.resume(tmp_path / "stopped")
    same_run(tmp_path / "whole", tmp_path / "stopped")


def test_snapshots_are_kept(tmp_path: Path) -> None:
    loop.train(config(monitor=None), tmp_path, snapshots=1)
    kept = sorted(p.name for p in (tmp_path / "snapshots").iterdir())
    assert kept == ["step-000000006.safetensors", "step-000000012.safetensors"]
    assert (tmp_path / "snapshots" / kept[1]).read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_snapshots_by_step_outlive_a_break(tmp_path: Path) -> None:
    counted = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt, match=r"--resume \S+ --snapshots 5steps$"):
        loop.train(config(monitor=None), tmp_path, snapshots="5steps", stop=lambda: next(counted) == 7)
    loop.resume(tmp_path, snapshots="5steps")
    kept = sorted(p.name for p in (tmp_path / "snapshots").iterdir())
    assert kept == ["step-000000005.safetensors", "step-000000010.safetensors"]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "epoch", "5 epochs", 0, 1.5, True, ""])
def test_snapshots_that_are_none(text: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"snapshots must be a number of epochs, such as 1, or of steps, such as '50s"):
        loop.train(config(monitor=None), tmp_path / "out", snapshots=text)
    assert not (tmp_path / "out").exists()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch's own compiler uses what torch deprecates
def test_a_compiled_network_trains_and_resumes(tmp_path: Path) -> None:
    made = config(compile=True)
    loop.train(made, tmp_path / "whole")
    counted = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        loop.train(made, tmp_path / "stopped", stop=lambda: next(counted) == 5)
    loop.resume(tmp_path / "stopped")
    same_run(tmp_path / "whole", tmp_path / "stopped")
    assert set(load_file(tmp_path / "whole" / "model.safetensors")) == set(network().state_dict())
