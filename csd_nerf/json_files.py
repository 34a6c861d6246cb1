"""Reads JSON files, and checks their structure by pydantic."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)

_SHOWN = 40
"""Number of letters of a wrong value that a message shows."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_json(path: Path, schema: type[Model], *, what: str, remedy: str) -> Model:
    """Read a JSON file in UTF-8, with or without a byte-order mark.

    Args:
        path: The file.
        schema: What the content must be.
        what: What the file must be, for messages, such as "the record of an edit".
        remedy: What the user can do, for messages.

    Raises:
        FileNotFoundError: If there is no such file, or it is a folder, a pipe or a device.
        ValueError: If it isn't JSON, or doesn't have the structure. The message is one line that
            names the field.
    """
    if not path.is_file():
        lack = "is no regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} must be {what}, but {lack}; {remedy}.")
    return parse_json(path.read_bytes(), schema, path=path, what=what, remedy=remedy)


def parse_json(data: bytes, schema: type[Model], *, path: Path, what: str, remedy: str) -> Model:
    """Parse the content of a JSON file; see `read_json`."""
    try:
        return schema.model_validate_json(data.removeprefix(_BYTE_ORDER_MARK))
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
    told = " ".join(first["msg"].split())
    if first["type"] == "json_invalid":
        told = f"can't be read ({told})"
    else:
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        given = "" if first["type"] == "missing" else f", got {_short(first['input'])}"
        told = f"{place}: {told}{given}"
    raise ValueError(f"{path} must be {what}, but {told}; {remedy}.")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    # Python refuses to write very long numbers.
    except ValueError:
        text = "a very long number"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
