"""What describes an experiment of the paper, and the columns of its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from csd_nerf.evaluation.measures import named
from csd_nerf.evaluation.tables import Column

Kind = Literal["panorama", "video", "scene", "views"]
Figures = Mapping[str, tuple[float, float | None]]
"""Mean and deviation (None: not given) by column."""


@dataclass(frozen=True)
class Line:
    """A method with its settings, and what the paper measured of it."""

    name: str
    method: str | None = None
    """Of `csd-nerf`, or of the scene benchmark; None: results come by --peer."""
    options: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] = field(default_factory=dict)
    paper: Figures = field(default_factory=dict)
    peer: str | None = None
    """Name of the folder of results in --peer."""
    size: tuple[int, int] | None = None
    """Height and width to which the input is brought."""
    tiny_size: tuple[int, int] | None = None
    curve: str | None = None
    """In a figure: the curve that the line is a point of."""
    relative_to: str | None = None
    """The line that ratios are to."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper."""

    title: str
    kind: Kind
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    ours: tuple[str, ...]
    """What the paper leaves open, and how it is settled here."""
    prompts: tuple[tuple[str, str, str], ...] = ()
    """Instruction and both captions, for inputs without a prompts.json."""
    ratio_of: str | None = None
    """Key of the column that ratios are of."""
    timed: bool = False
    """Whether the time is what counts: each method's first edit is preceded by a short one."""
    tiny_inputs: int = 2


RATIO = Column("ratio", "ratio", digits=2)
SECONDS = Column("seconds", "total time, s", better="lower")
RATE = Column("rate", "iterations a second", digits=2, better="higher")
CLIP_DIRECTION, CLIP_CONSISTENCY, CLIP_SOURCE, CLIP_TEXT, FRAME_LPIPS, FID = named(
    "clip_direction", "clip_consistency", "clip_source", "clip_text", "frame_lpips", "fid"
)
VIEW_COLUMNS = {
    kind: dataclasses.replace(CLIP_TEXT, key=f"clip_{shown}", heading=f"CLIP similarity, {shown}")
    for kind, shown in {"colour": "colour", "depth": "geometry"}.items()
}
"""How well the views of a kind fit their text."""
