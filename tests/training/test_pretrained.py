"""A training begins at the weights of a file: the right ones, known again, and never by running what is in it."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import tiny
from safetensors.torch import load_file, save_file
from small import config, few_digits, stopped_and_resumed
from torch import Tensor, nn

from icsbound import convert
from icsbound._check import InputError
from icsbound.report.results.groups import group_of
from icsbound.training import arms, checkpoint, compare, conversion, evaluate, loop, models, pool, results, sweep
from icsbound.training.config import TrainConfig
from icsbound.training.pretrained import Pretrained
from icsbound.training.session import Session, begun, load_splits

NAME = "resnet8:width=2"


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)


def network(arm: str = "bn", classes: int = 10, seed: int = 7, name: str = NAME, channels: int = 1) -> nn.Module:
    return models.network(name, arms.parse(arm), classes=classes, channels=channels, size=28, seed=seed)


def trained(seed: int = 7, classes: int = 10) -> dict[str, Tensor]:
    """A state unlike any that a fresh network has."""
    generator = torch.Generator().manual_seed(seed)
    state = network(classes=classes).state_dict()
    return {n: torch.rand(v.shape, generator=generator) + 0.5 if v.is_floating_point() else v for n, v in state.items()}


def put(state: Any, path: Path) -> Pretrained:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return Pretrained(file=str(path)).resolved()


def same(model: nn.Module, state: dict[str, Tensor], besides: str = "alpha") -> bool:
    own = {n: v for n, v in model.state_dict().items() if not n.endswith(besides)}
    return own.keys() == state.keys() and all(torch.equal(v, state[n].to(v.dtype)) for n, v in own.items())


@pytest.mark.parametrize("arm", ["bn", "unitized", "published", "unitized:alpha_init=0.3,scope=position"])
@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_weights_of_batch_norms_fit_every_arm_that_keeps_statistics(arm: str, name: str, tmp_path: Path) -> None:
    state, model, fresh = trained(), network(arm, seed=1), network(arm, seed=1)
    put(state, tmp_path / name).put_into(model, 10)
    assert same(model, state)
    for key, value in model.state_dict().items():
        if key.endswith("alpha"):
            assert torch.equal(value, fresh.state_dict()[key])


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "net"])
def test_a_state_under_a_usual_name_is_found(key: str, tmp_path: Path) -> None:
    model = network("unitized", seed=1)
    inside = {
        f"module.{name}": value.half() if value.is_floating_point() else value for name, value in trained().items()
    }
    put({key: inside, "epoch": 3}, tmp_path / "a.pth").put_into(model, 10)
    assert {v.dtype for v in model.parameters()} == {torch.float32}
    assert same(model, {n.removeprefix("module."): v for n, v in inside.items()})


def test_loading_before_and_after_conversion_is_the_same(tmp_path: Path) -> None:
    source = tiny(num_classes=5, in_chans=3)
    with torch.no_grad():
        for value in source.parameters():
            value.add_(0.25)
    weights, arm = put(source.state_dict(), tmp_path / "tiny.pt"), arms.parse("unitized:alpha_init=0.3")
    before, after = tiny(num_classes=5, in_chans=3), conversion.apply(arm, tiny(num_classes=5, in_chans=3))
    weights.put_into(before, 5)
    before = convert(before, alpha_init=0.3)
    weights.put_into(after, 5)
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(v, after.state_dict()[n]) for n, v in before.state_dict().items())
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(before.eval()(x), after.eval()(x))


def test_public_weights_for_imagenet_load_with_another_head(tmp_path: Path) -> None:
    # torchvision's names, of which test_resnet has the list, and no count of batches, as in the oldest files.
    state = network(classes=1000, name="resnet18", channels=3).state_dict()
    weights = put({n: v for n, v in state.items() if "num_batches" not in n}, tmp_path / "resnet18-f37072fd.pth")
    model = network("unitized", name="resnet18", channels=3, seed=1)
    head = model.get_parameter("fc.weight").clone()
    message = (
        r"resnet18-f37072fd\.pth must fit the network, but has another shape of 'fc\.weight', 'fc\.bias': "
        r"\(1000, 512\) there, \(10, 512\) here; new_head \(--new-head\) begins the last layer anew$"
    )
    with pytest.raises(InputError, match=message):
        weights.put_into(model, 10)
    dataclasses.replace(weights, new_head=True).put_into(model, 10)
    assert torch.equal(model.get_parameter("fc.weight"), head)
    assert torch.equal(model.get_parameter("layer4.1.bn2.weight"), state["layer4.1.bn2.weight"])


def test_a_new_head_begins_anew_whatever_the_file_holds_of_it(tmp_path: Path) -> None:
    state = trained()
    for number, given in enumerate((state, {n: v for n, v in state.items() if not n.startswith("head.")})):
        model, fresh = network(seed=1), network(seed=1)
        weights = put(given, tmp_path / f"{number}.safetensors")
        dataclasses.replace(weights, new_head=True).put_into(model, 10)
        for name in ("head.weight", "head.bias"):
            assert torch.equal(model.get_parameter(name), fresh.get_parameter(name))
        assert torch.equal(model.get_parameter("stem.weight"), state["stem.weight"])
    with pytest.raises(InputError, match=r"^new_head must go with a network whose last layer is linear and has 3 outp"):
        dataclasses.replace(weights, new_head=True).put_into(network(), 3)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state, unitized = trained(), network("unitized").state_dict()
    bad = {**state, "norm.bias": torch.full_like(state["norm.bias"], float("nan"))}
    for number, (given, arm, message) in enumerate(
        (
            ({n: v for n, v in state.items() if n != "norm.bias"}, "unitized", "but lacks 'norm.bias'"),
            ({**state, "norm.gamma": torch.ones(1), "x": torch.ones(1)}, "bn", "holds the unknown 'norm.gamma', 'x'"),
            (
                {**state, "stem.weight": torch.ones(2, 3, 3, 3)},
                "bn",
                "of 'stem.weight': (2, 3, 3, 3) there, (2, 1, 3, 3)",
            ),
            (bad, "bn", "must hold finite numbers, but does not in 'norm.bias'"),
            (unitized, "bn", "holds the unknown 'blocks.0.norms.0.alpha', "),
            (state, "gn", "holds the unknown 'blocks.0.norms.0.running_mean', "),
            (network(name="resnet8:width=4").state_dict(), "bn", "has another shape of 'stem.weight', "),
        )
    ):
        weights = put(given, tmp_path / f"{number}.pt")
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            weights.put_into(network(arm), 10)
        assert f"{number}.pt must" in str(caught.value)
        assert "new_head" not in str(caught.value)
    with pytest.raises(
        InputError, match=r"^weights must be a file of weights or the folder of a finished run, got '.*no'"
    ):
        Pretrained(file=str(tmp_path / "no")).resolved()
    for file in ("", "\0", 3):
        with pytest.raises(
            InputError, match=r"^weights must be a file of weights or the folder of a finished run, got "
        ):
            Pretrained(file=file)  # type: ignore[arg-type]


def of(weights: Pretrained, **changes: Any) -> TrainConfig:
    return config(pretrained=weights, monitor=None, dropout=0.0, **changes)


def test_a_run_begins_at_the_weights_and_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    weights = put(trained(), tmp_path / "net.safetensors")
    still = of(weights, recipe={"lr": 0.0, "epochs": 1, "batch_size": 32})
    loop.train(still, tmp_path / "still")
    left = load_file(tmp_path / "still" / "model.safetensors")
    for name, value in trained().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(left[name], value), name
    stopped_and_resumed(of(weights), tmp_path, steps=12)
    first = begun(TrainConfig.load(tmp_path / "stopped"), load_splits(still).train)
    assert same(first, trained())


def test_no_epochs_make_a_run_of_the_weights_as_they_are(tmp_path: Path) -> None:
    state = trained()
    made = config(recipe={"epochs": 0}, arm="bn", monitor=None, pretrained=put(state, tmp_path / "w.pt"))
    result = loop.train(made, tmp_path / "run")
    assert result.step == 0
    left = load_file(tmp_path / "run" / "model.safetensors")
    assert left.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in left.items())
    (line,) = evaluate.evaluate([tmp_path / "run"], tmp_path / "off", evaluate.Conditions(perturb="alpha:0.5"))
    assert line.epochs == 0
    with pytest.raises(
        InputError, match=r"^epochs must be at least 1 where no weights are given to begin, and end, at"
    ):
        config(recipe={"epochs": 0})


def test_the_file_is_needed_until_the_first_checkpoint_alone(tmp_path: Path) -> None:
    weights = put(trained(), tmp_path / "net.pt")
    counted = iter(range(1, 99))
    with pytest.raises(KeyboardInterrupt):
        loop.train(of(weights), tmp_path / "run", stop=lambda: next(counted) == 2)
    elsewhere = tmp_path / "moved.pt"
    Path(weights.file).rename(elsewhere)
    other = shutil.copytree(tmp_path / "run", tmp_path / "other")
    assert loop.resume(tmp_path / "run").step == 12
    checkpoint.clear(other / "checkpoints")
    with pytest.raises(InputError, match=r"^weights must be a file of weights or the folder of a finished run, got "):
        loop.resume(other)
    torch.save(trained(8), tmp_path / "net.pt")
    with pytest.raises(
        InputError, match=r"^weights must be the file that the run began at, of SHA-256 [0-9a-f]{64}, got"
    ):
        loop.resume(other)
    assert loop.resume(other, weights=str(elsewhere)).step == 12
    assert (other / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(
        InputError, match=r"^weights must be left out with a run that begins at random ones, got 'a\.pt'$"
    ):
        config().moved(weights="a.pt")


def test_runs_from_other_weights_are_told_apart(tmp_path: Path) -> None:
    one, other = (put(trained(seed), tmp_path / f"{seed}.pt") for seed in (1, 2))
    copy = Path(shutil.copy(one.file, tmp_path / "copy.pt"))
    loop.train(of(one), tmp_path / "run")
    loop.train(of(Pretrained(file=str(copy))), tmp_path / "run")  # finished, by the same weights
    for another in (other, None, dataclasses.replace(one, new_head=True)):
        with pytest.raises(InputError, match=r"holds another run and cannot go on as this one \(.*pretrained"):
            loop.train(config(pretrained=another, monitor=None, dropout=0.0), tmp_path / "run")
    keys = {
        results.of_run(of(w).resolved(), "s", "explore", accuracy=1.0, seconds=1.0, versions={}).key
        for w in (one, Pretrained(file=str(copy)), other)
    }
    assert len(keys) == 2


def test_sweeps_and_comparisons_begin_at_the_weights_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.train(config(arm="bn", monitor=None, dropout=0.0, seed=3), tmp_path / "before")
    read: list[Path] = []
    put_into = Pretrained.put_into

    def watched(weights: Pretrained, model: nn.Module, classes: int) -> None:
        read.append(Path(weights.file))
        put_into(weights, model, classes)

    monkeypatch.setattr(Pretrained, "put_into", watched)
    base = of(Pretrained(file=str(tmp_path / "before")), recipe={"epochs": 1})
    made = sweep.SweepConfig(arms=("bn", "unitized"), seeds=(0,), batch_sizes=(16,), base=base)
    lines = sweep.sweep(made, tmp_path / "sweep", jobs=1)
    file = tmp_path / "before" / "model.safetensors"
    assert read == [file] * 4  # tried, and trained
    assert [line.config["pretrained"]["sha256"] for line in lines] == [Pretrained(file=str(file)).resolved().sha256] * 2
    assert sweep.SweepConfig.load(tmp_path / "sweep").to_dict() == made.to_dict()
    both = compare.CompareConfig(arms=("bn", "gn"), seeds=(0,), base=base)
    with pytest.raises(
        InputError, match=r"model\.safetensors must fit the network, but holds the unknown .*and 17 more"
    ):
        compare.compare(both, tmp_path / "both")
    assert not (tmp_path / "both").exists()
    compare.compare(dataclasses.replace(both, arms=("bn",)), tmp_path / "both", jobs=1)
    assert TrainConfig.load(tmp_path / "both" / "bn-seed0").pretrained == Session(base.resolved()).config.pretrained


def test_each_seed_may_begin_at_a_network_of_its_own(tmp_path: Path) -> None:
    states = {seed: trained(seed) for seed in (1, 2)}
    hashes = {seed: put(state, tmp_path / f"net-{seed}.pt").sha256 for seed, state in states.items()}
    weights = Pretrained(file=str(tmp_path / "net-{seed}.pt"), by_seed=True)
    base = of(weights, recipe={"epochs": 0})
    made = sweep.SweepConfig(arms=("bn", "unitized"), seeds=(1, 2), batch_sizes=(16,), base=base)
    lines = sweep.sweep(made, tmp_path / "sweep", jobs=1)
    for seed, state in states.items():
        left = load_file(tmp_path / "sweep" / f"unitized-batch16-seed{seed}" / "model.safetensors")
        assert all(torch.equal(left[name], value) for name, value in state.items())
        assert {one.config["pretrained"]["sha256"] for one in lines if one.seed == seed} == {hashes[seed]}
    assert len({group_of(one) for one in lines}) == 1
    assert sweep.SweepConfig.load(tmp_path / "sweep").to_dict() == made.to_dict()
    assert [one.key for one in sweep.sweep(made, tmp_path / "sweep", jobs=1)] == [one.key for one in lines]
    both = compare.CompareConfig(arms=("bn",), seeds=(1, 2), base=base)
    compare.compare(both, tmp_path / "both", jobs=1)
    assert compare.CompareConfig.load(tmp_path / "both").to_dict() == both.to_dict()
    found = [TrainConfig.load(tmp_path / "both" / f"bn-seed{seed}").pretrained for seed in (1, 2)]
    assert [one and one.sha256 for one in found] == [hashes[1], hashes[2]]
    loop.train(dataclasses.replace(base, seed=2), tmp_path / "alone")
    assert TrainConfig.load(tmp_path / "alone").pretrained == weights.of(2)


def test_a_sweep_by_seed_refuses_seeds_without_a_file_and_files_without_a_seed(tmp_path: Path) -> None:
    put(trained(1), tmp_path / "net-1.pt")
    base = of(Pretrained(file=str(tmp_path / "net-{seed}.pt"), by_seed=True), recipe={"epochs": 0})
    made = sweep.SweepConfig(arms=("bn",), seeds=(1, 2), batch_sizes=(16,), base=base)
    with pytest.raises(InputError, match=r"^weights must be a file of weights or the folder of .*net-2\.pt'$"):
        sweep.sweep(made, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(
        InputError, match=r"^weights must name a file for each seed, by the text \{seed\}, got 'a\.pt'$"
    ):
        Pretrained(file="a.pt", by_seed=True)
    with pytest.raises(InputError, match=r"^by_seed must be true or false, got 1$"):
        Pretrained(file="a.pt", by_seed=1)  # type: ignore[arg-type]  # as a config.json may hold it
    swapped = sweep.SweepConfig(arms=("bn",), seeds=(1,), batch_sizes=(16,), base=base)
    sweep.sweep(swapped, tmp_path / "one", jobs=1)
    put(trained(3), tmp_path / "net-1.pt")  # another file in its place, once the run is known
    with pytest.raises(pool.Failed, match=r"holds another run and cannot go on as this one \(pretrained\.sha256"):
        sweep.sweep(swapped, tmp_path / "one", jobs=1)
