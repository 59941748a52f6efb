"""One browser for the tests of a process, and records from the same writer as for the tests of the page's text."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api

from icsbound.report import plots

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
sys.path.insert(0, str(Path(__file__).parents[1] / "report" / "results"))
sys.path.insert(0, str(Path(__file__).parents[1] / "report" / "studies"))

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    assert path is not None, "the tests of the page need Chromium (Debian and Ubuntu: apt install chromium)"
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module", autouse=True)
def _no_files_beside_the_page() -> Iterator[None]:
    """The figures' own files, which have tests elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save", lambda figures, folder: None)
        yield
