"""Finds options that are no usable numbers; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any


def non_finite_fields(options: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each field of a dataclass that is, or holds, NaN or infinity.

    Fields of dataclasses and mappings in it are included, as OUTER.INNER.
    """
    for spec in dataclasses.fields(options):
        # A subclass of nerfstudio's configs may leave a field out.
        yield from _non_finite(spec.name, getattr(options, spec.name, None))


def _non_finite(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for inner, number in non_finite_fields(value):
            yield f"{name}.{inner}", number
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _non_finite(f"{name}.{key}", inner)
    numbers = value if isinstance(value, (tuple, list)) else (value,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        yield name, value
