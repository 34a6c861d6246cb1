"""Loops over arrays that numba compiles for the CPU; importing this module imports numba.

Threads are Python's: compiled loops run without its lock. numba's own threads end the process where
two threads of Python ask for them at once, or after a fork.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

_PARTS = 4
"""Parts of the work for each thread, since some take longer than others."""


def compiled(function: Any) -> Any:
    """Let numba compile a function at its first call, and keep the result on disk if it can.

    Dividing by zero gives infinity, as in torch. Mark the function by `typing.no_type_check`.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    # No folder for it can be written to.
    except RuntimeError:
        return njit(**options)(function)


def in_threads(loop: Callable[..., None], total: int, *given: Any) -> None:
    """Call a loop for parts of 0 to `total` - 1, in as many threads as torch has.

    Args:
        loop: Takes the first number, the one after the last, and what is given. No two numbers may
            write to the same place.
        total: How many numbers there are.
        given: Tensors on the CPU, which become arrays on the same memory, and other values.
    """
    values = [as_array(value) if isinstance(value, Tensor) else value for value in given]
    threads = torch.get_num_threads()
    if threads == 1 or total < 2:
        loop(0, total, *values)
        return
    ends = np.linspace(0, total, min(total, _PARTS * threads) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        # A list, so that errors are raised.
        list(pool.map(lambda first, last: loop(first, last, *values), ends[:-1], ends[1:]))


def as_array(tensor: Tensor) -> np.ndarray:
    """A contiguous tensor's numbers, on the same memory; those of others are copied."""
    return tensor.detach().contiguous().numpy()
