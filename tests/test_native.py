"""The native library is optional where the package is installed, and required where its own tests say so."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from icsbound import _native, doctor
from icsbound._check import InputError


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
def test_a_library_of_other_sources_is_left_out(
    tmp_path: Path, source: str, found: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "k.cpp").write_text(source)
    subprocess.run(["g++", "-shared", "-fPIC", "k.cpp", "-o", "_kernels.so"], cwd=tmp_path, check=True)
    monkeypatch.setattr(_native, "files", lambda: [tmp_path / "_kernels.so"])
    assert left_out() == (
        f"_kernels.so was built from other sources (interface {found}, not {_native.ABI}) and is left out: running on "
        "torch alone, slower; install icsbound again to build it"
    )
    assert not caplog.records  # that none was built would not be true


def left_out() -> str:
    """What is said of a library that is not used. The loader is called past its cache, which is left as it was."""
    with pytest.warns(UserWarning, match="left out") as record:
        assert _native.library.__wrapped__() is None
    assert len(record) == 1
    return str(record[0].message)


def test_a_damaged_library_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "_kernels.so"
    path.write_bytes(b"no library at all")
    fitting = _native.files()
    monkeypatch.setattr(_native, "files", lambda: [path])
    said = left_out()
    assert said.startswith("_kernels.so cannot be loaded (")
    assert said.endswith(") and is left out: running on torch alone, slower; install icsbound again to build it")
    assert not caplog.records
    monkeypatch.setattr(_native, "library", lambda: None)
    (line,) = (line for line in doctor.lines(doctor.examine()) if line.startswith("native library: "))
    assert line.startswith("native library: _kernels.so cannot be loaded (")
    assert line.endswith("); the layer runs on torch and the distance on POT, slower")

    if fitting:  # one that fits is taken, and nothing is said of the other
        monkeypatch.setattr(_native, "files", lambda: [path, *fitting])
        assert _native.opened()[0] is not None
        assert _native.opened()[1] is None


def test_that_none_was_built_is_a_warning_of_the_logger(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_native, "files", list)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _native.library.__wrapped__() is None
    assert caplog.record_tuples == [
        (
            "icsbound",
            30,
            "no native library was built for this installation of icsbound: running on torch alone, slower",
        )
    ]


# Without a compiler the package runs without the library, and there is no level to ask for; the first test above fails
# where it must have been built.
needs_library = pytest.mark.skipif(not _native.files(), reason="no native library was built for this installation")


@needs_library
def test_the_environment_may_ask_for_less_than_the_best_level() -> None:
    code = "from icsbound import _native; print(_native.simd())"
    asked = {**os.environ, "ICSBOUND_SIMD": "baseline"}
    said = subprocess.run([sys.executable, "-c", code], env=asked, check=True, capture_output=True, text=True)
    assert said.stdout == "baseline\n"


@needs_library
def test_the_kernels_have_torchs_threads() -> None:
    assert _native.parallel_for() != 0  # else they would all run on one, and be right


@needs_library
def test_another_level_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICSBOUND_SIMD", "avx")
    with pytest.raises(InputError) as error:
        _native.library.__wrapped__()
    assert str(error.value) == (
        "ICSBOUND_SIMD must be one of 'baseline', 'avx2', 'avx512', got 'avx' (did you mean 'avx2'?)"
    )
