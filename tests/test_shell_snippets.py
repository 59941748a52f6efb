"""Every shell command of the README and of the documentation's pages runs, or says here why it does not.

A page's commands run in their order in one folder, shortened by the flags in `SHORTER`, on the embedded digits or on
the tiny data of `tiny_data`. What they start from, and the page leaves to its reader, is made by `BEFORE`.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import tiny_data
import torch
from test_docs import ROOT, SNIPPETS

from icsbound import cli
from icsbound.training import arms, models

# Put behind the words of a command: where a flag is there already, the later one counts.
TINY = "--model resnet8:width=1 --epochs 1 --threads 1 --quiet"
WATCHED = f"{TINY} --batch-size 64 --probe 32 --captures 2"
SHORTER = {
    "compare": f"{WATCHED} --seeds 0 1 --jobs 1",
    "train": WATCHED,
    "sweep": f"{TINY} --batch-sizes 128 --seeds 0 1 --jobs 1",
    "evaluate": "--threads 1 --quiet",
    "measure": "--probe 32 --jobs 1 --quiet",
    "study": "--seeds 0 --jobs 1 --quiet",
}
# Put in the place of the word after a flag.
INSTEAD = {"--recalibrate": "100"}
# Put behind as well, where these words are in a command.
ALSO = {
    "imagenet ": "--image-size 32",
    "hub:NAME ": "--image-size 32 --data-dir DIR",
    "folder ": "--image-size 32",
    "--epochs 0 ": "--epochs 0",
}

# What a page takes for granted, made by these commands first.
BEFORE = {
    "README.md": ["icsbound train --arm unitized --out runs/two"],
    "docs/distributed.md": ["icsbound train --arm unitized --out runs/one"],
    "docs/results/again.md": ["icsbound sweep --arms bn unitized --out runs/resnet20"],
    "docs/studies.md": ["icsbound sweep --arms bn unitized gn --out runs/table"],
}

NOT_RUN = {
    "installs software": [
        "sudo apt install python3-venv make g++",
        "pip install .",
        "pip install .[emd,train,report]",
    ],
    "is what runs these very tests": ["make test"],
    "measures speed for minutes, and wants the machine to itself": [
        "make bench-layer",
        "make bench-emd DATA_DIR=DIR",
        "make bench-monitor",
        "make bench-train DATA_DIR=DIR",
        "make bench-layer-gpu",
    ],
    "needs a GPU": [
        "icsbound sweep --arms bn unitized published --seeds 1000 1001 1002 1003 1004 --data cifar10 --model resnet20 "
        "--recipe published --device cuda --precision bf16 --channels-last --jobs 2 --out runs/resnet20",
        "icsbound sweep --arms bn unitized published --seeds 1000 1001 1002 1003 1004 --data cifar100 "
        "--model resnet110 --recipe published --device cuda --precision bf16 --shard 1/8 --out /shared/resnet110",
        "torchrun --standalone --nproc-per-node 8 -m icsbound.cli train --arm unitized --data imagenet --data-dir DIR "
        "--model resnet50 --recipe imagenet-90 --precision bf16 --channels-last --out runs/imagenet",
    ],
    "needs a cluster, its shared folder or its launcher": [
        "torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m icsbound.cli train "
        "--out /shared/run",
        "torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m icsbound.cli train "
        "--data imagenet --data-dir DIR --model resnet50 --recipe imagenet-90 --out /shared/run",
        "icsbound sweep --arms bn unitized --seeds 0 1 2 3 --shard 2/8 --out /shared/table",
        "icsbound sweep --arms bn unitized --seeds 0 1 2 3 --shard $SLURM_ARRAY_TASK_ID/8 --out /shared/table",
        "icsbound sweep --arms bn unitized --seeds 0 1 2 3 --launcher ray --out /shared/table",
    ],
    "is launched as two processes in tests/training/test_distributed.py": [
        "torchrun --standalone --nproc-per-node 2 -m icsbound.cli train --arm unitized --out runs/two",
        "torchrun --standalone --nproc-per-node 2 -m icsbound.cli train --arm unitized --batch-size 64 --out runs/two",
        "torchrun --standalone --nproc-per-node 2 -m icsbound.cli train --resume runs/two",
    ],
    "needs a tracker that is not among the extras": [
        "icsbound train --arm unitized --profile --tracker mlflow --out runs/seen",
    ],
    "trains for longer than tests may take, however few its seeds are": ["icsbound study all --full --out runs/longer"],
}

# Run by `make test`, with what each of them needs; all others by `make test-full`.
FIRST = [
    "icsbound compare --arms bn unitized --seeds 0 1 2 3 4 --out runs/mine",
    "icsbound train --arm unitized:alpha_init=0.3 --epochs 10 --out runs/one",
    "icsbound sweep --arms bn unitized --batch-sizes 4 32 --seeds 0 1 2 --out runs/table",
    "icsbound evaluate runs/table --shift contrast:3 fog:3 --out runs/shifted",
    "icsbound study noise unitization --out runs/studies",
    "icsbound report runs/mine",
    "icsbound doctor",
    "icsbound measure runs/one runs/two --layers blocks.2.norms.* --view sample",
]

EXCEPT = {command for commands in NOT_RUN.values() for command in commands}
COMMANDS = [
    (page, " ".join(shlex.split(line, comments=True)))
    for page, language, code in SNIPPETS
    if language == "sh"
    for line in code.splitlines()
    if line.strip()
]
PAGES = list(dict.fromkeys(page for page, command in COMMANDS if command not in EXCEPT))


def recipe(target: str) -> list[str]:
    """The words of the one command that a target of the Makefile runs."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^{target}:.*\n\t\$\(BIN\)/(.*)\n\n", text, re.MULTILINE)
    return shlex.split(line)


