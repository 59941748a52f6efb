import logging

import pytest
import torch

from icsbound.training import devices


@pytest.mark.parametrize(("emulated", "precision", "said"), [(True, "bf16", 1), (True, "no", 0), (False, "bf16", 0)])
def test_says_once_that_bf16_is_emulated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, emulated: bool, precision: str, said: int
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: not emulated)
    devices._bf16_is_emulated.cache_clear()
    with caplog.at_level(logging.WARNING, "icsbound"):
        for _ in range(2):
            devices.accelerator("cpu", precision)
    devices._bf16_is_emulated.cache_clear()
    expected = "precision bf16 on a processor without AVX-512: torch emulates it, and takes several times as long as "
    assert [record.message for record in caplog.records] == [expected + "with precision no"] * said
