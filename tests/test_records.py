"""Records survive the file; broken files are told apart from cut-off ones."""

import json
import math
import os
import re
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icsbound import records
from icsbound._check import InputError, is_text
from icsbound.records import KINDS, EpochRecord, LayerRecord, Record, Writer

EPOCH = EpochRecord(
    run="bn-seed0", epoch=1, step=10, train_loss=0.5, loss=0.25, accuracy=0.9, seconds=1.5, images_per_second=100.0
)
LAYER = LayerRecord(
    run="näme \" \n </script>", layer="stage1.0", step=3, alpha_mean=0.5, alpha_min=0.0, alpha_max=1.0,
    weight_mean=1.0, weight_max=2.0, bound=math.inf,
)  # fmt: skip

text = st.text(st.characters(exclude_categories=("Cc", "Cs"))).filter(is_text)
number = st.floats(allow_nan=False) | st.integers(-(2**40), 2**40)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": text,
    "int": st.integers(-(2**53), 2**53),
    "bool": st.booleans(),
    "list[float]": st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    "list[int]": st.lists(st.integers(-(2**53), 2**53)),
    "float": st.floats(allow_nan=False),
    "float | None": st.none() | st.floats(allow_nan=False),
    "dict[str, str]": st.dictionaries(text, text),
}


@st.composite
def any_record(draw: st.DrawFn) -> Record:
    kind = draw(st.sampled_from(sorted(KINDS)))
    return KINDS[kind](**{f.name: draw(VALUES[str(f.type)]) for f in fields(KINDS[kind])})


@settings(deadline=None, derandomize=True)
@given(any_record())
def test_a_line_reads_back_as_it_was(record: Record) -> None:
    line = records.to_line(record)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert records.from_dict(json.loads(line)) == record  # a text "Infinity" stays text


def test_infinity_is_written_as_text_that_strict_parsers_read() -> None:
    def refuse(name: str) -> float:
        raise AssertionError(name)

    assert json.loads(records.to_line(LAYER), parse_constant=refuse)["bound"] == "Infinity"


def test_what_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"^layer of a record of kind 'layer' must be printable text, got 'a\\x00'$"):
        records.to_line(replace(LAYER, layer="a\0"))


def test_nan_is_refused_by_name() -> None:
    with pytest.raises(
        InputError, match=r"^a record of kind 'epoch' must not hold NaN, got one in loss \(run 'bn-seed0'\)$"
    ):
        records.to_line(replace(EPOCH, loss=math.nan))


def test_clock_fields_are_all_that_differs() -> None:
    slower = replace(EPOCH, seconds=99.0, images_per_second=1.0)
    assert records.without_clock(EPOCH) == records.without_clock(slower)
    assert records.without_clock(EPOCH) != records.without_clock(replace(EPOCH, loss=0.26))


def test_a_cut_off_last_line_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    whole = records.to_line(EPOCH) + records.to_line(LAYER)
    for cut in (1, len(records.to_line(LAYER)) - 1):
        path.write_text(whole[: len(records.to_line(EPOCH)) + cut], encoding="utf-8")
        with pytest.warns(UserWarning, match=r"line 2 was cut off and is left out; 1 records were read$"):
            assert records.read(path) == [EPOCH]


def test_a_whole_file_gives_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(records.to_line(EPOCH) + records.to_line(LAYER), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert records.read(path) == [EPOCH, LAYER]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2 is not a record: "),
        ("[1]", "line 2 is not a record: "),
        ('{"kind": "epoch", "schema": 99}', "schema must be 1 to be read by this version of icsbound, got 99"),
        (
            '{"kind": "spell", "schema": 1}',
            "kind must be one of run, epoch, distance, layer, result, shift, verdict, cost, study, point, seed, "
            "transport, got 'spell'",
        ),
        (
            records.to_line(EPOCH).strip().replace("0.9", '"0.9"'),
            "accuracy of a record of kind 'epoch' must be float, got '0.9'",
        ),
        (
            records.to_line(EPOCH).strip().replace('"step": 10', '"step": 1.5'),
            "step of a record of kind 'epoch' must be int, got 1.5",
        ),
        ('{"kind": "result", "schema": 1, "run": "a", "colour": 1}', "and unknown ['colour']"),
        (
            '{"kind": "study", "schema": 1, "run": "a", "study": "a", "seeds": [true], "full": false, "versions": {}}',
            "seeds of a record of kind 'study' must be list[int], got [True]",
        ),
    ],
)
def test_a_broken_line_within_is_an_error_with_its_number(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(records.to_line(EPOCH) + line + "\n" + records.to_line(LAYER), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(why)):
        records.read(path)


def test_the_writer_drops_what_followed_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with Writer(path) as writer:
        writer.write(EPOCH)
        offset = writer.offset
        writer.write(LAYER)
        writer.sync()
    assert os.path.getsize(path) > offset
    with Writer(path, offset=offset) as writer:
        assert writer.offset == offset
        writer.write(replace(EPOCH, epoch=2))
    assert records.read(path) == [EPOCH, replace(EPOCH, epoch=2)]


def test_an_offset_beyond_the_file_is_lost_work(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(records.to_line(EPOCH), encoding="utf-8")
    with pytest.raises(InputError, match=r"^offset must lie within .*, got 100000: records were lost$"):
        Writer(path, offset=100000)
    assert records.read(path) == [EPOCH]


def test_each_line_is_on_its_way_at_once(tmp_path: Path) -> None:
    with Writer(tmp_path / "records.jsonl") as writer:
        writer.write(EPOCH)
        assert records.read(tmp_path / "records.jsonl") == [EPOCH]
