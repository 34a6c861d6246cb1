"""Finds options that are no usable numbers; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any


def non_finite_fields(options: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each field of a dataclass that is, or holds, NaN or infinity.

    Fields of dataclasses in it are included, as OUTER.INNER.
    """
    for spec in dataclasses.fields(options):
        # A subclass of nerfstudio's configs may leave a field out.
        value = getattr(options, spec.name, None)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for name, inner in non_finite_fields(value):
                yield f"{spec.name}.{name}", inner
        numbers = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            yield spec.name, value
