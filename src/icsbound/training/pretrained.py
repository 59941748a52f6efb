"""Weights that a training begins at, instead of random ones: read from a file as tensors, and told apart by its hash.

A batch norm's weights fit a unitized layer too: all that the file lacks is α, which takes its initial value. Names are
those of the network, which for `resnet18`, `resnet50` and `resnet101` are torchvision's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from icsbound._check import InputError, fail
from icsbound.norm.modules import UnitizedBatchNorm
from icsbound.training import weights

SEED = "{seed}"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The weights in `file`, of any kind that `weights.read` takes, or of the finished run in a folder of that name.

    `sha256` is the file's, which a run that goes on must find again; None until `resolved`. With `new_head` the last
    layer, whose outputs are the classes, begins at random, and whatever the file holds of it is not used.

    With `by_seed` each seed has a file of its own: the text ``{seed}`` in `file` stands for the number (see `of`), and
    runs that began at different files are still the same experiment.
    """

    file: str
    sha256: str | None = None
    new_head: bool = False
    by_seed: bool = False

    def __post_init__(self) -> None:
        for name in ("new_head", "by_seed"):
            if not isinstance(value := getattr(self, name), bool):
                fail(name, "be true or false", value)
        if not isinstance(self.file, str) or not self.file or "\0" in self.file:
            fail("weights", "be a file of weights or the folder of a finished run", self.file)
        if self.by_seed and self.sha256 is None and SEED not in self.file:
            fail("weights", f"name a file for each seed, by the text {SEED}", self.file)

    def of(self, seed: int) -> Pretrained:
        """These weights where it is known which seed begins at them, `resolved`."""
        path = _path(self.file.replace(SEED, str(seed)) if self.by_seed else self.file)
        return dataclasses.replace(self, file=str(path), sha256=self.sha256 or _digest(path))

    def resolved(self) -> Pretrained:
        """The same with an absolute path, and with the file's hash if it has none yet, unless it depends on the seed.
        Raises InputError where there is no file.
        """
        path = _path(self.file)
        known = self.sha256 or (None if self.by_seed else _digest(path))
        return dataclasses.replace(self, file=str(path), sha256=known)

    def put_into(self, model: nn.Module, classes: int) -> None:
        """Let the untrained `model` begin at the weights of the file, in its own dtypes.

        Raises InputError where the file is another than at first, and naming tensors of other shapes, missing ones, and
        those that the network does not have.
        """
        known = self.resolved()
        path, head = Path(known.file), _head(model, classes)
        if (found := _digest(path)) != known.sha256:
            fail("weights", f"be the file that the run began at, of SHA-256 {known.sha256}", f"{path} of {found}")
        state = weights.read(path)
        if self.new_head:
            if not head:
                fail("new_head", f"go with a network whose last layer is linear and has {classes} outputs", True)
            state = {name: value for name, value in state.items() if name not in head}
        _load(model, state, path, head, self.new_head)


def _path(file: str) -> Path:
    try:
        path = Path(file).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        fail("weights", "be a path", file, f": {error}")
    return path / "model.safetensors" if path.is_dir() else path


def _digest(path: Path) -> str:
    if not path.is_file():
        fail("weights", "be a file of weights or the folder of a finished run", str(path))
    try:
        return weights.digest(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _head(model: nn.Module, classes: int) -> set[str]:
    """The names of the parameters of the last layer of `model`, if its outputs are the classes."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers or layers[-1][1].weight.shape[0] != classes:
        return set()
    name, layer = layers[-1]
    return {f"{name}.{key}" if name else key for key, _ in layer.named_parameters()}


def _load(model: nn.Module, state: dict[str, Tensor], path: Path, head: set[str], new_head: bool) -> None:
    own = model.state_dict()
    fits = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    for name, value in fits.items():
        if not _finite(value):
            raise InputError(f"{path} must hold finite numbers, but does not in {name!r}")
    for name, module in model.named_modules():  # files of batch norms know no α
        alpha = f"{name}.alpha" if name else "alpha"
        if isinstance(module, UnitizedBatchNorm) and alpha not in state:
            fits[alpha] = own[alpha]
    try:
        # Old files of batch norms count no batches either, which their layers excuse.
        missing, _ = model.load_state_dict(fits, strict=False)
    except RuntimeError as error:
        raise InputError(f"{path} must fit the network: {' '.join(str(error).split())[:300]}") from None
    other = [name for name in state if name in own and name not in fits]
    lacking = [name for name in missing if name not in state and not (new_head and name in head)]
    unknown = [name for name in state if name not in own]
    for names, what in ((other, "has another shape of"), (lacking, "lacks"), (unknown, "holds the unknown")):
        if names:
            said = f"{path} must fit the network, but {what} {_listed(names)}"
            if names is other:
                said += f": {tuple(state[other[0]].shape)} there, {tuple(own[other[0]].shape)} here"
                said += "; new_head (--new-head) begins the last layer anew" if head.issuperset(other) else ""
            raise InputError(said)


def _finite(value: Tensor) -> bool:
    try:
        return bool(torch.isfinite(value).all())
    except RuntimeError:  # of sparse and other tensors that no network here has
        return False


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
