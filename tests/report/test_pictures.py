"""Pictures of a layer on the page: which states and pairs they show, and what they say of themselves."""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recorded

from icsbound import report
from icsbound.records import Record, TransportRecord
from icsbound.report import pictures, plots
from icsbound.report.runs import load


def transports(run: str, steps: Sequence[int], n: int = 30, layer: str = "stage.norm") -> list[Record]:
    """A cloud that drifts to the right by one at every step."""
    g = np.random.default_rng(0)
    x, y = g.normal(size=(2, n))
    found: list[Record] = []
    for k, (a, b) in enumerate(itertools.pairwise(steps)):
        found.append(
            TransportRecord(
                run=run, layer=layer, side="outputs", view="pooled", law="eval", step_a=a, step_b=b, n=n, d=16,
                share=0.75, value=1.0, x_a=list(x + k), y_a=list(y), x_b=list(x + k + 1), y_b=list(y),
            )
        )  # fmt: skip
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recorded.save(tmp_path, transports("bn-seed0", (0, 5, 20)))
    return tmp_path


def test_a_ridge_shows_every_state_from_the_first_at_the_top(folder: Path) -> None:
    figure = pictures.ridge(load(folder))
    assert figure is not None
    tops = figure.data.groupby("step")["foot"].first()
    assert dict(tops) == {0: 2, 5: 1, 20: 0}
    peaks = figure.data.loc[figure.data.groupby("step")["top"].idxmax()].set_index("step")["x"]
    assert peaks[5] - peaks[0] == pytest.approx(1.0, abs=0.15)
    assert peaks[20] - peaks[5] == pytest.approx(1.0, abs=0.15)
    assert figure.basis == (
        "stage.norm, pooled view: 30 inputs, d = 16; the plane holds 75.0 % of the variance at the first state."
    )
    assert set(figure.data["name"].dropna()) == {"0", "5", "20"}


@pytest.mark.parametrize(
    ("config", "step"),
    [
        ({"checkpoints": ["run"], "data_b": []}, "optimizer step"),
        ({"checkpoints": ["run"], "data_b": ["digits:shift=fog"]}, "state"),
        ({"checkpoints": ["one.safetensors", "two.safetensors"], "data_b": []}, "state"),
    ],
)
def test_ridges_are_named_by_their_steps_and_not_by_their_places(folder: Path, config: object, step: str) -> None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    figure = pictures.ridge(load(folder))
    assert figure is not None
    plots.save([figure], folder / "figures", ("svg",))
    svg = (folder / "figures" / "picture-ridge.svg").read_text(encoding="utf-8")
    heard = [text for text in re.findall(r'aria-label="([^"]*)"', svg) if "X-axis" not in text]
    assert set(heard) == {f"{step} {k}" for k in (0, 5, 20)}
    assert f">{step}</text>" in svg


def test_a_density_holds_all_mass_and_bears_equal_values() -> None:
    grid = np.linspace(-6, 6, 400)
    values = np.random.default_rng(1).normal(size=50)
    for sample in (values, np.full(50, 1.5)):
        density = pictures._density(sample, grid)
        assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1.0, abs=0.02)


def test_arrows_go_from_one_step_to_the_next(folder: Path) -> None:
    figure = pictures.arrows(load(folder))
    assert figure is not None
    assert list(figure.data["steps"].unique()) == ["0 to 5", "5 to 20"]
    assert list(figure.data["length"]) == pytest.approx([1.0] * 60)


def test_what_is_said_of_the_arrows_is_said_of_those_that_a_figure_shows(tmp_path: Path) -> None:
    first, second = transports("bn-seed0", (0, 5, 20))
    assert isinstance(second, TransportRecord)
    recorded.save(tmp_path, [first, replace(second, value=2.0, x_b=[x + 1 for x in second.x_b])])
    figure = pictures.arrows(load(tmp_path))
    assert figure is not None
    assert figure.chosen() == {"steps": "0 to 5"}
    assert list(figure.data.groupby("steps")["length"].mean()) == pytest.approx([1.0, 2.0])
    assert figure.basis.endswith("W1 on the plane, steps 0 to 5: 1.00.")
    assert figure.alt == "Transport of 30 outputs of stage.norm on a plane, steps 0 to 5: mean length 1.00."


def test_many_steps_are_drawn_evenly(tmp_path: Path) -> None:
    recorded.save(tmp_path, transports("bn-seed0", range(0, 410, 10), n=8))
    study = load(tmp_path)
    ridge, arrows = pictures.ridge(study), pictures.arrows(study)
    assert ridge is not None
    assert arrows is not None
    assert ridge.data["step"].nunique() == pictures.RIDGES
    assert (ridge.data["step"].min(), ridge.data["step"].max()) == (0, 400)
    assert arrows.data["steps"].nunique() == pictures.PAIRS
    assert "24 of 40 pairs of steps." in arrows.basis


def test_runs_are_told_apart(tmp_path: Path) -> None:
    recorded.save(tmp_path, transports("fog", (0, 1)) + transports("contrast", (0, 1)))
    arrows = pictures.arrows(load(tmp_path))
    assert arrows is not None
    assert set(arrows.data["steps"]) == {"fog: 0 to 1", "contrast: 0 to 1"}


def test_of_an_arm_the_first_seed_is_drawn(tmp_path: Path) -> None:
    for arm, seed in (("unitized", 3), ("unitized", 2), ("bn", 2), ("bn", 5)):
        run = f"{arm}-seed{seed}"
        recorded.save(tmp_path / run, recorded.of_run(arm, seed) + transports(run, (0, 1, 4)))
    study = load(tmp_path)
    ridge, arrows = pictures.ridge(study), pictures.arrows(study)
    assert ridge is not None
    assert arrows is not None
    assert list(ridge.data["run"].unique()) == ["bn-seed2", "unitized-seed2"]
    assert "Of 2 runs, each on a plane of its own." in ridge.basis
    assert set(arrows.data["steps"]) == {f"{run}: {k}" for run in ridge.data["run"] for k in ("0 to 1", "1 to 4")}


def test_the_page_holds_both_and_says_how_to_read_them(folder: Path) -> None:
    text = report.build(folder).read_text(encoding="utf-8")
    for name in ("picture-ridge", "picture-transport"):
        assert f'id="figure-{name}"' in text
        assert (folder / "figures" / f"{name}.png").stat().st_size > 5000
    assert "Hollow: where an output lay at the first of both steps" in text
    assert re.search(r'aria-label="Transport of 30 outputs of stage\.norm on a plane', text)


def test_without_transports_there_is_no_picture(tmp_path: Path) -> None:
    recorded.save(tmp_path, recorded.of_run("bn", 0))
    study = load(tmp_path)
    assert pictures.ridge(study) is None
    assert pictures.arrows(study) is None
