"""The files beside an output: state of an interrupted run, record of a finished one, preview.

State and record hold the run's settings and fingerprints of its input and of the prior's weights. A
later run may resume from them only if these are the same, and if the contents are those that were
saved. Only files that such runs have written are replaced or removed.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from csd_nerf.adapters.fingerprints import (
    content_digest,
    fingerprint,
    other_versions,
    versions,
)
from csd_nerf.adapters.reporter import State
from csd_nerf.media.files import has_fields, remove_unfinished, write_json, written_whole

NEUTRAL_SETTINGS = (
    "resume",
    "overwrite",
    "save_every",
    "preview_every",
    "device",
    "max_batch",
    "prior_offload",
    "prior_compile",
    "prior_split",
)
"""Settings that don't change the result, so that a resumed run may change them."""

Found = Literal["nothing", "state", "result"]
"""What an earlier run left: nothing, the state of an interrupted run, or a finished result."""

_PACKAGES = ("csd_nerf", "torch", "diffusers", "transformers", "av", "numpy")
_FIELDS = {"settings", "fingerprint", "weights", "versions", "seconds", "done", "state"}
_RECORDED = {"output", "input", "command", "settings", "facts"}
"""Fields by which a record is known to be ours."""
_MARK = ("Software", "csd-nerf")
"""A text in our previews, by which they are known to be ours."""
_STATE_MARK = (b"PK\3\4", b".csd-nerf-part/")
"""What torch saves begins with the first, and has the name of the file, without its suffix, soon
after; states are saved under a name of ours."""


