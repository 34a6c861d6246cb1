"""Texts of regions, for pictures, videos and scenes alike.

A text names a place, or an instruction and a place, "PROMPT@PLACE", of which the last @ separates
the two. A place made of numbers and commas is a box; one that exists as a file or folder, or has a
separator or a suffix as paths have them, is a path; "labels:0,3" are numbers in a data set's own
label images; any other text is a word for a segmenter.

This module imports nothing heavy, since the command line needs it. `csd_nerf.media.regions` has all
of its names.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

PICTURE_FORMS = '"x0,y0,x1,y1" (pixels or percent), "mask.png", a folder of masks, or a word'
"""The places in a picture or video, for messages."""
_SCENE_FORMS = '"x0,y0,z0,x1,y1,z1", a folder of masks, "labels:0,3", or a word'
_LABELS = "labels:"


@dataclass(frozen=True)
class PictureBox:
    """A rectangle; its edges are texts, in pixels (such as "12.5") or percent ("10%")."""

    x0: str
    y0: str
    x1: str
    y1: str

    def __str__(self) -> str:
        return ",".join(astuple(self))

    def pixels(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 in pixels of a picture of this height and width.

        Raises:
            ValueError: If the rectangle is empty or not within the picture.
        """
        height, width = size
        x0, y0, x1, y1 = (
            _pixels(text, edge)
            for text, edge in zip(astuple(self), (width, height, width, height), strict=True)
        )
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"A region needs x0 < x1 and y0 < y1, got {self}.")
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            raise ValueError(
                f"A region needs to lie within the picture of {width} x {height} pixels, got "
                f"{self}."
            )
        return x0, y0, x1, y1


@dataclass(frozen=True)
class SceneBox:
    """A box in a scene's coordinates, along their axes, from its lowest to its highest corner."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def __str__(self) -> str:
        return ",".join(f"{number:.9g}" for number in (*self.low, *self.high))


@dataclass(frozen=True)
class Labels:
    """Numbers of a data set's own label images."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return _LABELS + ",".join(map(str, self.numbers))


@dataclass(frozen=True)
class Word:
    """What a segmenter is asked to find, such as "the car"."""

    text: str

    def __str__(self) -> str:
        return self.text


Place: TypeAlias = PictureBox | SceneBox | Path | Labels | Word


@dataclass(frozen=True)
class Region:
    """A place, and the instruction that applies there."""

    prompt: str | None
    """The instruction; None for the command's own."""
    where: Place
    """A path is a mask's file, or a folder with a mask a picture."""


def parse_region(text: str, *, of: Literal["picture", "scene"] = "picture") -> Region:
    """Parse a region; see the module.

    Args:
        text: The place, or the instruction and the place.
        of: What the place is in. A picture's boxes have four numbers and it has no labels; a
            scene's have six, and it takes one instruction only, the command's own.

    Raises:
        ValueError: If the text has another form.
    """
    forms = PICTURE_FORMS if of == "picture" else _SCENE_FORMS
    prompt, at, place = (part.strip() for part in text.rpartition("@"))
    if of == "scene" or not at or Path(text.strip()).exists():
        prompt, place = None, text.strip()
    elif not prompt:
        raise ValueError(
            f"A region needs an instruction before the @, got {text!r}; give PROMPT@PLACE, or the "
            "place alone for --prompt."
        )
    if not place:
        raise ValueError(f"A region needs a place: {forms}; got {text!r}, which lacks one.")
    return Region(prompt, _place(place, of, forms))


def _place(text: str, of: str, forms: str) -> Place:
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_is_number, parts)) and (Path(text).exists() or _looks_like_a_path(text)):
        return Path(text)
    if text.lower().startswith(_LABELS):
        numbers = text[len(_LABELS) :].split(",")
        if of == "picture" or not all(number.strip().isdecimal() for number in numbers):
            raise ValueError(f"A region of a {of} needs {forms}, got {text!r}.")
        return Labels(tuple(map(int, numbers)))
    if not any(map(_is_number, parts)):
        return Word(text)
    count = 4 if of == "picture" else 6
    percent = any(part.endswith("%") for part in parts)
    if len(parts) != count or not all(map(_is_number, parts)) or (percent and of == "scene"):
        raise ValueError(f"A box in a {of} needs {count} numbers: {forms}; got {text!r}.")
    if of == "picture":
        return PictureBox(*parts)
    x0, y0, z0, x1, y1, z1 = map(float, parts)
    if not (x0 < x1 and y0 < y1 and z0 < z1):
        raise ValueError(f"A box in a scene needs x0 < x1, y0 < y1 and z0 < z1, got {text!r}.")
    return SceneBox((x0, y0, z0), (x1, y1, z1))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text.removesuffix("%")))
    except ValueError:
        return False


def _looks_like_a_path(text: str) -> bool:
    separators = {os.sep, "/", os.altsep or os.sep}
    return any(one in text for one in separators) or bool(re.search(r"\w\.[A-Za-z]\w{1,4}$", text))


def _pixels(text: str, edge: int) -> float:
    number = float(text.removesuffix("%"))
    return number * edge / 100 if text.endswith("%") else number
