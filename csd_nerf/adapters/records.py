"""What is written beside an output: the state of an interrupted run, the record of a finished one.

Both hold the run's settings and the fingerprint of its input, so that a run is only taken up by
one that would have done the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from csd_nerf.adapters.job import State
from csd_nerf.media.files import write_json, written_whole

FREE = ("resume", "overwrite", "save_every", "preview_every", "device", "max_batch")
"""Settings that may differ between a run and the one that takes it up."""

_PACKAGES = ("csd_nerf", "torch", "diffusers", "transformers", "av", "numpy")
_FIELDS = {"settings", "fingerprint", "seconds", "done", "state"}


@dataclass(frozen=True)
class Beside:
    """The names of the files beside an output."""

    output: Path

    @property
    def state(self) -> Path:
        """State of an interrupted run."""
        return self.output.with_name(f"{self.output.name}.state.pt")

    @property
    def record(self) -> Path:
        """Settings and facts of a finished run."""
        return self.output.with_name(f"{self.output.name}.json")

    @property
    def preview(self) -> Path:
        """How a run's result looks so far."""
        return self.output.with_name(f"{self.output.stem}.preview.png")


@dataclass(frozen=True)
class Identity:
    """What a run is known by."""

    settings: dict[str, Any]
    """All options with their values filled in; JSON has a form for each."""
    fingerprint: str
    """Of the input's contents; see `fingerprint`."""

    def check_same(self, settings: dict[str, Any], fingerprint: str, path: Path) -> None:
        """Check that what is recorded in `path` is of such a run.

        Raises:
            ValueError: If it isn't; names the options that differ.
        """
        now = json.loads(json.dumps(self.settings))
        names = [n for n in {**now, **settings} if n not in FREE and now.get(n) != settings.get(n)]
        told = ", ".join(
            f"--{name.replace('_', '-')} {json.dumps(now.get(name))} instead of "
            f"{json.dumps(settings.get(name))}"
            for name in names
        )
        if not told and fingerprint != self.fingerprint:
            told = "an input of other contents"
        if told:
            raise ValueError(
                f"--resume needs what {path} was made with, got {told}; give what it was made "
                "with, or another --output, or add --overwrite to start anew."
            )


def fingerprint(*paths: Path) -> str:
    """SHA-256 of the contents of files, and of the names, sizes and times of folders' files."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_dir():
            for file in sorted(path.iterdir()):
                status = file.stat()
                digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        else:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def save_state(path: Path, identity: Identity, *, state: State, done: int, seconds: float) -> None:
    """Write a state; until it is whole on the disk the earlier one stays.

    Raises:
        OSError: If it can't be written.
    """
    saved = {
        "settings": json.dumps(identity.settings),
        "fingerprint": identity.fingerprint,
        "seconds": seconds,
        "done": done,
        "state": state,
    }
    try:
        with written_whole(path) as temporary:
            torch.save(saved, temporary)
    # torch reports a full disk as a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"The state must be saved, got {error} for {path}; make room, or save none with "
            "--save-every 0."
        ) from error


def load_state(path: Path, identity: Identity, *, mmap: bool = False) -> tuple[State, float]:
    """Read the state of an interrupted run and the seconds that it took.

    Args:
        path: What `save_state` wrote.
        identity: What the run that goes on is known by.
        mmap: Leave the tensors in the file until they are used.

    Raises:
        ValueError: If the file isn't whole, or belongs to another run.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(saved, dict) or set(saved) != _FIELDS:
            raise ValueError("other contents")
        settings = json.loads(saved["settings"])
    # What torch raises for a damaged file depends on where the damage is.
    except Exception as error:
        if isinstance(error, (MemoryError, PermissionError)):
            raise
        raise ValueError(
            f"--resume needs a whole state, got {path}, which is damaged or not ours; add "
            "--overwrite to start anew."
        ) from None
    identity.check_same(settings, saved["fingerprint"], path)
    return {**saved["state"], "done": saved["done"]}, saved["seconds"]


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record of a finished run as JSON, with the versions that made it."""
    write_json(path, {**record, "versions": versions(_PACKAGES)})


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of installed packages."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def check_record(path: Path, identity: Identity) -> None:
    """Check that a finished run's record is of such a run.

    Raises:
        ValueError: If it isn't, or can't be read.
    """
    try:
        record = json.loads(path.read_text())
        settings, recorded = record["settings"], record["input"]["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"--resume needs a record that can be read, got {path}; add --overwrite to start anew."
        ) from None
    identity.check_same(settings, recorded, path)
