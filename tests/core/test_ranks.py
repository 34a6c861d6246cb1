"""Sharing work among processes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from ranks_together import run_together

from csd_nerf.core import ranks
from csd_nerf.core.joining import current
from csd_nerf.core.ranks import ALONE, RankError, Ranks


@pytest.fixture
def three():
    return partial(run_together, 3)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 2, 3, 5, 16, 17])
def test_shares_are_contiguous_complete_and_even(count, total):
    shares = [range(total)[Ranks(rank, count).share(total)] for rank in range(count)]
    assert [row for share in shares for row in share] == [*range(total)]
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_alone_nothing_is_copied_or_told():
    rows = torch.randn(4, 2)
    assert ALONE.gather(rows, 4) is rows
    assert ALONE.shared(4, lambda part: {"rows": rows[part]})["rows"].data_ptr() == rows.data_ptr()
    assert ALONE.from_first(lambda: rows) is rows
    assert ALONE.first_does(lambda: rows) is rows
    assert ALONE.all_of(3) == [3]
    assert ALONE.any(True)
    assert not ALONE.any(False)
    with pytest.raises(KeyError):
        ALONE.together(lambda: {}["a"])
    assert current() is ALONE


def gathered(total: int, dtype: torch.dtype) -> torch.Tensor:
    here = current()
    whole = (torch.arange(total * 3).view(total, 3) / 7).to(dtype)
    return here.gather(whole[here.share(total)], total)


@pytest.mark.parametrize("total", [0, 1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool])
def test_all_ranks_get_exactly_the_rows_of_all(three, total, dtype):
    expected = (torch.arange(total * 3).view(total, 3) / 7).to(dtype)
    for found in three(gathered, total, dtype):
        assert found.dtype == dtype
        assert torch.equal(found, expected)


def told() -> dict:
    here = current()
    return {
        "rank": (here.rank, here.count, here.local, here.is_first),
        "all": here.all_of({"from": here.rank}),
        "first": here.from_first(lambda: f"of {here.rank}"),
        "alone": here.first_does(lambda: here.rank),
        "yes": here.any(here.rank == 2),
        "no": here.any(False),
        "same": current() is here,
    }


def test_ranks_tell_each_other(three):
    found = three(told)
    assert [one["rank"] for one in found] == [(r, 3, r, r == 0) for r in range(3)]
    assert [one["alone"] for one in found] == [0, None, None]
    for one in found:
        assert one["all"] == [{"from": 0}, {"from": 1}, {"from": 2}]
        assert one["first"] == "of 0"
        assert one["yes"]
        assert not one["no"]
        assert one["same"]


def shared(total: int) -> tuple[torch.Tensor, int]:
    here, asked = current(), []

    def work(part: slice) -> dict[str, torch.Tensor]:
        asked.append(part.stop - part.start)
        rows = torch.arange(total)[part]
        return {"rows": rows, "squares": rows**2}

    found = here.shared(total, work)
    assert torch.equal(found["squares"], found["rows"] ** 2)
    return found["rows"], sum(asked)


def test_each_rank_works_for_its_share_alone(three):
    found = three(shared, 5)
    assert [worked for _, worked in found] == [2, 2, 1]
    assert all(rows.tolist() == [0, 1, 2, 3, 4] for rows, _ in found)


def failing(which: int) -> list[str]:
    """What each of several ways to fail raises, and that the ranks stay in step."""
    here, raised = current(), []

    def work(*_) -> dict:
        if here.rank == which:
            raise ValueError("the\nmistake")
        return {}

    def middle() -> None:
        # A failure between two calls meets the others in a call of theirs.
        if here.rank == which:
            raise ValueError("the\nmistake")
        for _ in range(3):
            here.any(False)

    ways = [
        lambda: here.together(work),
        lambda: here.shared(4, work),
        lambda: here.together(lambda: here.together(work)),
        lambda: here.together(middle),
    ]
    if which == 0:
        ways += [lambda: here.first_does(work), lambda: here.from_first(work)]
    for way in ways:
        with pytest.raises((ValueError, RankError)) as caught:
            way()
        raised.append(f"{type(caught.value).__name__}: {caught.value}")
        assert here.all_of(here.rank) == [0, 1, 2]
    return raised


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_of_one_rank_is_everyones(three, which):
    found = three(failing, which)
    for rank, raised in enumerate(found):
        own = rank == which
        expected = (
            "ValueError: the\nmistake" if own else f"RankError: Rank {which} of 3: the mistake"
        )
        assert raised == [expected] * (6 if which == 0 else 4)


def failing_alike() -> str:
    here = current()
    with pytest.raises(ValueError, match="invalid") as caught:
        here.together(lambda: int("x"))
    assert here.all_of(here.rank) == [0, 1, 2]
    return str(caught.value)


def test_an_error_of_all_is_raised_as_it_is(three):
    assert {*three(failing_alike)} == {"invalid literal for int() with base 10: 'x'"}


def test_ranks_wait_longer_than_a_run_takes():
    assert ranks.TIMEOUT.total_seconds() >= 24 * 3600


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("Tensors need one dtype.\nat a line"),
            "LostRankError: it died or can't be reached (Tensors need one dtype)",
        ),
        (RuntimeError(), "LostRankError: it died or can't be reached (RuntimeError)"),
        # That is this rank's own trouble.
        (torch.OutOfMemoryError("No memory."), "OutOfMemoryError: No memory."),
    ],
)
def test_a_call_that_fails_says_why(monkeypatch, error, told):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.distributed, "all_gather", fail)
    with pytest.raises(RuntimeError) as caught:
        Ranks(0, 2).gather(torch.zeros(1), 2)
    assert f"{type(caught.value).__name__}: {caught.value}" == told
