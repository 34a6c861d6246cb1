"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
