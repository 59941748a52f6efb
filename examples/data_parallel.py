"""Two processes that share every batch, unevenly, take the steps that one process takes on the whole of it.

Statistics are taken over both parts of a batch (`process_group="world"`), the norms stay each sample's own, and
DistributedDataParallel averages the gradients. What happens without the exchange is shown beside it: each process then
normalizes by its own part, and trains another network.

Run by itself, the script starts two processes of its own, on the CPU, by ``torchrun --nproc-per-node 2``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import icsbound

STEPS, BATCH = 5, 48
PARTS = (slice(0, 16), slice(16, BATCH))  # of every batch: what the first process has, and the second


def network(process_group: str | None) -> nn.Module:
    """The same unitized network in every process; converted first, wrapped afterwards."""
    made = icsbound.convert(common.network(), alpha_init=0.5, process_group=process_group)
    return made.double()  # so that a difference is seen to be rounding or not


def train(model: nn.Module, part: slice, factor: float) -> None:
    """A few steps of SGD on this part of each batch; `factor` is the number of processes that gradients come from."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        batch = torch.randint(len(common.SPLITS.train), (BATCH,), generator=generator)[part]
        logits = model(common.NORMALIZE(common.SPLITS.train.images[batch], torch.float64))
        loss = nn.functional.cross_entropy(logits, common.SPLITS.train.labels[batch], reduction="sum")
        optimizer.zero_grad()
        # The parts are unequal and their gradients are averaged: so weighted, the average is that of the whole batch.
        (loss * factor / BATCH).backward()
        optimizer.step()


def trained_together(process_group: str | None) -> dict[str, Tensor]:
    """The network after the steps of both processes."""
    model = network(process_group)
    train(DistributedDataParallel(model), PARTS[dist.get_rank()], dist.get_world_size())
    return model.state_dict()


def in_a_group(report: Path) -> None:
    """What each of the two processes does; the first writes the largest differences to one process alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    together, apart = trained_together("world"), trained_together(None)
    if dist.get_rank() == 0:
        alone = network(None)
        train(alone, slice(None), 1)
        found = {
            name: max((state[key] - value).abs().max().item() for key, value in alone.state_dict().items())
            for name, state in (("together", together), ("apart", apart))
        }
        report.write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()  # a process that left at once might leave in the middle of its last exchange
    dist.destroy_process_group()


def main() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "found.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*torchrun, __file__, str(report)], check=True, env={"OMP_NUM_THREADS": "1", **os.environ})
        found: dict[str, float] = json.loads(report.read_text(encoding="utf-8"))
    print(f"{STEPS} steps of two processes, with {PARTS[0].stop} and {BATCH - PARTS[0].stop} images of each batch")
    print("largest difference of a parameter or running statistic to one process with whole batches:")
    print(f"  statistics shared: {found['together']:.0e}")
    print(f"  each its own:      {found['apart']:.0e}")
    return found


if __name__ == "__main__":
    if "RANK" in os.environ:
        in_a_group(Path(sys.argv[1]))
    else:
        main()
