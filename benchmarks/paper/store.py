"""What an experiment has made so far: results as files, and record.json with facts and scores."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.inputs import Frames, sorted_pictures
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.files import check_writable, write_json
from csd_nerf.media.frames import frame_writer
from csd_nerf.media.images import read_image

RECORD = "record.json"


class Store:
    """A folder that grows by a result at a time, so that an interrupted experiment goes on."""

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        """Open a folder, or make it.

        Raises:
            ValueError: If it holds an experiment of other settings.
        """
        self.output = output
        self._path = output / RECORD
        # As JSON has them, so that those of a file compare equal.
        settings = json.loads(json.dumps(settings, default=str))
        self._record: dict[str, Any] = {"settings": settings, "facts": [], "scores": []}
        if self._path.is_file():
            self._record = json.loads(self._path.read_text())
            before = self._record["settings"]
            keys = dict.fromkeys([*before, *settings])
            different = [key for key in keys if before.get(key) != settings.get(key)]
            if different:
                raise ValueError(
                    f"{output} holds an experiment with other settings of {', '.join(different)}; "
                    "name another --output."
                )
        check_writable(self._path)

    def frames(self, line: str, name: str) -> Frames | None:
        """A result that was kept, or None."""
        folder = self.folder(line, name)
        if self.facts(line, name) is None or not folder.is_dir():
            return None
        return torch.stack([read_image(path)[0] for path in sorted_pictures(folder)])

    def keep(self, line: str, name: str, frames: Frames, facts: dict[str, Any]) -> None:
        """Write a result as PNG, then the facts that say it is finished."""
        folder = self.folder(line, name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with frame_writer(folder, size=(frames.shape[1], frames.shape[2])) as write:
            for frame in frames:
                write(frame)
        self._put("facts", line, name, facts)

    def facts(self, line: str, name: str) -> Row | None:
        """What is known of a result's making, or None."""
        return self._get("facts", line, name)

    def score(self, line: str, name: str) -> Row | None:
        """The scores of a result, or None."""
        return self._get("scores", line, name)

    def keep_score(self, line: str, name: str, row: Row) -> None:
        """Write the scores of a result in place of older ones."""
        self._put("scores", line, name, row)

    def folder(self, line: str, name: str) -> Path:
        """Where a result lies."""
        return self.output / "results" / file_name(line) / file_name(name)

    def _get(self, what: str, line: str, name: str) -> Row | None:
        return next((row for row in self._record[what] if _is_of(row, line, name)), None)

    def _put(self, what: str, line: str, name: str, values: Row) -> None:
        others = [row for row in self._record[what] if not _is_of(row, line, name)]
        self._record[what] = [*others, {"line": line, "input": name, **values}]
        write_json(self._path, self._record)


def complete(row: Row | None, keys: Sequence[str], clip: str | None) -> bool:
    """Whether all measures are there, by this CLIP model."""
    return row is not None and row.get("clip_model") == clip and all(key in row for key in keys)


def file_name(name: str) -> str:
    """A name without spaces and signs."""
    return re.sub(r"[^\w.=-]+", "_", name).strip("_")


def _is_of(row: Row, line: str, name: str) -> bool:
    return row["line"] == line and row["input"] == name
