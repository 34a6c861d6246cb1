"""Malformed JSON files, made from a valid one: the same ones in every run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    2.5,
    1e30,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "text",
    "\x00",
    [],
    [None],
    [[]],
    {},
    {"a": {}},
)


def malformed(value: Any, *, count: int = 30, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield descriptions and contents of files that differ from the valid value.

    First come files that aren't whole or no JSON, then `count` with another value, a field less or
    a field of another name somewhere.
    """
    text = json.dumps(value)
    yield "empty", b""
    yield "cut off", text[: len(text) // 2].encode()
    yield "not UTF-8", text.encode("utf-16")
    yield "a byte that is not UTF-8", text.encode().replace(b'"', b'"\xff', 1)
    yield "no JSON", b"\x89PNG\r\n"
    yield "nested deeply", b"[" * 100_000
    yield "nested deeply in a field", b'{"a":' * 5000 + b"1" + b"}" * 5000
    yield "a list", f"[{text}]".encode()
    yield "null", b"null"
    yield "a very long number", b"9" * 10_000
    numbers = random.Random(seed)
    for index in range(count):
        changed = copy.deepcopy(value)
        place = _somewhere(changed, numbers)
        yield f"{index}: {place}", json.dumps(changed).encode()


def _somewhere(value: Any, numbers: random.Random) -> str:
    """Change one place of a value; returns what was done."""
    holder, parent, path = value, value, []
    key: Any = None
    while isinstance(holder, (dict, list)) and holder:
        if key is not None and numbers.random() < 0.2:
            break
        keys = [*holder] if isinstance(holder, dict) else [*range(len(holder))]
        key = numbers.choice(keys)
        path.append(str(key))
        parent, holder = holder, holder[key]
    deed = numbers.choice(("another value", "another value", "removed", "renamed"))
    if deed == "renamed" and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    elif deed == "removed":
        del parent[key]
    else:
        parent[key] = numbers.choice(ODD_VALUES)
        deed = f"is {parent[key]!r:.20}"
    return f"{'.'.join(path)} {deed}"


def check_reader(
    path: Path,
    read: Callable[[], Any],
    *,
    value: Any = None,
    pack: Callable[[bytes], bytes] = lambda data: data,
    least: int = 15,
    mark: bytes = b"\xef\xbb\xbf",
) -> None:
    """Assert that malformed files end in one line, and the valid one, with a byte-order mark, not.

    Args:
        path: The valid file; it is the valid one again at the end.
        read: Reads it, and uses what it reads.
        value: Its content; None if it is plain JSON.
        pack: Makes the file's bytes of JSON.
        least: How many of the malformed files have to be refused at least; the others happen to be
            valid.
        mark: Before the valid file when it is read at the end.
    """
    valid = path.read_bytes()
    value = json.loads(valid) if value is None else value
    refused = 0
    try:
        for what, data in malformed(value):
            path.write_bytes(pack(data))
            told = None
            try:
                read()
            except (ValueError, FileNotFoundError) as error:
                told = str(error)
            except Exception as error:
                raise AssertionError(f"{what}: {error!r}") from error
            if told is not None:
                refused += 1
                assert "\n" not in told, what
                assert str(path.parent) in told, what
    finally:
        path.write_bytes(valid)
    assert refused >= least
    path.write_bytes(pack(mark + json.dumps(value).encode()))
    read()
    path.write_bytes(valid)
