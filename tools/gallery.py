"""Run every script of examples/ and write a page for each, with its code, what it printed and its pictures.

python tools/gallery.py        # before the site is built; the pages lie in docs/gallery/
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "gallery"
SHARED = {"common", "pictures"}  # modules of the examples, not examples


def page_of(script: Path) -> str:
    """The page of one example, which is run for it; raises where the example fails."""
    code = script.read_text(encoding="utf-8")
    drawn = PAGES / script.stem  # a folder of its own: examples run side by side
    print(f"running {script.name}\n", end="", flush=True)  # in one piece
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=script.parent,
        env=os.environ | {"EXAMPLE_PICTURES": str(drawn)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{script.name} failed:\n{done.stderr}")
    parts = [f"# {title(script)}", *explained(code)]
    parts += [f"![Picture that {script.name} draws]({script.stem}/{path.name})" for path in sorted(drawn.glob("*.svg"))]
    parts += [
        f"It prints\n\n```text\n{done.stdout.rstrip()}\n```",
        f"## {script.name}\n\n```python\n{code.rstrip()}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def explained(code: str) -> tuple[str, str]:
    """The first paragraph of a script's docstring, on one line, and the others."""
    summary, _, rest = (ast.get_docstring(ast.parse(code)) or "").partition("\n\n")
    return summary.replace("\n", " "), rest


def title(script: Path) -> str:
    """The title of an example's page, which is its name in words."""
    return script.stem.replace("_", " ").capitalize()


def main() -> None:
    """Run all examples, one on each processor."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    scripts = [s for s in sorted((ROOT / "examples").glob("*.py")) if s.stem not in SHARED]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pages = dict(zip(scripts, pool.map(page_of, scripts), strict=True))
    entries = []
    for script, page in pages.items():
        (PAGES / f"{script.stem}.md").write_text(page, encoding="utf-8")
        summary, _ = explained(script.read_text(encoding="utf-8"))
        entries.append(f"- [{title(script)}]({script.stem}.md): {summary}")
    index = [
        "# Gallery",
        "Each page is a script of `examples/`, run while this site was built: the output is what it printed.",
        "\n".join(entries),
    ]
    (PAGES / "index.md").write_text("\n\n".join(index) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
