"""What lets the documentation's site be searched where it is opened from a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.page
SHIM = Path(__file__).parents[2] / "docs" / "assets" / "iframe-worker.js"
ANSWERS = """() => new Promise(resolve => {
  const found = [], worker = new Worker('./echo.js');
  worker.onmessage = (event) => {
    found.push(event.data);
    if (found.length === 2) {
      worker.terminate();
      resolve(found);
    }
  };
  const asked = { text: 'drift' };
  worker.postMessage(asked);
  asked.text = 'changed';
  worker.postMessage({ text: 'floor' });
})"""
FAILS = """() => new Promise(resolve => {
  const worker = new Worker('./none.js');
  worker.onerror = (event) => {
    worker.terminate();
    resolve([event.message, document.querySelectorAll('iframe').length]);
  };
})"""


def test_a_worker_answers_in_a_page_that_is_a_file(browser: Any, tmp_path: Path) -> None:
    shutil.copy(SHIM, tmp_path)
    (tmp_path / "echo.js").write_text("self.onmessage = (event) => postMessage({ found: event.data.text });")
    (tmp_path / "index.html").write_text(f'<link rel="icon" href="data:,"><script src="{SHIM.name}"></script><p>')
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "index.html").as_uri())
    assert page.evaluate(ANSWERS) == [{"found": "drift"}, {"found": "floor"}]  # each as it was when it was asked
    assert said == []
    assert page.evaluate(FAILS) == ["./none.js cannot be loaded", 0]
    page.close()
