"""The backends that tests run through where they differ in code and must not differ in results."""

import pytest

from icsbound.norm.kernels import cpu


@pytest.fixture(params=["native", "aten"])
def backend(request, monkeypatch):
    """Each test runs once by the native kernels, where they were built, and once without them."""
    if request.param == "aten":
        monkeypatch.setattr(cpu, "usable", lambda x: False)
    elif cpu._calls() is None:
        pytest.skip("no native library was built for this installation")
    return request.param
