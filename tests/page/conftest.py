"""Records for the page come from the same writer as for the tests of its text."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
sys.path.insert(0, str(Path(__file__).parents[1] / "report" / "results"))
sys.path.insert(0, str(Path(__file__).parents[1] / "report" / "studies"))
