"""Tells one prior's weights from others."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 2**16
"""Bytes of a sample."""
_SAMPLES = 64
"""Samples of a large file; smaller files are read whole."""


def weights_identity(*folders: Path) -> str:
    """A hash that differs for other weights or configs, in milliseconds also for gigabytes.

    It is of the names and sizes of all files, and of their contents: of large files only samples,
    spread from the first byte to the last, since training changes weights everywhere.

    Args:
        folders: The folder from `priors.fetch`; or those of `priors.find_controlled`, of which the
            order matters.
    """
    digest = hashlib.sha256()
    found = [
        (path, folder)
        for folder in folders
        for path in sorted(path for path in folder.rglob("*") if _belongs(path, folder))
    ]
    for path, folder in found:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _BLOCK * _SAMPLES:
                digest.update(file.read())
                continue
            for number in range(_SAMPLES):
                file.seek(number * (size - _BLOCK) // (_SAMPLES - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _belongs(path: Path, folder: Path) -> bool:
    """Whether this is a file that decides what the model is: no text about it, nothing hidden."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.is_file() and not hidden and path.suffix != ".md"
