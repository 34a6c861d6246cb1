from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csd_nerf.core.windows import (
    coverage,
    cut_windows,
    window_means,
    window_positions,
)


@st.composite
def layouts(draw):
    canvas = (draw(st.integers(4, 14)), draw(st.integers(4, 14)))
    window = (draw(st.integers(2, canvas[0])), draw(st.integers(2, canvas[1])))
    return canvas, window, draw(st.integers(1, min(window)))


def slow_coverage(positions, window, canvas):
    count = [[0] * canvas[1] for _ in range(canvas[0])]
    for top, left in positions.tolist():
        for row in range(top, top + window[0]):
            for column in range(left, left + window[1]):
                count[row][column] += 1
    return torch.tensor(count)


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_windows_cover_everything_and_end_flush_with_the_edges(layout):
    canvas, window, stride = layout
    positions = window_positions(canvas, window, stride=stride)
    assert positions.min(0).values.tolist() == [0, 0]
    assert positions.max(0).values.tolist() == [canvas[0] - window[0], canvas[1] - window[1]]
    assert len({tuple(p) for p in positions.tolist()}) == len(positions)
    count = coverage(positions, window, canvas)
    assert torch.equal(count, slow_coverage(positions, window, canvas))
    assert count.min() >= 1


def test_positions_keep_the_stride_until_the_edge():
    positions = window_positions((4, 11), (4, 4), stride=3)
    assert positions.tolist() == [[0, 0], [0, 3], [0, 6], [0, 7]]


def test_the_paper_s_panorama_has_its_twelve_patches():
    """Appendix B.1: 1920x512 pixels are 240x64 cells; the stride of 16 gives 12 patches."""
    assert len(window_positions((64, 240), (64, 64), stride=16)) == 12


@settings(max_examples=40, deadline=None)
@given(layouts(), st.integers(0, 2**31))
def test_cutting_is_slicing_and_every_cell_is_covered(layout, seed):
    canvas, window, stride = layout
    generator = torch.Generator().manual_seed(seed)
    positions = window_positions(canvas, window, stride=stride)
    image = torch.randn(3, *canvas, generator=generator)
    windows = cut_windows(image, positions, window)
    for part, (top, left) in zip(windows, positions.tolist(), strict=True):
        assert torch.equal(part, image[:, top : top + window[0], left : left + window[1]])
    assert coverage(positions, window, canvas).min() >= 1


def test_layouts_that_leave_gaps_are_refused():
    with pytest.raises(ValueError, match=r"fit in the canvas \(4, 4\), got \(5, 4\)"):
        window_positions((4, 4), (5, 4), stride=1)
    with pytest.raises(ValueError, match=r"stride needs 1 <= stride <= 2.*got 3"):
        window_positions((4, 8), (2, 4), stride=3)


@settings(max_examples=20, deadline=None)
@given(layouts(), st.integers(0, 2**31))
def test_wrapping_is_rolling(layout, seed):
    """A window at column k of a canvas that wraps is the first of the canvas rolled by k."""
    canvas, window, stride = layout
    image = torch.randn(2, *canvas, generator=torch.Generator().manual_seed(seed))
    positions = window_positions(canvas, window, stride=stride, wrap=True)
    assert positions[:, 1].unique().tolist() == list(range(0, canvas[1], stride))
    windows = cut_windows(image, positions, window)
    for part, (top, left) in zip(windows, positions.tolist(), strict=True):
        rolled = image.roll(-left, dims=2)
        assert torch.equal(part, rolled[:, top : top + window[0], : window[1]])


@settings(max_examples=20, deadline=None)
@given(layouts(), st.integers(0, 2**31))
def test_means_over_windows_are_those_of_the_cut_windows(layout, seed):
    canvas, window, stride = layout
    masks = torch.rand(3, *canvas, generator=torch.Generator().manual_seed(seed))
    positions = window_positions(canvas, window, stride=stride)
    for row, (top, left) in zip(
        window_means(masks, positions, window), positions.tolist(), strict=True
    ):
        part = masks[:, top : top + window[0], left : left + window[1]]
        assert torch.allclose(row, part.mean((1, 2)), atol=1e-6)
