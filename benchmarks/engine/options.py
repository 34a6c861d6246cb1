"""What options of several benchmarks share; imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import tyro

_Number = TypeVar("_Number", int, float)
Preset = Annotated[
    _Number | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the preset's)")
]
"""A number whose default, None, stands for the value of the method's preset."""

STEIN: dict[str, Any] = {"mixing": "stein", "noise": "shared"}
"""The paper's mixing, for the preset tiny, which has another."""
PAPER_MIXING: dict[str, Any] = {**STEIN, "source_share": 1.0}
"""The same with all of the source's estimate, as in the paper."""
