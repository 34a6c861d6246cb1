"""The files of a preview: its record, the pictures of its cells, the sheet and the page."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxtyping import UInt8
from torch import Tensor

from csd_nerf.media.files import has_fields, write_json, write_text
from csd_nerf.media.images import write_image
from csd_nerf.media.pixels import resize
from csd_nerf.methods.preview.cells import Cell

RECORD, PAGE, SHEET = "preview.json", "preview.html", "sheet.png"
PICTURES = "cells"
"""Folder of the pictures."""
PICTURE_EDGE = 1024
"""Longest edge in pixels of a picture; larger ones are shrunk."""
_FIELDS = {"method", "views", "cells", "photographs", "state"}
"""Fields by which a record is known to be ours."""
_SAME = ("method", "photographs", "weights")
"""Fields that have to be the same for cells of an earlier call to be kept."""

State = Literal["running", "interrupted", "finished"]


@dataclass
class PreviewRecord:
    """What is known of a preview, as it is written to preview.json and into the page."""

    folder: Path
    facts: dict[str, Any]
    """The fields of the record besides the cells."""
    cells: list[dict[str, Any]] = field(default_factory=list)
    """The cells that are done, in the order of their making."""

    def write(
        self, state: State, *, total: int, seconds: float, seconds_left: float | None
    ) -> None:
        """Write the record and the page.

        Args:
            state: Whether more cells are to come.
            total: Number of cells of the whole sweep.
            seconds: Duration of all cells so far.
            seconds_left: What the rest will take; None if that isn't known.
        """
        left = None if seconds_left is None else round(seconds_left)
        progress = {"state": state, "total": total, "seconds": round(seconds, 1)}
        record = {**self.facts, **progress, "seconds_left": left, "cells": self.cells}
        write_json(self.folder / RECORD, record)
        # Within a script element the text must not end it.
        payload = json.dumps(record, default=str).replace("<", "\\u003c")
        template = Path(__file__).with_name("page.html").read_text("utf-8")
        write_text(self.folder / PAGE, template.replace("__PREVIEW__", payload))

    def add(self, cell: Cell, facts: Mapping[str, Any]) -> None:
        """Add a cell that is done."""
        self.cells.append({**identity_of(cell), "command": cell.command, **facts})

    def has(self, cell: Cell) -> bool:
        """Whether a cell is done."""
        return any(done["command"] == cell.command for done in self.cells)


def identity_of(cell: Cell) -> dict[str, Any]:
    """What tells a cell from the others of a sweep."""
    return {
        "prompt": cell.prompt,
        "text_scale": cell.text_scale,
        "image_scale": cell.image_scale,
        "seed": cell.seed,
    }


def picture_stem(cell: Cell) -> str:
    """Begin of the names of a cell's pictures: readable, and its own."""
    words = re.sub(r"[^a-z0-9]+", "-", cell.prompt.lower()).strip("-")[:32].strip("-")
    mark = f"{zlib.crc32(cell.command.encode()):08x}"
    return f"{words}_t{cell.text_scale:g}_i{cell.image_scale:g}_s{cell.seed}_{mark}"


def save_picture(folder: Path, name: str, image: UInt8[Tensor, "H W 3"]) -> str:
    """Write a picture into the folder of pictures; returns its path from the preview's folder."""
    height, width = image.shape[:2]
    scale = PICTURE_EDGE / max(height, width)
    if scale < 1:
        image = resize(image.cpu(), (max(1, round(scale * height)), max(1, round(scale * width))))
    path = Path(PICTURES) / f"{name}.png"
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    write_image(folder / path, image)
    return path.as_posix()


def open_record(
    folder: Path,
    facts: dict[str, Any],
    cells: Sequence[Cell],
    *,
    resume: bool,
) -> PreviewRecord:
    """The record of a new preview, or that of the one to resume.

    Args:
        folder: The preview's folder, as `check_folder` left it.
        facts: The record's fields besides the cells.
        cells: The cells that are asked for.
        resume: Whether to keep the cells that are done.

    Raises:
        ValueError: If the earlier preview is of other photographs, another method or prior, or has
            cells that aren't asked for.
    """
    record = PreviewRecord(folder, facts)
    if not (resume and (folder / RECORD).exists()):
        return record
    earlier = json.loads((folder / RECORD).read_text("utf8"))
    others = [name for name in _SAME if earlier.get(name) != facts[name]]
    if [view["name"] for view in earlier["views"]] != [view["name"] for view in facts["views"]]:
        others.append("views")
    if others:
        raise ValueError(
            f"--resume needs what {folder / RECORD} was made with, got other {', '.join(others)}; "
            "name another --output, or pass --overwrite to start anew."
        )
    asked = {cell.command for cell in cells}
    for cell in earlier["cells"]:
        if cell["command"] not in asked:
            raise ValueError(
                f"--resume needs at least the cells of {folder / RECORD}, got none for its "
                f"{cell['command']}; add its prompt, scales, seed and options, or name another "
                "--output."
            )
        # Cells that failed are tried again.
        pictures = [folder / name for name in cell.get("pictures", [])]
        if pictures and all(picture.is_file() for picture in pictures):
            record.cells.append(cell)
    return record


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a preview can be written to a folder; a preview to be replaced is removed.

    Raises:
        FileExistsError: If something is there that is not to be resumed or replaced, or isn't ours.
        ValueError: If the record of the preview to resume can't be read.
    """
    # A lock and what a killed call was about to write are hidden.
    if not folder.exists() or not [p for p in folder.glob("*") if not p.name.startswith(".")]:
        return
    record = folder / RECORD
    if not has_fields(record, _FIELDS):
        raise FileExistsError(
            f"--output must be a new folder or that of a preview, got {folder} without a "
            f"{RECORD} of one; name another, or move it away."
        )
    if overwrite:
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
        for name in (RECORD, PAGE, SHEET):
            (folder / name).unlink(missing_ok=True)
    elif not resume:
        raise FileExistsError(
            f"The output must be a new one, got {folder}; pass --resume to go on with it, "
            "--overwrite to replace it, or name another --output."
        )
