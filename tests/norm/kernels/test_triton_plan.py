"""The cut of a problem into programs: all of it, once, in tiles that fit, whatever the shape."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icsbound.norm.kernels import triton_plan
from icsbound.norm.kernels.triton_plan import pixel_tiles, row_tiles, up
from icsbound.norm.settings import Settings

SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 3000), st.integers(1, 60000))


def check(t, N, C, L, pixels):
    assert (t.N, t.C, t.L) == (N, C, L)
    for size in (t.BC, t.BL):
        assert size == up(size)
    assert t.blocks * t.BC >= C > (t.blocks - 1) * t.BC
    assert t.S * t.SPAN >= L > (t.S - 1) * t.SPAN  # no segment is empty
    assert pixels or t.S == 1 or t.SPAN % 16 == 0
    assert t.one == (min(t.SPAN, L) <= t.BL)
    assert 1 <= t.warps <= 32
    assert t.programs < 2**31


@settings(deadline=None, derandomize=True, max_examples=300)
@given(SHAPES, st.booleans(), st.sampled_from([2, 4, 8]))
def test_tiles_of_rows(shape, pixels, size):
    t = row_tiles(*shape, pixels, size)
    check(t, *shape, pixels)
    assert t.BC * t.BL <= triton_plan.TILE
    N, C, L = shape
    if N * C * L >= triton_plan.ENOUGH_PROGRAMS * triton_plan.SMALLEST_TILE:
        # Half of the lanes of a tile at least have something to do, along each axis.
        assert t.programs >= min(triton_plan.ENOUGH_PROGRAMS // 4, N * t.blocks * L)
    if t.S > 1:  # samples alone may be more
        assert t.programs <= 2 * triton_plan.MOST_PROGRAMS + N * t.blocks


@settings(deadline=None, derandomize=True, max_examples=300)
@given(SHAPES, st.booleans())
def test_tiles_of_pixels(shape, pixels):
    largest = triton_plan.LARGEST_TILE
    t = pixel_tiles(*shape, pixels, largest)
    check(t, *shape, pixels)
    elements, channels = t.BC * t.BL, t.BC
    assert elements <= largest
    if channels < shape[1]:
        assert t.one  # what is found by blocks of channels is not summed over tiles


@settings(deadline=None, derandomize=True, max_examples=100)
@given(SHAPES, st.booleans(), st.sampled_from(["sample", "position", "batch"]), st.booleans())
def test_where_no_sum_is_over_a_sample_channels_last_is_one_list_of_pixels(shape, pixels, scope, training):
    N, C, L = shape
    p = triton_plan.plan(N, C, L, torch.float32, pixels, Settings(scope=scope), training)
    listed = pixels and (scope != "sample" or L == 1)
    wanted = (1, N * L) if listed else (N, L)
    samples, positions = p.rows.N, p.rows.L
    assert (samples, positions) == wanted
    assert (p.samples, p.values) == (N, N * L)
    if p.in_registers:
        assert not training
        assert p.pixel_affine.BC >= C
        assert p.pixel_affine.BL >= L
        assert p.pixel_affine.groups == N


def test_the_cut_depends_on_shape_and_dtype_alone():
    # Another cut would sum in another order: on another GPU, or in another process, the bits would differ.
    found = triton_plan.plan(128, 64, 3136, torch.bfloat16, True, Settings(), True).rows
    assert found == (128, 64, 3136, 64, 32, 14, 224, 8)
