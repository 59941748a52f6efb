"""What every test starts from: seeded generators, and one thread so that tests may run side by side."""

import signal
import sys
from pathlib import Path

import pytest
import torch

# The benchmarks are scripts, not a package: their folder is where they and their tests find them.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

# A shell that starts the tests in the background has them ignore Ctrl-C, and so all their children: the tests of
# interruption send that very signal.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
