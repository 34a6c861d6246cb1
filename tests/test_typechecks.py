"""What is checked only once is still checked: each call that could be wrong for the first time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from typechecks import ITEMS, checked_once, kind

from csd_nerf.core import kernels

Square = Float[Tensor, "n n"]


@pytest.fixture
def squares() -> tuple[Callable[..., Any], list[Any]]:
    """A function, and the results that it will give."""
    results: list[Any] = []

    @checked_once(typechecker=beartype)
    def next_result(one: Square, *, size: int = 2, rows: dict[str, int]) -> Float[Tensor, "{size}"]:
        return results.pop()

    return next_result, results


def test_arguments_and_results_are_checked_after_right_ones(squares):
    call, results = squares
    right = torch.zeros(2)
    results += [torch.zeros(3), right, right]
    for _ in range(2):
        assert call(torch.zeros(2, 2), rows={"a": 1}) is right
    with pytest.raises(TypeCheckError, match="return value"):
        call(torch.zeros(2, 2), rows={"a": 1})
    assert results == []
    for one in (torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int), np.zeros((2, 2)), None):
        with pytest.raises(TypeCheckError, match="parameters"):
            call(one, rows={"a": 1})
    for rows in ({"a": 1.0}, {1: 1}, [1]):
        with pytest.raises(TypeCheckError, match="parameters"):
            call(torch.zeros(2, 2), rows=rows)
    results.append(right)
    with pytest.raises(TypeCheckError, match="return value"):
        call(torch.zeros(2, 2), size=3, rows={"a": 1})


def test_a_result_is_not_made_twice(squares):
    call, results = squares
    results += [torch.zeros(1), torch.zeros(2)]
    assert len(call(torch.zeros(2, 2), rows={})) == 2
    with pytest.raises(TypeCheckError):
        call(torch.zeros(2, 2), rows={})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (1, 2),
        ("a", "b"),
        (int, 1),
        (int, float),
        ([1], (1,)),
        ([1], [1, 1]),
        ({"a": 1}, {"a": "1"}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float16)),
        (torch.zeros(2), np.zeros(2)),
        ([torch.zeros(2)], [torch.zeros(3)]),
        ([1] * ITEMS, [*[1] * (ITEMS - 1), "a"]),
        ((1,) * 2 * ITEMS, (1,) * 3 * ITEMS),
    ],
)
def test_kinds_that_differ(one, other):
    assert kind(one) != kind(other) or hash(kind(one)) != hash(kind(other))


def test_the_package_is_checked():
    right = torch.zeros(3, 2)
    kernels.squared_distances(right)
    kernels.squared_distances(right)
    with pytest.raises(TypeCheckError):
        kernels.squared_distances(torch.zeros(3))
