"""The wording of messages: the argument, what would be right, what was given."""

import math

import pytest
import torch

from icsbound import _check
from icsbound._check import InputError


def test_unknown_choice_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"^scope must be one of 'sample', 'batch', got 'smaple' \(did you mean 'sample'\?\)$"
    ):
        _check.one_of("scope", "smaple", ("sample", "batch"))


def test_a_choice_is_returned() -> None:
    assert _check.one_of("scope", "batch", ("sample", "batch")) == "batch"


@pytest.mark.parametrize("value", [0, -3, 1.0, True, "4"])
def test_positive_int_refuses(value: object) -> None:
    with pytest.raises(InputError, match=r"^epochs must be an integer of at least 1, got "):
        _check.positive_int("epochs", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None, True])
def test_real_refuses_what_is_no_finite_number(value: object) -> None:
    with pytest.raises(InputError, match=r"^lr must be a finite number, got "):
        _check.real("lr", value)


def test_real_refuses_what_lies_outside() -> None:
    with pytest.raises(InputError, match=r"^momentum must lie in \[0, 1\], got 1\.5$"):
        _check.real("momentum", 1.5, 0, 1)


def test_real_returns_a_float() -> None:
    assert isinstance(_check.real("lr", 1), float)


def test_cloud_names_the_first_bad_row() -> None:
    values = torch.zeros(5, 3)
    values[2, 1] = math.nan
    values[4, 0] = math.inf
    message = r"^a must be finite, got NaN or infinity in 2 of 5 rows \(the first is row 2\)$"
    with pytest.raises(InputError, match=message):
        _check.cloud("a", values)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0]], r"^a must be a torch tensor of shape \(n, d\), got \[\[1\.0\]\]$"),
        (torch.zeros(2, 3, 4), r"got a tensor of shape \(2, 3, 4\) and dtype float32; flatten further axes first$"),
        (torch.zeros(2, 3, dtype=torch.int64), r"^a must be a floating-point tensor of shape \(n, d\), got "),
        (
            torch.zeros(2, 3).to(torch.float8_e4m3fn),
            r"^a must have dtype float16, bfloat16, float32 or float64, got a tensor of shape \(2, 3\) and dtype floa",
        ),
        (torch.eye(3).to_sparse(), r"^a must be dense, got torch\.sparse_coo; to_dense\(\) makes it so$"),
        (torch.zeros(0, 3), r"^a must have at least one row and one column, got a tensor of shape \(0, 3\)"),
        (torch.zeros(3, 0), r"^a must have at least one row and one column, got a tensor of shape \(3, 0\)"),
    ],
)
def test_cloud_refuses(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _check.cloud("a", value)


def test_long_values_are_cut() -> None:
    assert len(_check.shown("x" * 1000)) == 120


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("2k", 2000), ("800M", 800 * 10**6), ("1.5G", 15 * 10**8), (" 2GB ", 2 * 10**9)]
)
def test_bytes_are_read_by_thousands(text: str, count: int) -> None:
    assert _check.byte_count("--memory", text) == count


@pytest.mark.parametrize("text", ["", "0", "0.0001k", "-2G", "lots", "2 G B", "1e9", "nan", "2X"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--memory must be a number of bytes, such as 800M or 2G, got "):
        _check.byte_count("--memory", text)
