"""What the examples share: real digits, a small network, a plain training, and verdicts: a table, and as a command."""

from __future__ import annotations

import re
import tempfile

import pictures
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from icsbound import cli, control, shift_report
from icsbound.training import data, models

SPLITS = data.load("digits")
NORMALIZE = data.Normalize.of(SPLITS.train)
PROBE = NORMALIZE(SPLITS.test.images[::4])  # 250 held-out digits, of every class
MODEL = "resnet8:width=4"


def network() -> nn.Module:
    """A residual network of eight layers with batch norm, untrained."""
    return models.build(MODEL, classes=10, channels=1, norm=nn.BatchNorm2d)


def train(model: nn.Module, steps: int, *, keep: Tensor | None = None, lr: float = 0.1) -> nn.Module:
    """`steps` of SGD on the training digits, or on those that the mask `keep` leaves; in evaluation mode after it."""
    index = torch.arange(len(SPLITS.train)) if keep is None else keep.nonzero().flatten()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for _ in range(steps):
        batch = index[torch.randint(len(index), (64,), generator=generator)]
        loss = nn.functional.cross_entropy(model(NORMALIZE(SPLITS.train.images[batch])), SPLITS.train.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def verdicts(title: str, before: dict[str, Tensor], after: dict[str, Tensor], smallest: float = 0.0) -> dict[str, str]:
    """Print and draw every layer's distance and verdict; of those called moved at most one in twenty should be false.

    `smallest` says what counts as a shift, in spreads.
    """
    shifts = {layer: shift_report(cloud, after[layer]) for layer, cloud in before.items()}
    judged = dict(zip(shifts, control(list(shifts.values()), smallest=smallest), strict=True))
    print(title)
    for layer, shift in shifts.items():
        em = f"EM {shift.em.value:8.4f} = {shift.em.value / shift.spread:6.3f} spreads"
        print(f"  {layer:<22} {em}, floor {shift.floor:.4f}: {judged[layer].text}")
    drawn: dict[str, dict[str, float]] = {verdict.text: {} for verdict in judged.values()}
    for layer, shift in shifts.items():
        drawn[judged[layer].text][layer] = shift.em.value / shift.spread
    drawn["floor"] = {layer: shift.floor / shift.spread for layer, shift in shifts.items()}
    pictures.by_layer(drawn, re.sub(r"[^a-z0-9]+", "-", title.lower()), "distance in spreads", title=title)
    return {layer: verdict.text for layer, verdict in judged.items()}


def command(networks: dict[str, nn.Module], *more: str) -> None:
    """The same comparison by `icsbound measure`, on files of weights with these names; it prints its table."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{name}.safetensors" for name in networks]
        for file, model in zip(files, networks.values(), strict=True):
            save_file(model.state_dict(), file)
        flags = f"--model {MODEL} --data digits --view pooled --probe 250 --jobs 1 --quiet --out {folder}/measured"
        assert cli.main(["measure", *files, *flags.split(), *more]) == 0
