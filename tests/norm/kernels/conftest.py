"""The instruction sets that the native kernels are tried with."""

import pytest

from icsbound import _native


@pytest.fixture(params=_native.SIMD_LEVELS)
def level(request):
    """Each instruction set in turn. One that the processor lacks cannot run: the library then takes one that it has."""
    before = _native.simd()
    try:
        if _native.simd(request.param) != request.param:
            pytest.skip(f"this processor has no {request.param}")
        yield request.param
    finally:
        _native.simd(before)
