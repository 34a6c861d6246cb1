"""Finds options that are no usable numbers; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any


def non_finite_fields(options: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each field of a dataclass that is, or holds, NaN or infinity."""
    for spec in dataclasses.fields(options):
        value = getattr(options, spec.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            yield spec.name, value
