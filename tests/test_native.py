"""The native library is optional where the package is installed, and required where its own tests say so."""

import ctypes
import os

import pytest

from icsbound import _native


def test_it_was_built_where_it_must_have_been() -> None:
    if os.environ.get("ICSBOUND_REQUIRE_NATIVE") != "1":
        pytest.skip("only where ICSBOUND_REQUIRE_NATIVE=1 says that a compiler is at hand")
    assert isinstance(_native.library(), ctypes.CDLL)
