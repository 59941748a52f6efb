"""What every test starts from: seeded generators, and one thread so that tests may run side by side."""

import signal

import pytest
import torch

# A shell that starts the tests in the background has them ignore Ctrl-C, and so all their children: the tests of
# interruption send that very signal.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
