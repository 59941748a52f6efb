"""Under data-parallel training one rank measures alone while the others go on, or all measure together."""

from collections.abc import Callable
from pathlib import Path

import networks
import pytest
import torch
import torch.distributed as dist
from torch import nn

from icsbound import records
from icsbound._check import InputError
from icsbound.measure.capture import capture
from icsbound.measure.emd import emd
from icsbound.measure.monitor import ICSMonitor

RANKS = 2
PARTS = (slice(0, 7), slice(7, 12))  # of one probe, by rank: not of one length


def meet(rank: int, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Meet the other rank; a network that is the same on both, and the same one wrapped for training together."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=RANKS)
    model = networks.cnn()
    return model, nn.parallel.DistributedDataParallel(model)


def part() -> None:
    """Wait for the other rank, and leave."""
    dist.barrier()
    dist.destroy_process_group()


def run(rank_function: Callable[[int, Path], None], folder: Path) -> None:
    """Both ranks, as forks of a server: they end without finalizing Python.

    DistributedDataParallel keeps Gloo's threads alive beyond the group, and one that drops the last reference to a
    Python tensor while Python is finalized aborts the process, seldom and after everything has passed.
    """
    torch.multiprocessing.start_processes(rank_function, (folder,), nprocs=RANKS, start_method="forkserver")


def train(rank: int, folder: Path) -> None:
    """Two steps on one of two ranks; rank 0 alone has a monitor, on the wrapped model."""
    model, wrapped = meet(rank, folder)
    probe = networks.images(6)
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
    part()


def test_one_rank_measures_alone(tmp_path: Path) -> None:
    run(train, tmp_path)
    found = [record for record in records.read(tmp_path / "0.jsonl") if isinstance(record, records.DistanceRecord)]
    assert [(r.layer, r.step_b) for r in found] == [(la, s) for s in (1, 2) for la in ("1", "4", "9") for _ in range(2)]
    assert all(record.value > 0 for record in found)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS))
    for name, value in first.items():
        if "running" not in name:  # those are broadcast when the next pass begins
            assert torch.equal(value, second[name]), name


def together(rank: int, folder: Path) -> None:
    """Every rank captures its part of the probe; the first has the distances of all of it, and a failure is shared."""
    model, wrapped = meet(rank, folder)
    probe = networks.images(12)
    options = {"every": 2, "cheap_every": 1, "dtype": torch.bfloat16, "gather": True, "verdicts": True}
    monitor = ICSMonitor(wrapped, probe[PARTS[rank]], **options)
    found = monitor.step(0)
    clouds = [capture(model, probe, view="pooled", dtype=torch.bfloat16)]
    for step in (1, 2):
        with torch.no_grad():
            model[9].bias += step
        clouds.append(capture(model, probe, view="pooled", dtype=torch.bfloat16))
        found += monitor.step(step)
    if rank > 0:
        assert found == []
        assert monitor.state_dict().keys() == {"steps", "pace"}  # the clouds are with the first
        assert monitor.seconds > 0
    else:
        taken = [r for r in found if isinstance(r, records.DistanceRecord) and r.view == "pooled"]
        assert [(r.step_a, r.step_b, r.value is None) for r in taken] == [(0, 1, True)] * 3 + [(1, 2, False)] * 3
        for record in taken[3:]:
            assert record.n == 12
            assert record.value == emd(clouds[1][record.layer], clouds[2][record.layer]).value
        assert sum(isinstance(r, records.VerdictRecord) for r in found) == 6
        state = monitor.state_dict()
        resumed = ICSMonitor(model, probe, every=1, dtype=torch.bfloat16)  # the references are of the whole probe
        resumed.load_state_dict(state)
        assert {r.value for r in resumed.step(3) if isinstance(r, records.DistanceRecord)} == {0.0}
    if rank == 1:
        monitor._probe = torch.full((5, 3, 8, 8), torch.nan)
    message = {0: "the capture failed on rank 1: InputError: .* must be finite", 1: "must be finite, got NaN"}[rank]
    with pytest.raises((RuntimeError, InputError), match=message):
        monitor.step(4)
    narrow = nn.Sequential(nn.BatchNorm1d(2 + rank))
    other = ICSMonitor(narrow, torch.randn(3, 2 + rank), views="pooled", every=1, gather=True)
    message = r"layers must give values of one size on all ranks, got 0 \(pooled: \d\) on rank \d and 0 \(pooled: \d\)"
    with pytest.raises(InputError, match=message):
        other.step(0)
    with pytest.raises(InputError, match="every must be an interval or a function of the step where ranks measure tog"):
        ICSMonitor(narrow, torch.randn(3, 2 + rank), gather=True)
    norm = nn.Sequential(nn.BatchNorm1d(2))
    message = "probe must hold at most 23,170 inputs for exact distances, got 24,000, whose cost matrix would take"
    with pytest.raises(InputError, match=message):
        ICSMonitor(norm, torch.randn(12_000, 2), every=1, gather=True)
    few = ICSMonitor(norm, torch.randn(5, 2), views="pooled", every=1, gather=True, verdicts=True)  # 10 together
    few.step(0)
    with pytest.raises(InputError, match="probe must hold at least 8 inputs for verdicts, got 6"):
        ICSMonitor(norm, torch.randn(3, 2), every=1, gather=True, verdicts=True)
    message = {0: "the monitor failed on rank 1: InputError: layers must match", 1: "got 'nor', which matches"}[rank]
    with pytest.raises((RuntimeError, InputError), match=message):
        ICSMonitor(norm, torch.randn(3, 2), layers="nor" if rank else "0", every=1, gather=True)
    part()


