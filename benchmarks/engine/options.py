"""Types of command-line options; imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, TypeVar

import tyro

_Number = TypeVar("_Number", int, float)
Preset = Annotated[
    _Number | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the preset's)")
]
"""A number whose default, None, stands for the value of the method's preset."""
