"""Mistyped names and paths: what was probably meant. This module imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` with the known name that is most like the given one, or `.`.

    It ends a message. Case is ignored.
    """
    by_lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(given.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[matches[0]]}?" if matches else "."


def check_input(path: Path, needs: str, *, folder: bool = True, file: bool = True) -> None:
    """Check that an input is there, before anything heavy is imported.

    Args:
        path: The input.
        needs: Begins the message, such as "The input must be a picture".
        folder: Whether it may be a folder.
        file: Whether it may be a file.

    Raises:
        FileNotFoundError: If it isn't there, or is of the wrong kind. Pipes and devices are
            refused, since reading them may never end. The message names a similar path.
    """
    if not path.exists():
        what, hint = "does not exist", _similar(path)
    elif (path.is_dir() and folder) or (path.is_file() and file):
        return
    else:
        is_folder, is_file = path.is_dir(), path.is_file()
        what = "is a folder" if is_folder else "is a file" if is_file else "is a pipe or a device"
        hint = "."
    raise FileNotFoundError(f"{needs}, got {path}, which {what}{hint}")


def _similar(path: Path) -> str:
    """The end of a message: an existing path like the first part of this one that is missing."""
    while not path.parent.exists():
        path = path.parent
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return "."
    beside = "" if path.parent == Path() else f"{path.parent}/"
    matches = did_you_mean(path.name, names)
    return matches.replace("mean ", f"mean {beside}", 1)
