"""What a study is given, and what it is: a function of a seed that yields points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from icsbound.records import PointRecord
from icsbound.training.progress import Progress, quiet


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a study is run: the longer form or not, and where networks are trained, or finished ones found."""

    full: bool = False
    networks: Path = Path("networks")  # folder for trainings of our own
    runs: Path | None = None  # finished runs to read instead
    jobs: int | None = None  # trainings at a time
    seeds: tuple[int, ...] = ()  # that are still to come: their networks are trained together, side by side
    progress: Progress = quiet


@dataclass(frozen=True)
class Study:
    """A claim put to the test. `points(seed, setting)` yields what is measured at one seed.

    `seeds` is how many there are by default; `arms` are those of the trained networks that it cannot do without, all of
    them or, with `any_arm`, at least one.
    """

    name: str
    points: Callable[[int, Setting], Iterator[PointRecord]]
    seeds: int
    arms: tuple[str, ...] = ()
    any_arm: bool = False

    @property
    def trains(self) -> bool:
        """Whether it needs trained networks."""
        return bool(self.arms)

    def seeds_of(self, found: Mapping[str, set[int]]) -> tuple[int, ...]:
        """The seeds that can be measured where the networks of each arm are there at the seeds in `found`."""
        each = [found.get(arm, set()) for arm in self.arms]
        return tuple(sorted(set.union(*each) if self.any_arm else set.intersection(*each)))


@dataclass(frozen=True)
class Panel:
    """Makes the points of one figure: the fields that they share are said once."""

    study: str
    name: str
    seed: int
    n: int
    d: int = 0
    estimator: str = ""

    def point(
        self,
        curve: str,
        x: float,
        value: float,
        predicted: float | None = None,
        relation: str = "",
        *,
        tolerance: float = 0.0,
        estimator: str | None = None,
    ) -> PointRecord:
        """One point; see `PointRecord`."""
        return PointRecord(
            run=f"{self.study}-seed{self.seed}",
            study=self.study,
            panel=self.name,
            curve=curve,
            seed=self.seed,
            x=float(x),
            value=float(value),
            predicted=None if predicted is None else float(predicted),
            relation=relation,
            tolerance=tolerance,
            n=self.n,
            d=self.d,
            estimator=self.estimator if estimator is None else estimator,
        )
