"""Atomic writing of files and folders: they appear complete, or not at all."""

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
    """Yield a temporary path beside `path`; when the block ends, rename the file there to `path`.

    The temporary path keeps the suffix. It is the same every time, so that the next run replaces
    what a killed run left. If the block fails, the temporary file is removed and `path` unchanged.
    """
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        # Without this, a crash of the machine could leave an empty file under the final name.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text atomically, with exactly one line break at its end."""
    with written_whole(path) as temporary:
        temporary.write_text(text.rstrip() + "\n", "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value atomically as JSON; types that JSON lacks, such as paths, become strings."""
    write_text(path, json.dumps(value, indent=1, default=str))


@contextmanager
def folder_written_whole(folder: Path, *, replacing: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; when the block ends, move its files to `folder`.

    If the block fails, the temporary folder is removed, and an existing `folder` is unchanged.

    Args:
        folder: The folder to make.
        replacing: Glob pattern for the files of an existing folder that are deleted; others stay.
            None means that an existing folder is replaced as a whole.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    # A killed run may have left it.
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
    """Make the parent folder of `path`, and check that files can be written there.

    Raises:
        OSError: If not; the message is one line that names the path.
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
