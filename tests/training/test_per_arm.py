import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from small import config, few_digits

from icsbound import cli, flags
from icsbound._check import InputError
from icsbound.report import reproduce
from icsbound.report.results.groups import group_of
from icsbound.training import compare, loop, per_arm, results, spec
from icsbound.training.compare import CompareConfig
from icsbound.training.config import TrainConfig
from icsbound.training.sweep import SweepConfig

TEXT = """
[unitized]
lr = 0.2
alpha_lr_factor = 10
milestones = [1]
factors = [0.5]

[unitized.settings]
alpha_init = 0.3
scope = "position"
alpha_range = [0.1, 1.0]

["unitized:scope=batch"]
lr = 0.4
decay_all = true

[gn.settings]
group_size = 8
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "arms.toml").write_text(TEXT)
    return tmp_path / "arms.toml"


SAID = "unitized:alpha_init=0.3,scope=position,alpha_range=(0.1, 1.0)"
OWN: dict[str, Any] = {"lr": 0.2, "alpha_lr_factor": 10, "milestones": [1], "factors": [0.5]}


def test_each_arm_finds_its_section(file: Path) -> None:
    names = ("bn", "unitized", "unitized:scope=batch", "unitized-1", "gn")
    assert per_arm.resolved(names, per_arm.read(file)) == {
        "bn": {},
        SAID: OWN,
        "unitized:scope=batch": {"lr": 0.4, "decay_all": True},
        "unitized-1": {},
        "gn:group_size=8": {},
    }
    # settings of the text and of its name's section go together
    assert list(per_arm.resolved(["gn:eps=0.01"], per_arm.read(file))) == ["gn:eps=0.01,group_size=8"]


@pytest.mark.parametrize(
    "settings", [{}, {"a": 1, "b": "word", "c": True, "d": None, "e": (0.0, 1.0), "f": -1.5e-7, "g": (1,)}]
)
def test_settings_are_written_as_they_are_read(settings: dict[str, Any]) -> None:
    assert spec.split("arm", spec.text("unitized", settings)) == ("unitized", settings)


def test_a_comparison_keeps_what_is_each_arms_own(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    own = per_arm.resolved(("bn", "unitized"), per_arm.read(file))
    made = CompareConfig(arms=tuple(own), by_arm=own, seeds=(0,), base=config(monitor=None))
    out = tmp_path / "runs"
    compare.compare(made, out, jobs=1)
    bn, unitized = (TrainConfig.load(out / compare.folder_name(f"{arm}-seed0")) for arm in own)
    assert (bn.arm, unitized.arm) == ("bn", SAID)
    assert (bn.recipe.lr, unitized.recipe.lr) == (0.1, 0.2)
    assert (unitized.recipe.alpha_lr_factor, unitized.recipe.milestones) == (10, (1,))
    assert bn.per_arm == unitized.per_arm == ("alpha_lr_factor", "factors", "lr", "milestones")
    assert json.loads((out / "config.json").read_text())["by_arm"] == {"bn": {}, SAID: OWN}
    assert CompareConfig.load(out).to_dict() == made.to_dict()
    # going on with it finds all of it done, and another file is refused
    compare.compare(CompareConfig.load(out), out, jobs=1)
    other = dataclasses.replace(made, by_arm={**own, "bn": {"lr": 0.05}})
    with pytest.raises(InputError, match=r"by_arm.bn.lr: nothing there, 0.05 here"):
        compare.compare(other, out, jobs=1)
    # the folder has the file, and the page's command with it makes the same comparison
    words = shlex.split(reproduce.command(made.to_dict()))
    args = cli.parser().parse_args(["compare", *words[2:]])
    assert args.arms_file == Path("arms.toml")
    args.arms_file = out / "arms.toml"
    assert flags.by_arm(args, args.arms) == own
    # runs that differ in what is their arm's own are still of one group
    lines = [results.of_run(run, "s", "explore", accuracy=0.5, seconds=1.0, versions={}) for run in (bn, unitized)]
    assert group_of(lines[0]) == group_of(lines[1])
    lines[1].config["recipe"]["momentum"] = 0.5
    assert group_of(lines[0]) != group_of(lines[1])


def test_a_sweep_scales_each_arms_own_rate(file: Path) -> None:
    own = per_arm.resolved(("bn", "unitized"), per_arm.read(file))
    made = SweepConfig(arms=tuple(own), by_arm=own, seeds=(0,), batch_sizes=(16, 32), base=config(monitor=None))
    rates = {name: run.recipe.lr for name, run in made.runs().items()}
    assert list(rates.values()) == pytest.approx([0.1, 0.2, 0.2, 0.4])  # the recipe's batch is 16
    values = json.loads(json.dumps(made.to_dict()))
    assert values["by_arm"][SAID] == OWN


def test_train_takes_the_section_of_its_arm(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_digits(monkeypatch)
    words = "train --arm unitized --model resnet8:width=2 --epochs 1 --lr 0.05 --no-monitor"
    args = cli.parser().parse_args([*words.split(), "--out", str(tmp_path / "run"), "--arms-file", str(file)])
    made = flags.trained_alone(args)
    assert (made.arm, made.recipe.lr, made.recipe.epochs) == (SAID, 0.2, 1)
    # all that any section sets, as in a comparison of the file's arms
    assert made.per_arm == ("alpha_lr_factor", "decay_all", "factors", "lr", "milestones")
    loop.train(made, tmp_path / "run")
    assert TrainConfig.load(tmp_path / "run") == made.resolved()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[unitizd]\nlr = 1",
            r"section 'unitizd': arm must be one of .*, got 'unitizd' \(did you mean 'unitized'\?\)$",
        ),
        (
            "[bn]\nlrr = 1",
            r"section 'bn': a value of an arm must be settings, or one of .*'lrr' \(did you mean 'lr'\?\)$",
        ),
        ("[bn]\nlr = -1", r"section 'bn': lr must lie in \[0, inf\], got -1$"),
        ("[bn]\nlr = 'fast'", r"section 'bn': lr must be a finite number, got 'fast'$"),
        ("[bn]\nflip = 3", r"section 'bn': flip must be true or false, got 3$"),
        ("[bn]\nepochs = 3", r"section 'bn': a value of an arm must be settings, or one of .*, got 'epochs'"),
        ("[bn.settings]\nalpha = 3", r"section 'bn': a setting of arm 'bn' must be one of .*, got 'alpha'"),
        ("[bn]\nsettings = 3", r"section 'bn': settings must be a table of the layer's settings, got 3$"),
        ("bn = 3", r"section 'bn': a section must be a table of values, got 3$"),
        ("[bn", r"arms.toml must be TOML: "),
        ("a = " + "[" * 100_000, r"arms.toml must be TOML: "),
    ],
)
def test_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "arms.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        per_arm.read(tmp_path / "arms.toml")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(InputError, match=r"^arms_file must be a TOML file that can be read, got '.*: "):
            per_arm.read(path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"^arms_file must be a TOML file that can be read, got"):
        per_arm.read(tmp_path / "bytes.toml")
