"""Training needs its extras when it trains, not when it is imported: `icsbound --help` stays quick."""

import subprocess
import sys

LATE = ("accelerate", "mlxtend", "pandas", "PIL", "pyarrow", "rich", "scipy", "sklearn")
PROGRAM = """
import sys
from icsbound.training import {modules}
print(*sorted(set({late}) & set(sys.modules)))
"""
MODULES = "arms, compare, config, corruptions, data, evaluate, loop, models, pool, progress, recipes, sweep"


def loaded(extra: str = "") -> list[str]:
    program = extra + PROGRAM.format(modules=MODULES, late=LATE)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_extras_are_imported_late() -> None:
    assert loaded() == []


def test_that_test_can_fail() -> None:
    assert loaded("import rich") == ["rich"]