@dataclass
class RunFiles:
    """The files of one run, which makes one output."""

    sources: tuple[Path, ...]
    """Files or folders of the input."""
    output: Path
    """File or folder to make."""
    settings: dict[str, Any]
    """All options with their final values, in types that JSON has."""
    command: Sequence[str]
    """The words of the command line."""
    fingerprint: str
    """Hash of the input, from the function `fingerprint`."""
    weights: str | None = None
    """Hash of the prior's weights, from `priors.identity`; None before the prior is loaded."""

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
        return self.output.with_name(f"{self.output.name}.preview.png")

    def look(self, *, resume: bool, overwrite: bool) -> Found:
        """Find what an earlier run left to resume from; writes nothing.

        Args:
            resume: Resume an interrupted run, or keep the result of a finished one.
            overwrite: Replace existing files, unless `resume` can use them.

        Raises:
            FileExistsError: If files exist and the options don't allow to use or replace them, or
                a file that no run has written has the name of one of the files beside the output.
            ValueError: If the files to resume from are damaged or of another run.
        """
        self._check_marks()
        if resume:
            try:
                if self.state.exists():
                    self.load_state()
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
        for path in (self.output, self.record):
            if _holds_something(path):
                raise FileExistsError(
                    f"The output must be a new one, got {path}; pass --overwrite to replace "
                    "it, or name another --output."
                )
        return "nothing"

    def check_apart_from(self, others: Sequence[Path]) -> None:
        """Check that no input or other output of the call has a name that this run writes to.

        Raises:
            ValueError: If one has.
        """
        written = {path.resolve() for path in (self.output, *self._beside)}
        for path in others:
            if path.resolve() in written:
                raise ValueError(
                    f"An input must not be a file that the run writes, nor another output, got "
                    f"{path} for --output {self.output}; name another --output."
                )

    @property
    def _beside(self) -> tuple[Path, Path, Path]:
        return (self.state, self.record, self.preview)

    def _check_marks(self) -> None:
        """Raise if a file beside the output is not of a run: it is somebody's and stays."""
        known = {
            self.state: _is_state,
            self.record: lambda path: has_fields(path, _RECORDED),
            self.preview: _is_preview,
        }
        for path, is_ours in known.items():
            if path.exists() and not is_ours(path):
                raise FileExistsError(
                    f"{path} has the name of a file that the run writes, and is not of csd-nerf; "
                    "move it away, or name another --output."
                )

    def save_state(self, state: State, *, done: int, seconds: float) -> None:
        """Write a state atomically, in place of the earlier one.

        Raises:
            OSError: If it can't be written.
        """
        saved = {
            "settings": json.dumps(self.settings),
            "fingerprint": self.fingerprint,
            "weights": self.weights,
            "versions": _packages(),
            "seconds": seconds,
            "done": done,
            "state": state,
        }
        try:
            with written_whole(self.state) as temporary:
                torch.save({**saved, "digest": content_digest(saved)}, temporary)
        # torch reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"The state must be saved, got {error} for {self.state}; make room, or save none "
                "with --save-every 0."
            ) from error

    def save_preview(self, image: UInt8[Tensor, "h w 3"]) -> None:
        """Write a picture of the current result."""
        mark = PngImagePlugin.PngInfo()
        mark.add_text(*_MARK)
        with written_whole(self.preview) as temporary:
            Image.fromarray(image.cpu().numpy()).save(temporary, pnginfo=mark)

    def load_state(self) -> tuple[State, float]:
        """Read the state of an interrupted run, and the seconds that it ran.

        Raises:
            ValueError: If the file is damaged or belongs to another run.
        """
        try:
            saved = torch.load(self.state, map_location="cpu", weights_only=True)
            found = saved.pop("digest")
            if saved.keys() != _FIELDS or found != content_digest(saved):
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
        others = other_versions(saved["versions"], _packages())
        if self.weights is not None and saved["weights"] != self.weights:
            others.append("a prior with other weights")
        self._check_same(settings, saved["fingerprint"], self.state, others)
        return {**saved["state"], "done": saved["done"]}, saved["seconds"]

    def finish(self, facts: dict[str, Any], *, notices: Sequence[str], seconds: float) -> None:
        """Write the record of a finished run, then remove all that was needed before.

        Args:
            facts: The adapter's facts, in types that JSON has.
            notices: The notices that the user was given.
            seconds: Duration of the run.
        """
        paths = [str(path) for path in self.sources]
        shown = paths if len(paths) > 1 else paths[0]
        record = {
            "output": str(self.output),
            "output_fingerprint": fingerprint(self.output),
            "input": {"path": shown, "fingerprint": self.fingerprint},
            "weights": self.weights,
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
        remove_unfinished(self.output, *self._beside)

    def _check_record(self) -> None:
        """Check that the record is of this output, of these settings and of this input."""
        try:
            record = json.loads(self.record.read_text("utf8"))
            settings, recorded = {**record["settings"]}, record["input"]["fingerprint"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f"--resume needs a record that can be read, got {self.record}; add --overwrite to "
                "start anew."
            ) from None
        same = record.get("output_fingerprint") == fingerprint(self.output)
        others = [] if same else [f"another {self.output}"]
        self._check_same(settings, recorded, self.record, others)

    def _check_same(
        self, settings: dict[str, Any], fingerprint: str, path: Path, others: Sequence[str]
    ) -> None:
        """Raise if settings or input differ from this run's; the message names the options.

        Args:
            settings: Settings of the earlier run.
            fingerprint: Fingerprint of its input.
            path: Its file, for the message.
            others: What else differs, for the message.
        """
        now = json.loads(json.dumps(self.settings))
        names = [
            n
            for n in {**now, **settings}
            if n not in NEUTRAL_SETTINGS and now.get(n) != settings.get(n)
        ]
        told = [
            f"--{name.replace('_', '-')} {json.dumps(now.get(name))} instead of "
            f"{json.dumps(settings.get(name))}"
            for name in names
        ]
        if not told and fingerprint != self.fingerprint:
            told = ["an input of other contents"]
        if told := told or [*others]:
            raise ValueError(
                f"--resume needs what {path} was made with, got {', '.join(told)}; give what it "
                "was made with, or another --output, or add --overwrite to start anew."
            )


def _packages() -> dict[str, str | None]:
    """Versions of the packages; Python's own does not decide the result."""
    return {name: found for name, found in versions(_PACKAGES).items() if name != "python"}


def _is_state(path: Path) -> bool:
    """Whether a file is a state, maybe damaged."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        begin = file.read(1024)
        return begin.startswith(_STATE_MARK[0]) and _STATE_MARK[1] in begin
    return False


def _is_preview(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(_MARK[0]) == _MARK[1]
    except (OSError, ValueError, SyntaxError):
        return False


def _holds_something(output: Path) -> bool:
    """Whether the output is an existing file or a folder that is not empty."""
    return any(output.iterdir()) if output.is_dir() else output.exists()
