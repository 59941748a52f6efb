"""Under data-parallel training one rank measures alone, while the others go on."""

from pathlib import Path

import networks
import pytest
import torch
import torch.distributed as dist
from torch import nn

from icsbound import records
from icsbound._check import InputError
from icsbound.measure.capture import capture
from icsbound.measure.monitor import ICSMonitor

RANKS = 2


def train(rank: int, folder: Path) -> None:
    """Two steps on one of two ranks; rank 0 alone has a monitor, on the wrapped model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=RANKS)
    model, probe = networks.cnn(), networks.images(6)
    wrapped = nn.parallel.DistributedDataParallel(model)
    with records.Writer(folder / f"{rank}.jsonl") as writer:
        monitor = ICSMonitor(wrapped, probe, every=1, sink=writer.write) if rank == 0 else None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(rank)
        for step in range(3):
            if step > 0:
                optimizer.zero_grad()
                wrapped(networks.images(4)).square().mean().backward()
                optimizer.step()
            if monitor is not None:
                monitor.step(step)
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(networks.cnn())
    capture(synchronized, probe)  # by running statistics: no other rank is needed
    message = r"law must be 'eval' while 2 ranks train together, got 'train': layer '1' would wait for the statistics"
    with pytest.raises(InputError, match=message):
        capture(synchronized, probe, law="train")
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_one_rank_measures_alone(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train, (tmp_path,), nprocs=RANKS)
    found = [record for record in records.read(tmp_path / "0.jsonl") if isinstance(record, records.DistanceRecord)]
    assert [(r.layer, r.step_b) for r in found] == [(la, s) for s in (1, 2) for la in ("1", "4", "9") for _ in range(2)]
    assert all(record.value > 0 for record in found)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS))
    for name, value in first.items():
        if "running" not in name:  # those are broadcast when the next pass begins
            assert torch.equal(value, second[name]), name
