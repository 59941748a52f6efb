"""Two and three processes equal the whole batch in one, forward and backward. The checks themselves: `processes`."""

import multiprocessing

import processes
import pytest
import torch
import torch.distributed as dist

from icsbound.norm import UnitizedBatchNorm1d

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


@pytest.mark.parametrize("job", [processes.two, processes.three])
def test_processes_together_equal_one(job, tmp_path):
    # A server that has imported torch once, from which the processes fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["processes"])
    world = {processes.two: 2, processes.three: 3}[job]
    results = context.SimpleQueue()
    running = [
        context.Process(target=processes.enter, args=(rank, world, str(tmp_path / "store"), job, results))
        for rank in range(world)
    ]
    for process in running:
        process.start()
    failures = [text for _, text in (results.get() for _ in running) if text]
    for process in running:
        process.join(timeout=30)
        if process.is_alive():
            process.kill()
    assert not failures, "\n".join(failures)
    assert [process.exitcode for process in running] == [0] * world


def test_one_process_alone_needs_no_exchange(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        layer, twin = UnitizedBatchNorm1d(3, process_group="world"), UnitizedBatchNorm1d(3)
        x = torch.randn(5, 3)
        assert torch.equal(layer(x), twin(x))
        group = dist.new_group([0])
        assert UnitizedBatchNorm1d(3, process_group=group)(x).shape == x.shape
        untracked = UnitizedBatchNorm1d(3, process_group="world", track_running_stats=False)
        for refusing in (layer, untracked, untracked.eval()):
            with pytest.raises(ValueError, match=r"^x must hold more than one value per channel in training, got"):
                refusing(x[:1])
        assert layer.num_batches_tracked == 1
    finally:
        dist.destroy_process_group()
    with pytest.raises(ValueError, match=r"process_group must be None until torch.distributed is initialised"):
        layer(x)