def failing(rank: int, folder: Path) -> None:
    """What the first rank's sinks and alert raise is raised on all ranks, and all can go on."""
    model, _ = meet(rank, folder)
    wrong: list[BaseException] = []

    def fail(_: records.Record) -> None:
        if wrong:
            raise wrong.pop()

    options = {"views": "pooled", "every": 1, "gather": True}
    # The others have no use for a sink and an alert, which are never called there.
    told = {"sink": fail} if rank == 0 else {}
    monitor = ICSMonitor(model, networks.images(12)[PARTS[rank]], **options, **told)
    monitor.step(0)
    state = monitor.state_dict()
    wrong.append(OSError("the disk is full"))
    message = ["^the disk is full$", "^the measurement failed on rank 0: OSError: the disk is full$"][rank]
    with pytest.raises((OSError, RuntimeError), match=message):
        monitor.step(1)
    assert monitor.state_dict().keys() == state.keys()
    assert monitor.last_step == 0  # the step was not measured
    wrong.clear()
    found = monitor.step(1)
    assert any(isinstance(record, records.DistanceRecord) for record in found) == (rank == 0)

    told = {"alert": fail} if rank == 0 else {}
    alarmed = ICSMonitor(model, networks.images(24)[rank::2], verdicts=True, **options, **told)
    alarmed.step(0)
    with torch.no_grad():
        model[9].bias += 10
    wrong.append(SystemExit(7))
    message = ["^7$", "^the alert failed on rank 0: SystemExit: 7$"][rank]
    with pytest.raises((SystemExit, RuntimeError), match=message):
        alarmed.step(1)
    assert alarmed.last_step == 1  # measured, and ready for the next
    alarmed.step(2)
    part()


def test_what_fails_on_the_first_rank_is_raised_on_all(tmp_path: Path) -> None:
    run(failing, tmp_path)


def test_all_ranks_measure_together(tmp_path: Path) -> None:
    run(together, tmp_path)


def test_gathering_needs_a_group() -> None:
    message = "gather must be False where torch.distributed is not initialized, got True"
    with pytest.raises(InputError, match=message):
        ICSMonitor(networks.cnn(), networks.images(2), every=1, gather=True)
