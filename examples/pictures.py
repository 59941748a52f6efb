"""Where the pictures of the examples go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def save(chart: Any, name: str) -> Path:
    """Save the Altair chart as NAME.svg, in the folder that the variable EXAMPLE_PICTURES names or in runs/examples."""
    folder = Path(os.environ.get("EXAMPLE_PICTURES", "runs/examples"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    chart.configure(background="white").save(path)
    print(f"picture: {path.name}")
    return path
