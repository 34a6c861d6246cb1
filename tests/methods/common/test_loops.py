from __future__ import annotations

import threading
from typing import no_type_check

import numpy as np
import pytest
import torch

from csd_nerf.methods.common.loops import as_array, compiled, in_threads


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@compiled
@no_type_check
def _square(begin, end, values, result):
    for number in range(begin, end):
        result[number] += values[number] ** 2


@pytest.mark.parametrize("total", [0, 1, 2, 5, 100])
def test_every_number_is_visited_once(threads, total):
    values, result = torch.arange(total).double(), torch.zeros(total).double()
    in_threads(_square, total, values, result)
    assert torch.equal(result, values**2)


def test_work_is_spread_over_the_threads_that_torch_has(threads):
    seen, meet = set(), threading.Barrier(threads)

    def loop(begin, end):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            meet.wait(timeout=20)

    in_threads(loop, 40)
    assert len(seen) == threads


def test_an_error_of_a_part_is_raised(threads):
    def loop(begin, end):
        if end == 40:
            raise FloatingPointError("at the end")

    with pytest.raises(FloatingPointError, match="at the end"):
        in_threads(loop, 40)


def test_arrays_share_the_tensors_memory():
    tensor = torch.zeros(3)
    as_array(tensor)[1] = 4
    assert tensor.tolist() == [0, 4, 0]


def test_loops_are_compiled_where_nothing_can_be_kept(monkeypatch):
    """numba refuses to keep functions of files that it doesn't find."""
    place: dict = {}
    exec("def twice(value):\n    return 2 * value", place)
    assert compiled(place["twice"])(np.int64(4)) == 8
