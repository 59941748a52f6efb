"""The benchmark of the layer: its arguments, and one tiny problem through all that it times."""

import layer
import pytest
import timing
import torch


def test_shapes_that_it_has_not_are_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        layer.parsed(["--shapes", "128x64x8x8", "128x64x8"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "argument --shapes: must be among 128x16x32x32, 128x32x16x16, " in error
    assert error.endswith(", got 128x64x8\n")


def test_shapes():
    assert layer.parsed([]).shapes == layer.SHAPES
    assert layer.parsed(["--shapes", "256x1024", "64x96x7x7"]).shapes == [(64, 96, 7, 7), (256, 1024)]


def test_what_it_measures_is_what_the_documentation_speaks_of():
    assert layer.SHAPES == [
        (128, 16, 32, 32),
        (128, 32, 16, 16),
        (128, 64, 8, 8),
        (128, 64, 32, 32),
        (32, 64, 56, 56),
        (32, 256, 14, 14),
        (32, 512, 7, 7),
        (16, 256, 56, 56),
        (64, 96, 7, 7),
        (256, 1024),
        (4, 32, 16, 32, 32),
        (2, 64, 112, 112),
    ]
    assert list(layer.candidates((4, 3), relu=False, compiled=False, others=True)) == [
        "batch norm",
        "ours",
        "ours, position",
        "group norm (1)",
        "ours over aten",
        "composite",
    ]


@pytest.mark.parametrize(
    ("mode", "dtype"), [("train", torch.float32), ("train", torch.bfloat16), ("eval", torch.bfloat16)], ids=str
)
def test_every_candidate_is_timed_on_one_problem(mode, dtype):
    shape = (4, 3, 5, 6)
    layers = layer.candidates(shape, relu=True, compiled=False, others=True)
    rows = list(layer.measure(shape, "channels_last", dtype, True, mode, layers, seconds=0.0))
    assert [r.name for r in rows] == [*layers, "copy"]
    by_name = {r.name: r for r in rows}
    assert by_name["batch norm"].ratio == by_name["copy"].copies == 1.0
    for r in rows:
        assert 0 < r.fastest <= r.median
        assert r.rounds == 5
        assert r.ratio_low <= r.ratio <= r.ratio_high
        assert len(layer.line(r)) >= len(layer.HEADER) - 5
    assert by_name["ours"].peak_bytes > 0
    assert len(layer.summary(rows)) == 3  # of ours, ours in position scope, ours over aten


def test_the_peak_is_that_of_the_step():
    def step():
        held = torch.ones(1000)
        more = held + 1
        del held, more
        return torch.ones(10)

    assert 8000 <= timing.peak_bytes(step) < 8100  # numbers by the way may take a few bytes
