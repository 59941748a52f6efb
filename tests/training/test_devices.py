import logging

import pytest
import torch

from icsbound.training import devices

OLD, NEW, OTHER = {"avx512_bf16": False, "amx_bf16": False}, {"avx512_bf16": False, "amx_bf16": True}, {}


@pytest.mark.parametrize(
    ("architecture", "has", "precision", "said"),
    [
        ("x86_64", OLD, "bf16", 1),
        ("x86_64", OLD, "no", 0),
        ("x86_64", NEW, "bf16", 0),
        ("aarch64", OTHER, "bf16", 0),
    ],
)
def test_says_once_that_bf16_is_emulated(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    architecture: str,
    has: dict[str, bool],
    precision: str,
    said: int,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": architecture, **has}, raising=False)
    devices._bf16_is_slow.cache_clear()
    with caplog.at_level(logging.WARNING, "icsbound"):
        for _ in range(2):
            devices.accelerator("cpu", precision)
    devices._bf16_is_slow.cache_clear()
    expected = (
        "precision bf16 on a processor without instructions for it (AVX512_BF16, AMX): torch emulates it and takes "
        "twice to nine times as long as with precision no"
    )
    assert [record.message for record in caplog.records] == [expected] * said
