from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.sweeps import AxisCover, Deck, check_drawing, fade
from csd_nerf.core.windows import window_positions


def randomness(seed=0):
    return SeededRandomness(torch.Generator().manual_seed(seed))


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_deck_deals_everything_once_a_sweep_in_nearly_equal_batches(size, count, seed):
    source = randomness(seed)
    deck = Deck(lambda r: r.choice(size, size))
    for _ in range(3):
        batches, steps = [], set()
        while sum(map(len, batches)) < size:
            batches.append(deck.draw(count, source))
            steps.add(deck.draw_timestep(source, 0, 10**9))
        assert len(steps) == 1
        sizes = [len(batch) for batch in batches]
        assert len(batches) == -(-size // count)
        assert max(sizes) - min(sizes) <= 1
        assert sorted(torch.cat(batches).tolist()) == list(range(size))


def test_a_short_sweep_is_filled_up_with_empty_batches():
    source, lengths = randomness(), iter([5, 0, 2])
    deck = Deck(lambda r: r.choice(9, next(lengths)))
    drawn, steps = [], []
    for _ in range(9):
        drawn.append(len(deck.draw(2, source, batches=3)))
        steps.append(deck.draw_timestep(source, 0, 10**9))
    assert drawn == [2, 2, 1, 0, 0, 0, 2, 0, 0]
    assert [steps.index(step) for step in steps] == [0, 0, 0, 3, 3, 3, 6, 6, 6]


@st.composite
def axes(draw):
    window = draw(st.integers(2, 9))
    length = draw(st.integers(window, 40))
    stride = draw(st.integers(1, window))
    overlap = draw(st.integers(0, window // 2))
    wrap = draw(st.booleans())
    starts = window_positions((length, length), (window, window), stride=stride, wrap=wrap)
    return AxisCover(starts[:, 1].unique(), length, window, overlap, wrap)


@given(axes(), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_every_cover_covers(axis, seed):
    for indices in axis.draw(randomness(seed), rows=3).tolist():
        assert len(set(indices)) == axis.count
        cells = Counter(
            (start + k) % axis.length if axis.wrap else start + k
            for start in axis.starts[indices].tolist()
            for k in range(axis.window)
        )
        assert set(cells) == set(range(axis.length))


def test_all_covers_are_equally_likely():
    """Against the list of all covers, by brute force."""
    axis = AxisCover(torch.arange(9), 14, 6, 2)
    assert axis.count == 4
    covers = [
        (0, *middle, 8)
        for middle in combinations(range(1, 8), 2)
        if all(b - a <= 4 for a, b in zip((0, *middle), (*middle, 8), strict=True))
    ]
    assert len(covers) > 5
    drawn = Counter(map(tuple, axis.draw(randomness(), rows=6000).tolist()))
    assert set(drawn) == set(covers)
    expected = 6000 / len(covers)
    assert all(abs(n - expected) < 5 * expected**0.5 for n in drawn.values())


def test_a_long_axis_has_more_covers_than_a_float_can_count():
    starts = torch.arange(0, 6000, 2)
    indices = AxisCover(starts, 6014, 16, 4).draw(randomness())
    assert starts[indices].diff().max() <= 16


def test_faded_windows_that_overlap_by_the_taper_add_up_to_one():
    starts = torch.tensor([0, 6, 12])
    total = torch.zeros(20)
    for start, weights in zip(starts, fade(starts, length=20, window=8, taper=2), strict=True):
        total[start : start + 8] += weights
    assert torch.allclose(total, torch.ones(20))
    assert torch.equal(fade(starts, length=20, window=8, taper=0), torch.ones(3, 8))
    around = fade(starts[:1], length=20, window=8, taper=2, wrap=True)[0]
    assert around.tolist() == [0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25]


def test_an_unknown_drawing_is_refused():
    with pytest.raises(ValueError, match="one of balanced, uniform, got 'any'"):
        check_drawing("any")
