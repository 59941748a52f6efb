"""What every test starts from: seeded generators, and one thread so that tests may run side by side."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
