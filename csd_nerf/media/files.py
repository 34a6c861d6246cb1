"""Writing files and folders whole: they appear complete, or not at all.

What isn't finished yet has a name of its own beside the final one, which nobody else gives to a
file, and which is the same every time. So the next run replaces what a killed run left, and a run
that succeeds leaves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def unfinished(path: Path) -> Path:
    """Where a file or folder is while it is written; it keeps the suffix."""
    return _beside(path, "part")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield the `unfinished` path; when the block ends, rename the file there to `path`.

    If the block fails, the unfinished file is removed and `path` unchanged.
    """
    temporary = unfinished(path)
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
def folder_written_whole(
    folder: Path, *, replacing: str | None = None, marker: str | None = None
) -> Iterator[Path]:
    """Yield the `unfinished` folder; when the block ends, move its files to `folder`.

    If the block fails, the unfinished folder is removed, and an existing `folder` is unchanged.

    Args:
        folder: The folder to make.
        replacing: Glob pattern for the files of an existing folder that are deleted; others stay.
            None means that an existing folder is replaced as a whole.
        marker: Name of a file by which a folder is known to have been made in this way, and may be
            replaced as a whole.

    Raises:
        FileExistsError: If an existing folder would be replaced as a whole, holds something, and
            lacks the marker.
    """
    if replacing is None:
        check_replaceable(folder, marker=marker)
    temporary = unfinished(folder)
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


def check_replaceable(folder: Path, *, marker: str | None) -> None:
    """Check that a folder is new, empty, or known to be ours by a file in it.

    Raises:
        FileExistsError: If it is somebody's.
    """
    ours = marker is not None and (folder / marker).is_file()
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"Only a folder that this command made can be replaced, got {folder}, which has no "
            f"{marker}; name another folder, or move it away."
        )


def check_results(
    record: Path,
    others: Sequence[Path] = (),
    *,
    fields: Set[str],
    overwrite: bool,
    inputs: Sequence[Path] = (),
) -> None:
    """Check that the files of a result are new, or are to be replaced and known to be ours.

    Args:
        record: The JSON file of the result.
        others: Its other files.
        fields: Fields by which an existing record, and so the files beside it, is known to be ours.
        overwrite: Whether existing files are to be replaced.
        inputs: What is read, and must not be written.

    Raises:
        ValueError: If an input has the name of a file that is written.
        FileExistsError: If a file exists, and is not to be replaced or is not ours.
    """
    read = {path.resolve() for path in inputs}
    for path in (record, *others):
        if path.resolve() in read:
            raise ValueError(
                f"An input must not be a file that is written, got {path}; name another --output."
            )
        if not path.exists():
            continue
        if not overwrite:
            raise FileExistsError(
                f"The output must be a new one, got {path}; pass --overwrite to replace "
                "it, or name another --output."
            )
        if not has_fields(record, fields):
            raise FileExistsError(
                f"Only results of this command are replaced, got {path} without a {record.name} "
                "of one; move it away, or name another --output."
            )


def has_fields(path: Path, fields: Set[str]) -> bool:
    """Whether a file is JSON of an object that has these fields."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.keys() >= fields


def remove_unfinished(*paths: Path) -> None:
    """Remove what a killed run left of these files and folders, whatever it was about to write."""
    for path in paths:
        for left in (unfinished(path), _beside(path, "probe")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Make the parent folder of `path`, and check that a file of such a name can be written there.

    Raises:
        OSError: If not; the message is one line that names the path.
    """
    # The longest of the names that are needed.
    probe = _beside(path, "probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        # Another process may have checked at the same time.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"The output needs a folder that can be written to, got {path} "
            f"({error.strerror or error}); name another --output."
        ) from None


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Let no other process that asks for the same write to `path` until the block ends.

    A process that is killed gives the lock back.

    Raises:
        BlockingIOError: If another one holds it.
    """
    from filelock import FileLock, Timeout

    place = _beside(path, "lock")
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"Only one run at a time may write to an output, got {path}, to which another one "
            "writes; wait until it ends, or name another --output."
        ) from None
    try:
        yield
    finally:
        # Before it is given back: another process could hold it afterwards.
        with suppress(OSError):
            place.unlink()
        lock.release()


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.csd-nerf-{what}{path.suffix}")
