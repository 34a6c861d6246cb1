"""The files beside an output: state of an interrupted run, record of a finished one, preview.

State and record hold the run's settings and a fingerprint of its input. A later run may resume from
them only if its settings and its input are the same.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from csd_nerf.adapters.reporter import State
from csd_nerf.media.files import write_json, written_whole

NEUTRAL_SETTINGS = ("resume", "overwrite", "save_every", "preview_every", "device", "max_batch")
"""Settings that don't change the result, so that a resumed run may change them."""

Found = Literal["nothing", "state", "result"]
"""What an earlier run left: nothing, the state of an interrupted run, or a finished result."""

_PACKAGES = ("csd_nerf", "torch", "diffusers", "transformers", "av", "numpy")
_FIELDS = {"settings", "fingerprint", "seconds", "done", "state"}


@dataclass(frozen=True)
class RunFiles:
    """The files of one run, from one input to one output."""

    source: Path
    """File or folder of the input."""
    output: Path
    """File or folder to make."""
    settings: dict[str, Any]
    """All options with their final values, in types that JSON has."""
    command: Sequence[str]
    """The words of the command line."""
    fingerprint: str
    """Hash of the input, from the function `fingerprint`."""

    @property
    def state(self) -> Path:
        """File with the state of an interrupted run."""
        return self.output.with_name(f"{self.output.name}.state.pt")

    @property
    def record(self) -> Path:
        """JSON file with the settings and facts of a finished run."""
        return self.output.with_name(f"{self.output.name}.json")

    @property
    def preview(self) -> Path:
        """Picture of the current result."""
        return self.output.with_name(f"{self.output.stem}.preview.png")

    def look(self, *, resume: bool, overwrite: bool) -> Found:
        """Find what an earlier run left to resume from; writes nothing.

        Args:
            resume: Resume an interrupted run, or keep the result of a finished one.
            overwrite: Replace existing files, unless `resume` can use them.

        Raises:
            FileExistsError: If files exist and the options don't allow to use or replace them.
            ValueError: If the files to resume from are damaged or of another run.
        """
        if resume:
            try:
                if self.state.exists():
                    self.load_state(mmap=True)
                    return "state"
                if _holds_something(self.output) and self.record.exists():
                    self._check_record()
                    return "result"
            except ValueError:
                if not overwrite:
                    raise
        if overwrite:
            return "nothing"
        if self.state.exists():
            raise FileExistsError(
                f"An interrupted run left its state in {self.state}; pass --resume to go on with "
                "it, or --overwrite to start anew."
            )
        if _holds_something(self.output):
            raise FileExistsError(
                f"The output must be a new one, got {self.output}; pass --overwrite to replace "
                "it, or name another --output."
            )
        return "nothing"

    def save_state(self, state: State, *, done: int, seconds: float) -> None:
        """Write a state atomically, in place of the earlier one.

        Raises:
            OSError: If it can't be written.
        """
        saved = {
            "settings": json.dumps(self.settings),
            "fingerprint": self.fingerprint,
            "seconds": seconds,
            "done": done,
            "state": state,
        }
        try:
            with written_whole(self.state) as temporary:
                torch.save(saved, temporary)
        # torch reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"The state must be saved, got {error} for {self.state}; make room, or save none "
                "with --save-every 0."
            ) from error

    def load_state(self, *, mmap: bool = False) -> tuple[State, float]:
        """Read the state of an interrupted run, and the seconds that it ran.

        Args:
            mmap: Leave the tensors in the file until they are used.

        Raises:
            ValueError: If the file is damaged or belongs to another run.
        """
        try:
            saved = torch.load(self.state, map_location="cpu", weights_only=True, mmap=mmap)
            if not isinstance(saved, dict) or set(saved) != _FIELDS:
                raise ValueError("other contents")
            settings = json.loads(saved["settings"])
        # The exception of torch for a damaged file depends on where the damage is.
        except Exception as error:
            if isinstance(error, (MemoryError, PermissionError)):
                raise
            raise ValueError(
                f"--resume needs a whole state, got {self.state}, which is damaged or not ours; "
                "add --overwrite to start anew."
            ) from None
        self._check_same(settings, saved["fingerprint"], self.state)
        return {**saved["state"], "done": saved["done"]}, saved["seconds"]

    def finish(self, facts: dict[str, Any], *, notices: Sequence[str], seconds: float) -> None:
        """Write the record of a finished run, then remove its state and its preview.

        Args:
            facts: The adapter's facts, in types that JSON has.
            notices: The notices that the user was given.
            seconds: Duration of the run.
        """
        record = {
            "output": str(self.output),
            "input": {"path": str(self.source), "fingerprint": self.fingerprint},
            "command": shlex.join(self.command),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "seed": self.settings["seed"],
            "settings": self.settings,
            "notices": [*notices],
            "facts": facts,
            "versions": versions(_PACKAGES),
        }
        write_json(self.record, record)
        self.state.unlink(missing_ok=True)
        self.preview.unlink(missing_ok=True)

    def _check_record(self) -> None:
        """Check that the record of a finished run has the settings and the input of this run."""
        try:
            record = json.loads(self.record.read_text())
            settings, recorded = record["settings"], record["input"]["fingerprint"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"--resume needs a record that can be read, got {self.record}; add --overwrite to "
                "start anew."
            ) from None
        self._check_same(settings, recorded, self.record)

    def _check_same(self, settings: dict[str, Any], fingerprint: str, path: Path) -> None:
        """Raise if settings or input differ from this run's; the message names the options."""
        now = json.loads(json.dumps(self.settings))
        names = [
            n
            for n in {**now, **settings}
            if n not in NEUTRAL_SETTINGS and now.get(n) != settings.get(n)
        ]
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


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The versions of Python and of packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def fingerprint(*paths: Path) -> str:
    """SHA-256 of the contents of files, and of the names, sizes and times of files in folders."""
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


def _holds_something(output: Path) -> bool:
    """Whether the output is an existing file or a folder that is not empty."""
    return any(output.iterdir()) if output.is_dir() else output.exists()
