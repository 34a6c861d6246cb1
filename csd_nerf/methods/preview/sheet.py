"""The sheet of a preview: all cells in one labelled picture.

Each prompt has a table: a column for each combination of scales, with the photographs at the left,
and a row for each view with each seed. Tables are side by side or below each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from csd_nerf.media.images import write_image

CELL_EDGE = 224
"""Longest edge of a cell's picture in pixels."""
GAP = 6
"""Pixels between pictures."""
_MARGIN, _ROW_LABEL, _HEAD, _TITLE, _BETWEEN = 20, 120, 26, 54, 32
"""Pixels round the sheet, of a row's label, a column's head and a prompt, and between tables."""
_SHAPE = 1.4
"""Wanted width of the sheet divided by its height."""
_INK, _FAINT, _PAPER, _EMPTY = "#1b1b1b", "#6a6a6a", "#ffffff", "#ececec"


def write_sheet(path: Path, record: Mapping[str, Any]) -> None:
    """Draw the sheet of a record, whose pictures are in the folder of `path`."""
    tables = [_Table(record, prompt, path.parent) for prompt in _prompts(record)]
    width, height = tables[0].size
    beside = _tables_beside(len(tables), width, height)
    rows = math.ceil(len(tables) / beside)
    across, down = (
        2 * _MARGIN + count * edge + (count - 1) * _BETWEEN
        for count, edge in ((beside, width), (rows, height))
    )
    sheet = Image.new("RGB", (across, down), _PAPER)
    for number, table in enumerate(tables):
        row, column = divmod(number, beside)
        at = (_MARGIN + column * (width + _BETWEEN), _MARGIN + row * (height + _BETWEEN))
        sheet.paste(table.drawn(), at)
    write_image(path, torch.from_numpy(np.array(sheet)))


class _Table:
    """The cells of one prompt."""

    def __init__(self, record: Mapping[str, Any], prompt: str, folder: Path) -> None:
        cells = record["cells"]
        self._prompt, self._folder, self._views = prompt, folder, record["views"]
        self._scales = sorted({(cell["text_scale"], cell["image_scale"]) for cell in cells})
        self._seeds = sorted({cell["seed"] for cell in cells})
        self._pictures = {
            (cell["seed"], cell["text_scale"], cell["image_scale"]): cell.get("pictures")
            for cell in cells
            if cell["prompt"] == prompt
        }
        self._cell = _cell_size(self._views)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; the same for all prompts."""
        columns, rows = 1 + len(self._scales), len(self._seeds) * len(self._views)
        width = _ROW_LABEL + columns * (self._cell[0] + GAP) - GAP
        return width, _TITLE + _HEAD + rows * (self._cell[1] + GAP) - GAP

    def drawn(self) -> Image.Image:
        """The table with its labels."""
        table = Image.new("RGB", self.size, _PAPER)
        draw = ImageDraw.Draw(table)
        lines = _wrapped(self._prompt, 18, self.size[0], lines=2)
        draw.multiline_text((0, 0), lines, _INK, _font(18), spacing=2)
        heads = ["source", *(f"text {text:g}  image {image:g}" for text, image in self._scales)]
        columns = [_ROW_LABEL + n * (self._cell[0] + GAP) for n in range(len(heads))]
        for x, head in zip(columns, heads, strict=True):
            draw.text((x, _TITLE + 2), _wrapped(head, 14, self._cell[0], lines=1), _INK, _font(14))
        y = _TITLE + _HEAD
        for seed in self._seeds:
            for number, view in enumerate(self._views):
                draw.text((0, y), f"seed {seed}", _INK, _font(14))
                name = _wrapped(Path(view["name"]).name, 12, _ROW_LABEL - 10, lines=1)
                draw.text((0, y + 20), name, _FAINT, _font(12))
                found = (self._pictures.get((seed, *scales)) for scales in self._scales)
                names = [view["picture"], *(one and one[number] for one in found)]
                for x, picture in zip(columns, names, strict=True):
                    table.paste(self._picture(picture), (x, y))
                y += self._cell[1] + GAP
        return table

    def _picture(self, name: str | None) -> Image.Image:
        """A cell's picture in the middle of its place; grey where there is none."""
        if name is None:
            return Image.new("RGB", self._cell, _EMPTY)
        place = Image.new("RGB", self._cell, _PAPER)
        with Image.open(self._folder / name) as opened:
            picture = opened.convert("RGB")
        scale = min(self._cell[0] / picture.width, self._cell[1] / picture.height)
        width, height = round(picture.width * scale), round(picture.height * scale)
        fitted = picture.resize((max(1, width), max(1, height)), Image.Resampling.LANCZOS)
        place.paste(fitted, ((place.width - width) // 2, (place.height - height) // 2))
        return place


def _prompts(record: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(cell["prompt"] for cell in record["cells"]))


def _tables_beside(count: int, width: int, height: int) -> int:
    """Number of tables side by side with which the sheet's shape is nearest to the wanted one."""

    def off(beside: int) -> float:
        return abs(math.log(beside * width / (math.ceil(count / beside) * height) / _SHAPE))

    return min(range(1, count + 1), key=off)


def _cell_size(views: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Width and height into which all views fit, each at `CELL_EDGE` for its longer edge."""
    scaled = [[CELL_EDGE * edge / max(view["size"]) for edge in view["size"]] for view in views]
    return round(max(w for w, _ in scaled)), round(max(h for _, h in scaled))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _wrapped(text: str, size: int, width: int, *, lines: int) -> str:
    """A text in lines of this width; what doesn't fit is cut off."""
    font, done, left = _font(size), [], text.split(" ")
    while left and len(done) < lines:
        taken = max(1, _fitting(left, font, width))
        done.append(" ".join(left[:taken]))
        left = left[taken:]
    last = done[-1] + (" ..." if left else "")
    while len(last) > 4 and font.getlength(last) > width:
        last = f"{last.removesuffix('...')[:-1]}..."
    return "\n".join([*done[:-1], last])


def _fitting(words: Sequence[str], font: Any, width: int) -> int:
    """How many of the first words fit into a line."""
    fits = (n for n in range(len(words), 0, -1) if font.getlength(" ".join(words[:n])) <= width)
    return next(fits, 0)
