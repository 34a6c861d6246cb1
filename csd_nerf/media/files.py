"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; what was written there takes its place at the end.

    The temporary name keeps the suffix, and is the same every time, so that what a killed run
    left is replaced by the next one. If the block fails, nothing is left.
    """
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        # Without this a crash of the machine could leave the name on an empty file.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text that ends with a line break, added if it lacks one."""
    with written_whole(path) as temporary:
        temporary.write_text(text.rstrip() + "\n", "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; what JSON has no form for, such as paths, becomes a string."""
    write_text(path, json.dumps(value, indent=1, default=str))


@contextmanager
def folder_written_whole(folder: Path, *, replacing: str | None = None) -> Iterator[Path]:
    """Give a temporary folder beside `folder`, whose place it takes at the end.

    If the block fails, nothing of it is left, and an earlier folder stays as it was.

    Args:
        folder: What is to be made.
        replacing: Which files of an earlier folder go, as a pattern for their names; the others
            stay. None means that the earlier folder goes as a whole.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    # What a killed run left.
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if replacing is None or not folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            return
        for old in folder.glob(replacing):
            old.unlink()
        for path in temporary.iterdir():
            path.rename(folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Make the folder that `path` is to lie in, and try to write there.

    Raises:
        OSError: If that isn't possible; one line that names the path.
    """
    probe = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"The output needs a folder that can be written to, got {path} "
            f"({error.strerror or error}); name another --output."
        ) from None
