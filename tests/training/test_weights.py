"""Weights come from files as tensors, and code from nowhere but where the user says."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from icsbound._check import InputError
from icsbound.training import checkpoint, weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(state: dict[str, torch.Tensor], kind: str, folder: Path) -> Path:
    if kind == "safetensors":
        save_file(state, folder / "net.safetensors")
        return folder / "net.safetensors"
    if kind == "own checkpoint":
        return checkpoint.save(folder, 12, {"model": state, "step": 12})
    wrapped: dict[str, Any] = {
        "torch": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "data-parallel": {f"module.{name}": value for name, value in state.items()},
        "compiled in data-parallel": {f"module._orig_mod.{name}": value for name, value in state.items()},
    }
    torch.save(wrapped[kind], folder / "net.pt")
    return folder / "net.pt"


@pytest.mark.parametrize(
    "kind", ["safetensors", "torch", "state_dict", "data-parallel", "compiled in data-parallel", "own checkpoint"]
)
def test_every_kind_of_file_gives_the_same_weights(kind: str, tmp_path: Path) -> None:
    state = net().state_dict()
    assert same(weights.read(saved(state, kind, tmp_path)), state)


class Hostile:
    """Unpickled, it makes the folder that it names."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.mark,))


@pytest.mark.parametrize("inside", [False, True])
def test_code_in_a_file_is_never_run(inside: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "net.pt"
    torch.save({**net().state_dict(), "extra": Hostile(mark)} if inside else Hostile(mark), path)
    with pytest.raises(
        InputError,
        match=r"net\.pt must hold tensors and plain values alone, and nothing in it was run: [Uu]nsupported ",
    ) as caught:
        weights.read(path)
    assert "weights_only" not in str(caught.value)  # no advice to run it after all
    path.rename(tmp_path / "net.safetensors")
    with pytest.raises(InputError, match=r"net\.safetensors is not a file of safetensors: "):
        weights.read(tmp_path / "net.safetensors")
    assert not mark.exists()
    pickled = (tmp_path / "net.safetensors").rename(path)
    torch.load(pickled, weights_only=False)
    assert mark.exists()  # the file is what it is meant to be


def test_other_content_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "values.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name, message in {
        "list.pt": "must hold the tensors of a network by name, got list",
        "values.pt": "must hold the tensors of a network by name, got epoch, lr",
        "text.pt": "must hold tensors and plain values alone",
        "none.pt": "a checkpoint must be a file of weights or the folder of a run, got ",
    }.items():
        with pytest.raises(InputError, match=re.escape(message)):
            weights.read(tmp_path / name)


def test_weights_of_another_network_are_refused() -> None:
    state = net().state_dict()
    for change, message in (
        ({"1.bias": None}, r"^b\.pt must fit the network, but lacks '1\.bias'$"),
        ({"2.weight": torch.ones(1), "2.bias": torch.ones(1)}, r"but holds the unknown '2\.weight' and 1 more$"),
        ({"0.weight": torch.ones(4, 5)}, r"but has another shape of '0\.weight': \(4, 5\) for \(4, 3\)$"),
    ):
        other = {name: value for name, value in {**state, **change}.items() if value is not None}
        with pytest.raises(InputError, match=message):
            weights.fill(net(), other, "b.pt")


def test_a_model_takes_the_one_dtype_of_its_file() -> None:
    state = net().state_dict()
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
    assert {p.dtype for p in weights.fill(net(), half, "b.pt").parameters()} == {torch.bfloat16}
    mixed = {**half, "1.weight": state["1.weight"]}
    assert {p.dtype for p in weights.fill(net(), mixed, "b.pt").parameters()} == {torch.float32}


def test_a_function_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_network_of_test_weights.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Identity()\nX = 3\n"
    )
    (tmp_path / "my_broken_of_test_weights.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(weights.imported("model", "my_network_of_test_weights:make")(), nn.Identity)
    with pytest.raises(
        InputError,
        match=r"^model must name a function as pkg\.module:name, got 'no_such:make': there is no module no_such$",
    ):
        weights.imported("model", "no_such:make")
    for name in ("X", "absent"):
        with pytest.raises(InputError, match=f"my_network_of_test_weights has no function {name}$"):
            weights.imported("model", f"my_network_of_test_weights:{name}")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        weights.imported("model", "my_broken_of_test_weights:make")


def test_a_function_that_wants_other_arguments_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import torch\ndef make(width):\n    return width\ndef fail():\n    raise TypeError('its own')\n"
    (tmp_path / "my_functions_of_test_weights.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert weights.called("data", "my_functions_of_test_weights:make", 7) == 7
    assert weights.called("data", "builtins:dict") == {}  # without a signature
    for name, values, message in (
        ("make", (), r"that can be called with no argument, got '.*:make': missing a required argument: 'width'"),
        ("fail", (7,), r"that can be called with one argument, a number of inputs, got '.*': too many positional arg"),
    ):
        with pytest.raises(InputError, match=f"^model must name a function {message}"):
            weights.called("model", f"my_functions_of_test_weights:{name}", *values)
    with pytest.raises(TypeError, match=r"^its own$"):
        weights.called("model", "my_functions_of_test_weights:fail")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("a.b:c", True),
        ("net:make", True),
        ("resnet8", False),
        ("resnet8:width=4", False),
        ("digits:shift=contrast,severity=1", False),
    ],
)
def test_functions_and_settings_are_told_apart(text: str, is_one: bool) -> None:
    assert weights.is_import(text) is is_one
