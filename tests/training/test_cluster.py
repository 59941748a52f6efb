"""A sweep on a real Ray cluster of two nodes on this machine, one of which is killed midway: nothing is lost, nothing
is run twice into the table.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small import config, few_digits

from icsbound._check import InputError
from icsbound.training import cluster, loop, pool, results
from icsbound.training.progress import Event
from icsbound.training.sweep import SweepConfig, sweep

# Real digits, whole, since a node's process is not this one; most are held out, so that an epoch stays short.
BASE = config(monitor=None, dropout=0.0, split="validation", hold_out=0.8, recipe={"epochs": 5})
FOUR = SweepConfig(arms=("bn", "unitized"), seeds=(0, 1), batch_sizes=(16,), base=BASE, setting="ray")


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """A head with room for one run, and a node with room for another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own
        import ray
        from ray.cluster_utils import Cluster

        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        node = found.add_node(num_cpus=1)
        ray.init(address=found.address, log_to_driver=False)
        yield found, node
        ray.shutdown()
        found.shutdown()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_node_that_is_killed_loses_nothing(two_nodes: Any, tmp_path: Path) -> None:
    found, node = two_nodes
    begun: dict[str, int] = {}
    places: dict[str, list[str]] = {}
    killed: list[set[str]] = []

    def watch(event: Event) -> None:
        if event.note.startswith("on node "):
            places.setdefault(event.run, []).append(event.note)
        begun[event.run] = event.step
        under_way = {name for name, step in begun.items() if 0 < step < event.steps}
        if len(under_way) == 2 and not killed:
            killed.append(under_way)
            found.remove_node(node, allow_graceful=False)

    lines = sweep(FOUR, tmp_path / "ray", launcher="ray", progress=watch)
    assert len(killed) == 1, "two runs were never under way at the same time"
    again = {name for name, nodes in places.items() if len(nodes) == 2}
    assert len(again) == 1, "the run of the lost node was not begun again"
    assert again <= killed[0]
    assert len(set(places[again.pop()])) == 2, "it was begun again on another node"
    table = results.read(tmp_path / "ray" / "results.jsonl")
    assert len(table) == len({line.key for line in table}) == 4
    assert sorted(line.key for line in table) == sorted(line.key for line in lines)
    assert all(loop.finished(tmp_path / "ray" / name) is not None for name in FOUR.runs())
    # Wherever a run was trained, and however often it was begun: the same numbers.
    sweep(FOUR, tmp_path / "local", jobs=1)
    for name in FOUR.runs():
        weights = [(tmp_path / where / name / "model.safetensors").read_bytes() for where in ("ray", "local")]
        assert weights[0] == weights[1], name
    # Called again, it has nothing to do and writes nothing.
    before = (tmp_path / "ray" / "results.jsonl").read_bytes()
    sweep(FOUR, tmp_path / "ray", launcher="ray")
    assert (tmp_path / "ray" / "results.jsonl").read_bytes() == before


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_ctrl_c_saves_every_run(two_nodes: Any, tmp_path: Path) -> None:
    import _thread

    long = dataclasses.replace(FOUR, base=config(monitor=None, split="validation", recipe={"epochs": 50}))

    pressed: list[Event] = []

    def watch(event: Event) -> None:
        if event.step > 3 and not pressed:
            pressed.append(event)
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt, match=rf"go on with: icsbound sweep --resume {tmp_path}$"):
        sweep(long, tmp_path, launcher="ray", progress=watch)
    saved = [path.parts[-3] for path in tmp_path.glob("*/checkpoints/step-*.pt")]
    assert saved
    assert results.read(tmp_path / "results.jsonl") == []


def test_a_cluster_needs_ray_and_takes_no_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^jobs must be left out with launcher ray, which fills the cluster, got 2$"):
        sweep(FOUR, tmp_path, jobs=2, launcher="ray")
    with pytest.raises(InputError, match=r"^launcher must be one of 'local', 'ray', got 'slurm'$"):
        sweep(FOUR, tmp_path, launcher="slurm")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^launcher ray must have ray, which .* pip install 'icsbound\[ray\]'$"):
        sweep(FOUR, tmp_path, launcher="ray")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_networks_are_kept_on_a_cluster_as_here(two_nodes: Any, tmp_path: Path) -> None:
    short = config(monitor=None, dropout=0.0, split="validation", hold_out=0.8, recipe={"epochs": 1})
    (result,) = cluster.run([pool.Task(short, tmp_path / "run", snapshots="10steps")])
    assert _kept(tmp_path / "run") == list(range(10, result.step + 1, 10))


def _kept(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / "snapshots").iterdir())


class Node:
    """What a task asks of Ray about the node it runs on."""

    class util:
        get_node_ip_address = staticmethod(lambda: "10.0.0.7")

    class get_runtime_context:
        get_node_id = staticmethod(lambda: "0123456789abcdef")


class Inbox:
    class tell:
        remote = staticmethod(lambda event: None)


def test_a_task_keeps_the_network_as_often_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    monkeypatch.setattr(cluster, "ray", lambda: Node)
    told = cluster._train(config(monitor=None, recipe={"epochs": 1}).to_dict(), str(tmp_path / "run"), "2steps", Inbox)
    assert "result" in told
    assert _kept(tmp_path / "run") == [2, 4, 6]


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray", lambda: Node)
    told = cluster._train(BASE.to_dict(), str(tmp_path / "elsewhere" / "run"), None, None)
    assert told == {"failed": f"node 01234567 (10.0.0.7) does not see {tmp_path / 'elsewhere'}: all must share it"}


def test_ray_is_imported_late() -> None:
    code = "import sys, icsbound.training.sweep; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