def shortened(command: str) -> list[str]:
    """The words behind ``icsbound`` that are run for `command`."""
    program, *words = command.split()
    if program == "make":
        program, *words = recipe(words[0])
    assert program == "icsbound"
    for flag, value in INSTEAD.items():
        if flag in words:
            words[words.index(flag) + 1] = value
    # What goes on takes nothing but the folder, and a network that a flag names is that one.
    if "--resume" in words:
        return words
    more = [SHORTER.get(words[0], ""), *(flags for has, flags in ALSO.items() if has in command)]
    return words + " ".join(more).split()


def prepare(folder: Path) -> None:
    """What a reader has at hand: files of weights, a network of one's own, and claims."""
    (folder / "my_package").mkdir()
    code = (
        "from icsbound.training import arms, models\n\n\n"
        "def make():\n"
        "    return models.network('resnet8:width=1', arms.parse('bn'), classes=10, channels=1, size=28, seed=0)\n"
    )
    (folder / "my_package" / "nets.py").write_text(code, encoding="utf-8")
    save = {"base.safetensors": 1, "tuned.safetensors": 1, "a.pt": 8, "b.pt": 8}
    for seed, (name, width) in enumerate(save.items()):
        model = models.network(f"resnet8:width={width}", arms.parse("bn"), classes=10, channels=1, size=28, seed=seed)
        if name.endswith(".pt"):
            torch.save(model.state_dict(), folder / name)
        else:
            from safetensors.torch import save_file

            save_file(model.state_dict(), folder / name)
    (folder / "claims.json").write_bytes((ROOT / "docs" / "results" / "claims.json").read_bytes())


def run(commands: Iterable[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder)
    monkeypatch.chdir(folder)
    for command in commands:
        code = cli.main(shortened(command))
        assert code in ({0, 3} if "--fail-on" in command else {0}), command
    sys.modules.pop("my_package.nets", None)
    sys.modules.pop("my_package", None)


def test_the_first_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run([*BEFORE["README.md"], *FIRST], tmp_path, monkeypatch)
    made = {path.parent.name for path in (tmp_path / "runs").glob("*/report.html")}
    assert made >= {"mine", "table", "shifted", "studies"}


@pytest.mark.full
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_their_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [command for where, command in COMMANDS if where == page and command not in EXCEPT]
    tiny_data.bring(tmp_path, monkeypatch)
    run([*BEFORE.get(page, []), *own], tmp_path, monkeypatch)


def test_what_is_listed_is_there_and_stands_once() -> None:
    there = {command for _, command in COMMANDS}
    listed = [command for commands in NOT_RUN.values() for command in commands]
    assert [command for command in [*listed, *FIRST] if command not in there] == []
    assert sorted(set(listed)) == sorted(listed)
    assert [page for page in BEFORE if page not in PAGES] == []
    assert not EXCEPT & set(FIRST)


def test_shortening_changes_no_more_than_it_says() -> None:
    assert shortened("icsbound doctor") == ["doctor"]
    assert shortened("icsbound report runs/mine") == ["report", "runs/mine"]
    assert shortened("icsbound train --resume runs/one") == ["train", "--resume", "runs/one"]
    assert shortened("make demo") == ["compare", "--out", "runs/demo", "--force", *SHORTER["compare"].split()]
    words = shortened("icsbound evaluate runs/table --recalibrate 5000 --out runs/off")
    assert words == ["evaluate", "runs/table", "--recalibrate", "100", "--out", "runs/off", "--threads", "1", "--quiet"]
