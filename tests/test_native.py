"""The native library is optional where the package is installed, and required where its own tests say so."""

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from icsbound import _native


def test_it_was_built_where_it_must_have_been() -> None:
    if os.environ.get("ICSBOUND_REQUIRE_NATIVE") != "1":
        pytest.skip("only where ICSBOUND_REQUIRE_NATIVE=1 says that a compiler is at hand")
    assert isinstance(_native.library(), ctypes.CDLL)


def test_the_two_places_that_hold_the_interfaces_version_agree() -> None:
    source = Path(__file__).parents[1] / "src" / "native" / "abi.cpp"
    assert re.findall(r"return (\d+);", source.read_text(encoding="utf-8")) == [str(_native.ABI)]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("source", "found"), [("", "None"), ('extern "C" int icsbound_abi() { return 0; }', "0")], ids=["older", "other"]
)
def test_a_library_of_other_sources_is_left_out(tmp_path: Path, source: str, found: str) -> None:
    (tmp_path / "k.cpp").write_text(source)
    subprocess.run(["g++", "-shared", "-fPIC", "k.cpp", "-o", "_kernels.so"], cwd=tmp_path, check=True)
    message = rf"^_kernels\.so was built from other sources \(interface {found}, not {_native.ABI}\) and is left out"
    with pytest.warns(UserWarning, match=message):
        assert _native._of_these_sources(tmp_path / "_kernels.so") is None
