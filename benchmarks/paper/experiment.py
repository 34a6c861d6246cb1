"""Types that describe an experiment of the paper, and the columns of its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from csd_nerf.evaluation.measures import named
from csd_nerf.evaluation.tables import Column

Kind = Literal["panorama", "video", "scene", "views"]
Figures = Mapping[str, tuple[float, float | None]]
"""Mean and standard deviation (None if not given) by the column's key."""


@dataclass(frozen=True)
class Line:
    """One line of a table: a method with its settings, and the paper's numbers."""

    name: str
    method: str | None = None
    """Method of `csd-nerf` or of the scene benchmark; None if results are given by --peer."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options over those of the full preset."""
    tiny: Mapping[str, Any] = field(default_factory=dict)
    """Options that replace `options` with --tiny."""
    paper: Figures = field(default_factory=dict)
    """The paper's numbers."""
    peer: str | None = None
    """NAME in --peer NAME=DIR, for methods that this package doesn't have."""
    size: tuple[int, int] | None = None
    """Height and width to which the input is resized; None keeps its size."""
    tiny_size: tuple[int, int] | None = None
    """The same with --tiny."""
    curve: str | None = None
    """In a figure, the name of the curve that has this line as a point."""
    relative_to: str | None = None
    """Name of the line by which the column of ratios divides."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper."""

    title: str
    kind: Kind
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    ours: tuple[str, ...]
    """Notes on details that the paper does not specify, and our choices."""
    follows: tuple[str, ...] = ()
    """Notes on the paper's numbers: which are printed as they are, and which follow from its text
    or by arithmetic from others that it prints."""
    prompts: tuple[tuple[str, str, str], ...] = ()
    """Instructions, each with both captions, for inputs without a prompts.json."""
    ratio_of: str | None = None
    """Key of the column whose ratios are shown; None for no column of ratios."""
    timed: bool = False
    """Whether time is measured; each method's first edit is then preceded by a short warm-up."""
    tiny_inputs: int = 2
    """Number of synthetic inputs with --tiny."""


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
"""Columns with the CLIP similarity of rendered views to their text, by kind of view."""
