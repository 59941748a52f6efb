"""The GPU benchmark as far as it goes without one: its arguments, its refusal, its candidates on a CPU, its table."""

import json
import time

import layer_gpu
import layer_gpu_parts
import pytest
import torch


def stopwatch(candidates, rounds):
    """In place of CUDA graphs: each call by itself."""

    def seconds(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return {name: [seconds(call) for call in calls for _ in range(rounds)] for name, calls in candidates.items()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(capsys):
    assert layer_gpu.main(["--parts", "passes"]) == 2
    assert "needs an NVIDIA GPU, and torch sees none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--shapes", "8x8"], "must be sizes N x C x H x W such as 128x64x56x56"),
        (["--shapes", "axbxcxd"], "must be sizes N x C x H x W"),
        (["--rounds", "0"], "must be at least 1, got 0"),
        (["--parts", "engine"], "invalid choice: 'engine'"),
    ],
)
def test_bad_arguments(words, why, capsys):
    with pytest.raises(SystemExit) as stopped:
        layer_gpu.parsed(words)
    assert stopped.value.code == 2
    assert why in capsys.readouterr().err


def test_arguments():
    found = layer_gpu.parsed(["--shapes", "2x3x4x5", "--dtypes", "float16", "--rounds", "3"])
    assert (found.shapes, found.dtypes, found.rounds) == ([(2, 3, 4, 5)], ["float16"], 3)
    assert layer_gpu.parsed([]).shapes == layer_gpu.SHAPES


def test_buffers_fill_the_cache_three_times():
    assert layer_gpu_parts.sets_of_buffers(10**6, 2, 50 * 10**6) == 75
    assert layer_gpu_parts.sets_of_buffers(10**9, 2, 50 * 10**6) == 2  # x of one call is never that of the next


@pytest.mark.parametrize("layout", layer_gpu.LAYOUTS)
def test_layers(layout):
    """Every candidate runs forward and backward, and is compared with the batch norm that does the same work."""
    rows = list(layer_gpu.rows_of_layers((4, 3, 5, 6), "float32", layout, "cpu", 100, stopwatch, 2, compiled=False))
    assert [r.name for r in rows] == ["batch norm", "ours", "ours, position", "batch norm, relu", "ours, relu"]
    for row in rows:
        assert row.seconds > 0
        if row.name == layer_gpu_parts.peer(row.name):
            assert row.ratio == 1
            assert row.goal is row.met is None
    assert layer_gpu_parts.peer("ours, compiled") == "batch norm, compiled"
    assert [r.goal for r in rows if r.name.startswith("ours")] == [1.3, None, 1.3]  # small: launches count


def test_network(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)  # minutes on a CPU
    rows = list(layer_gpu.rows_of_network("resnet18", 2, 32, "cpu", 1))
    assert [r.name for r in rows] == ["resnet18, batch norm", "resnet18, ours"]
    assert rows[0].ratio == 1
    assert rows[1].goal == 1.05


def row(part, ratio, goal, name="affine"):
    return layer_gpu.Row(part, name, "128x64x56x56", "channels_last", "bfloat16", 1e-5, ratio, goal, 30_000_000)


def test_goals_and_table():
    rows = [
        row("passes", 0.97, 0.9),
        row("passes", 0.85, 0.9, "dots"),
        row("layers", 0.9, 1.0),
        row("layers", 1.1, 1.0),
    ]
    assert [r.met for r in rows] == [True, False, True, False]  # a share of bandwidth, and a time
    assert layer_gpu.line(rows[1]).endswith("3000   0.85   0.90 missed")
    assert layer_gpu.line(row("passes", 1.0, None, "clone")).endswith("1.00")
    assert len(layer_gpu.HEADER) < 120
    passes, layers = layer_gpu.summary([*rows, row("network", 1.0, None)])
    assert passes == "passes: 1 of 2 goals met; worst 0.85 for 0.90, dots at 128x64x56x56 channels_last bfloat16"
    assert layers.startswith("layers: 1 of 2 goals met; worst 1.10 for 1.00")
    json.dumps([layer_gpu.dataclasses.asdict(r) for r in rows])
