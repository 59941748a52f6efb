"""Hostile files, and what every reader of this project owes them: one clear sentence, and nothing else.

Each attack would leave a mark where it succeeded: a file named by `MARK`, which no test here ever creates otherwise.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from icsbound._check import InputError

_SYSTEM = os.system  # itself: the tests put a trap in its place


class Bomb:
    """What leaves a mark when it is unpickled, by the call that pickle makes of it."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def bombs(mark: Path) -> dict[str, Any]:
    """Objects that write the file `mark` when a careless loader unpickles them."""
    write = f"open({str(mark)!r}, 'w').close()"
    return {
        "system": Bomb(_SYSTEM, f"touch {mark}"),
        "eval": Bomb(eval, write),
        "exec": Bomb(exec, write),
        "open": Bomb(open, str(mark), "w"),
        "subprocess": Bomb(subprocess.getoutput, f"touch {mark}"),
        "inside": {"model": {"weight": torch.zeros(2), "bias": [Bomb(eval, write)]}},
    }


def torch_files(content: Any) -> dict[str, bytes]:
    """`content` in each format that `torch.load` reads, and as a bare pickle."""
    found = {}
    for name, options in (("zip", {}), ("legacy", {"_use_new_zipfile_serialization": False})):
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        found[name] = buffer.getvalue()
    found["pickle"] = pickle.dumps(content)
    return found


def safetensors_files() -> dict[str, bytes]:
    """Files whose header lies."""

    def with_header(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
        return struct.pack("<Q", len(header) if length is None else length) + header + data

    def one(**changes: Any) -> bytes:
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
        return with_header(json.dumps({"weight": entry}).encode(), data=b"\0" * 8)

    return {
        "header longer than any file": with_header(b"{}", 2**62),
        "header longer than this file": with_header(b"{}", 2**26),
        "header of nothing": with_header(b"", 0),
        "half a length": b"\1\0\0",
        "no JSON": with_header(b"\xff" * 64),
        "nested deeply": with_header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        "huge shape": one(shape=[2**40, 2**40]),
        "negative shape": one(shape=[-2]),
        "offsets beyond the file": one(data_offsets=[0, 2**40]),
        "offsets reversed": one(data_offsets=[8, 0]),
        "unknown type": one(dtype="O"),
        "no tensors": with_header(b"{}"),
    }


DEEP = "[" * 200_000
DEEP_OBJECT = '{"a":' * 200_000

# What JSON readers meet: each stands for a whole file or for a value in one.
TEXTS = {
    "deep list": DEEP,
    "deep object": DEEP_OBJECT,
    "empty": "",
    "no JSON": "<html>",
    "a list": "[1, 2]",
    "a number": "1e999",
    "a huge number": "1" * 10_000,
    "nothing": "null",
    "NUL": "\0",
    "a lone surrogate": '"\\ud800"',
}
VALUES = [
    None, True, 1.5, -1, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../../outside", "\0", "a\nb", [], [[]],
    ["a", 1], {}, {"a": {}},
]  # fmt: skip


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it has this size, with `chunks` before its (missing) pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compress(b"\0" * (min(height, 2000) * (1 + 3 * min(width, 2000))))
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


_MUCH = zlib.compress(b"a" * 20_000_000)


def pictures(mark: Path) -> dict[str, bytes]:
    """Files that are no harmless pictures."""
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({mark}) (w) file closefile showpage\n"
    return {
        "nothing": b"",
        "text": b"no picture",
        "a bomb beyond the limit": png(60_000, 60_000),
        "a bomb at twice the limit": png(13_300, 13_300),
        "a text that unpacks to 20 MB": png(8, 8, (b"zTXt", b"a\0\0" + _MUCH)),
        "a profile that unpacks to 20 MB": png(8, 8, (b"iCCP", b"a\0\0" + _MUCH)),
        "cut off": png(64, 64)[:60],
        "a program for Ghostscript": script.encode(),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "a pickle": pickle.dumps(Bomb(eval, f"open({str(mark)!r}, 'w')")),
    }


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one sentence with which `call` refuses what it is given."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert 10 < len(text) < 1000, text
    return text


def answered(call: Callable[..., Any], *arguments: Any) -> Any:
    """What `call` makes of its arguments, or None where it refuses them in one sentence."""
    try:
        return call(*arguments)
    except InputError as error:
        text = str(error)
    assert "\n" not in text
    assert 10 < len(text) < 1000, text
    return None
