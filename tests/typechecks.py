"""Checks of types and shapes that a function needs once for calls of the same kinds.

A loop makes the same call over and over, and with small arrays most of the time would go into
checks. They look at the types of arguments and results, at shapes and dtypes of arrays, and at
plain values, which may be dimensions: if all of these were right before, they are again.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Hashable
from itertools import islice
from types import FunctionType
from typing import Any

import jaxtyping
import numpy as np
import torch

_checked = jaxtyping.jaxtyped

ITEMS = 32
"""Items of a container that are looked at."""


def checked_once(function: Any = None, *, typechecker: Any) -> Any:
    """In the place of `jaxtyping.jaxtyped`: leave out the check of what has passed."""
    if function is None:
        return functools.partial(checked_once, typechecker=typechecker)
    if not inspect.isfunction(function):
        return _checked(function, typechecker=typechecker)
    return _once(function, typechecker)


def _once(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    passed: dict[Hashable, set[Hashable]] = {}
    replayed = threading.local()

    def run(*args: Any, **named: Any) -> Any:
        if hasattr(replayed, "result"):
            return replayed.result
        return function(*args, **named)

    # Annotations are looked up where the function stands.
    there = FunctionType(run.__code__, function.__globals__, closure=run.__closure__)
    checked = _checked(functools.wraps(function)(there), typechecker=typechecker)

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        given = (*map(kind, args), *named, *map(kind, named.values()))
        results = passed.get(given)
        if results is None:
            result = checked(*args, **named)
            passed[given] = {kind(result)}
            return result
        result = function(*args, **named)
        found = kind(result)
        if found not in results:
            replayed.result = result
            try:
                checked(*args, **named)
            finally:
                del replayed.result
            results.add(found)
        return result

    return call


def kind(value: Any) -> Hashable:
    """All that a check can see of a value, but for items of a long container beyond `ITEMS`.

    Of these beartype looks at one by chance, and thousands would take longer than what is tested.
    """
    of = type(value)
    if of in (torch.Tensor, torch.nn.Parameter, np.ndarray):
        return of, value.shape, value.dtype
    if of in (bool, type):
        return of, value
    if of in (int, str):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return of, isinstance(value, tuple) and len(value), *map(kind, islice(value, ITEMS))
    if isinstance(value, dict):
        keys, items = islice(value, ITEMS), islice(value.values(), ITEMS)
        return of, *map(kind, keys), *map(kind, items)
    return of
