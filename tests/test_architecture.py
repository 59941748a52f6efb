"""The house keeps its shape: imports follow the arrows, and importing the package stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "icsbound"

# Which parts a part may import. The roof (`cli`) may import all; the ground floor imports nothing above itself.
GROUND = {"_check", "_evidence", "_native", "_version", "records", "results"}
ROOF = {"cli", "commands", "doctor", "flags", "study_command"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    "norm": GROUND,
    "measure": GROUND,
    "training": GROUND | {"norm", "measure"},
    "study": GROUND | {"norm", "measure", "training"},
    "report": GROUND,
    "__init__": GROUND | {"norm", "measure"},
}


def imported(source: str) -> set[str]:
    """The parts of icsbound that `source` imports, wherever in the file, also only for type checking."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            parts |= {a.name.split(".")[1] for a in node.names if a.name.startswith("icsbound.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package in full"
            if node.module == "icsbound":
                parts |= {a.name for a in node.names}
            elif node.module and node.module.startswith("icsbound."):
                parts.add(node.module.split(".")[1])
    return parts


def against_the_arrows(part: str, source: str) -> set[str]:
    allowed = MAY_IMPORT[part] | {part, "__version__"}
    return imported(source) - allowed


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_reaches_against_the_arrows(path: Path) -> None:
    part = part_of(path)
    if part in ROOF:
        return
    assert against_the_arrows(part, path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("part", "source", "found"),
    [
        ("measure", "from icsbound.norm import modules", {"norm"}),
        ("norm", "def f():\n    import icsbound.measure.emd", {"measure"}),
        ("report", "from icsbound import training", {"training"}),
        ("training", "from icsbound.measure.emd import emd", set()),
        ("records", "from icsbound._check import InputError", set()),
    ],
)
def test_the_walk_sees_a_forbidden_import(part: str, source: str, found: set[str]) -> None:
    assert against_the_arrows(part, source) == found


def loaded_by(statement: str) -> set[str]:
    """Top-level modules outside the standard library that `statement` loads in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.split()) - set(sys.stdlib_module_names)


def test_import_loads_nothing_beyond_torch_and_numpy() -> None:
    assert loaded_by("import icsbound") - loaded_by("import torch, numpy") == {"icsbound"}


def test_that_test_can_fail() -> None:
    heavier = loaded_by("import icsbound, scipy") - loaded_by("import torch, numpy")
    assert "scipy" in heavier


def test_no_file_names_a_machine() -> None:
    """The project speaks of itself alone: no absolute path of a home or build machine in any shipped text."""
    root = PACKAGE.parents[1]
    names = ("/" + "home/", "/" + "root/", "/" + "work/", "/" + "Users/")
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False).stdout
    for name in tracked.split():
        path = root / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".txt", ".cpp", ".h", ".html", ".js", ".css", ""}:
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [n for n in names if n in text], name
