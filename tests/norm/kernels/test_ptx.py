"""What the Triton kernels become on an H100, without one: every launch compiled, and ptxas asked about it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("compiles for a minute: `make test-triton`", allow_module_level=True)
pytest.importorskip("triton")

COEFFICIENTS = {"statistics", "row_gradients", "pixel_gradients"}
BY_ROW = {"moments", "norms", "affine", "dots", "affine2", "row_affine", "row_dots", "row_affine2"}
BY_PIXEL = {"pixel_affine", "pixel_dots"}
IMAGES = [128, 64, 56, 56]


def problem(shape, dtype="float32", pixels=False, training=True, **settings):
    return {"shape": shape, "dtype": dtype, "pixels": pixels, "training": training, "settings": settings}


def compiled(*problems):
    """Every launch of these problems."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("ptx.py")],
        input=json.dumps(problems), capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


LAYOUTS = [False, True]
BOTH_LAYOUTS = pytest.mark.parametrize("pixels", LAYOUTS, ids=["contiguous", "channels_last"])


@pytest.fixture(scope="module")
def usual(request):
    """Every launch of the usual passes in one dtype."""
    kinds = {"activation": "relu"}, {"training": False}, {"scope": "position"}
    return compiled(*(problem(IMAGES, request.param, pixels, **kind) for kind in kinds for pixels in LAYOUTS))


def every_dtype(*names):
    """With such a scope the tests of one dtype follow each other: what they look at is compiled once."""
    return pytest.mark.parametrize("usual", names, indirect=True, scope="module")


@every_dtype("float32", "float64", "bfloat16", "float16")
@BOTH_LAYOUTS
def test_every_kernel_compiles_to_wide_accesses_and_no_atomics(usual, pixels):
    launches = [launch for launch in usual if launch["pixels"] == pixels]
    assert {launch["kernel"] for launch in launches} == COEFFICIENTS | BY_ROW | BY_PIXEL
    for launch in launches:
        assert launch["atomics"] == 0, launch
        if launch["kernel"] in BY_ROW | BY_PIXEL:
            assert launch["load"] == 16, launch
            assert launch["programs"] >= 264, launch  # two for each of the 132 multiprocessors
        if "affine" in launch["kernel"]:
            assert launch["store"] == 16, launch


@every_dtype("float32", "bfloat16", "float16")
@BOTH_LAYOUTS
def test_three_programs_of_the_row_passes_share_a_multiprocessor(usual, pixels):
    launches = [launch for launch in usual if launch["pixels"] == pixels]
    by_row = [launch for launch in launches if launch["settings"].get("scope") != "position"]
    passes = [launch for launch in by_row if launch["kernel"] in BY_ROW]
    assert passes
    for launch in passes:
        assert launch["registers"] * 32 * launch["warps"] * 3 <= 65536, launch
        assert launch["spilled"] <= 64, launch


def test_few_channels_of_few_samples_still_use_every_multiprocessor():
    for launch in compiled(problem([1, 3, 224, 224]), problem([1, 3, 224, 224], pixels=True)):
        if launch["kernel"] in BY_ROW:
            assert launch["programs"] >= 132, launch


def test_odd_sizes_settings_and_sizes_of_one_compile():
    # Sizes of 1 are constants to the compiler, and large ones take 64-bit arguments.
    launches = compiled(
        problem([32, 510, 7, 7], activation="relu"),
        problem([1, 1, 9], interpolation="geometric", shrink_only=True),
        problem([2, 1], interpolation="arithmetic"),
        problem([1, 5, 1, 1], training=False),
        problem([4, 600, 5, 5], scope="position"),  # channels gone through in blocks
        problem([64, 64, 8, 8], training=False, interpolation="arithmetic"),  # a sample in registers
        problem([16, 64, 14, 14], scope="batch", variance="published"),
        problem([16, 64, 14, 14], scope="batch", training=False),
        problem([256, 1024], "bfloat16"),
        problem([3, 2, 2**31], "bfloat16", scope="position"),
    )
    assert {launch["kernel"] for launch in launches} >= COEFFICIENTS | BY_PIXEL | BY_ROW - {"norms"}
    assert all(launch["atomics"] == 0 for launch in launches)
