"""Files of what a scene was: at the end of past rounds, and where edits on top of edits began."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from csd_nerf.media.files import written_whole
from csd_nerf.scene.controls import PastRound

HISTORY_FOLDER = "history"
"""Folder of a run with these files."""


class History:
    """A folder of snapshots, each in a file of its own that never changes."""

    def __init__(self, folder: Path) -> None:
        """Name a folder, which need not exist yet."""
        self.folder = folder

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self.folder / name).is_file()

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: If it can't be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with written_whole(self.folder / name) as temporary:
                torch.save(dict(content), temporary)
        except RuntimeError as error:
            # torch reports a full disk as a RuntimeError of its writer.
            reason = " ".join(str(error).split())[:160]
            raise OSError(
                f"The scene must be kept for going back, got {reason} for {self.folder}; make "
                "room, or keep fewer with --pipeline.history."
            ) from None

    def read(self, name: str) -> dict[str, Any]:
        """Read a file.

        Raises:
            ValueError: If it is missing or damaged.
        """
        path = self.folder / name
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        # The exception of torch for a damaged file depends on where the damage is.
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"What the scene was must be in {path}, got {reason}; go back to another round."
            ) from None

    def all(self) -> Iterator[dict[str, Any]]:
        """The contents of all files that can be read; tensors are read only when used."""
        for path in sorted(self.folder.glob("*.pt")):
            try:
                yield torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except Exception:
                # A damaged file names nothing that must be kept for it.
                continue

    def take_over(self, name: str, other: History) -> None:
        """Make a file of another folder one of this too, if there is one, without a copy if can be.

        Raises:
            OSError: If it can't be copied.
        """
        source, path = other.folder / name, self.folder / name
        if path.exists() or not source.is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, path)
        except OSError:
            with written_whole(path) as temporary:
                shutil.copy(source, temporary)

    def keep_rounds(self, names: Collection[str]) -> None:
        """Delete the files of past rounds that are not among these."""
        self._keep("round-*.pt", names)

    def keep_bases(self, names: Collection[str]) -> None:
        """Delete the files of scenes on which edits build that are not among these."""
        self._keep("base-*.pt", names)

    def _keep(self, pattern: str, names: Collection[str]) -> None:
        for path in self.folder.glob(pattern):
            if path.name not in names:
                path.unlink(missing_ok=True)


def round_file(past: PastRound) -> str:
    """Name of the file of the scene at the end of a round; no two rounds of a run share it."""
    return f"round-{past.index:03d}-{past.step}.pt"


def base_file(*, index: int, step: int) -> str:
    """Name of the file of the scene on which round `index`, before this step, begins to build."""
    return f"base-{index:03d}-{step}.pt"
