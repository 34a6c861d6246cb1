from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from csd_nerf.core.windows import window_positions
from csd_nerf.evaluation.consistency import (
    Borders,
    border_psnr,
    extra_change,
    flicker,
    seam_step,
    window_borders,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_borders_are_where_windows_begin_and_end():
    positions = window_positions((6, 11), (4, 4), stride=2)
    # Rows start at 0 and 2; columns at 0, 2, 4, 6 and 7.
    borders = window_borders(positions, (4, 4), (6, 11), cell_size=3)
    assert borders == Borders(rows=(6, 12), columns=(6, 12, 18, 21, 24, 30))


def test_wrapped_windows_have_a_border_where_the_edges_meet():
    positions = torch.tensor([[0, 0], [0, 4], [0, 6]])
    borders = window_borders(positions, (4, 4), (4, 8), cell_size=2, wrap=True)
    assert borders == Borders(rows=(), columns=(0, 4, 8, 12))


def slow_seam(error: np.ndarray, borders: Borders, cell: int) -> float:
    """The definition, a line and a piece of it at a time."""
    height, width = error.shape[1:]
    excess = []
    for axis in ("rows", "columns"):
        across = axis == "columns"
        length, other = (width, height) if across else (height, width)
        lines = borders.columns if across else borders.rows
        cuts = [0, *(borders.rows if across else borders.columns), other]

        def mean(channel, place, start, end, across=across):
            pixels = [(m, place) if across else (place, m) for m in range(start, end)]
            return sum(channel[pixel] for pixel in pixels) / len(pixels)

        found: dict[bool, dict[int, float]] = {True: {}, False: {}}
        for k in range(cell, length - cell + 1, cell):
            height_of_line = 0.0
            for start, end in itertools.pairwise(cuts):
                for channel in error:
                    e = [mean(channel, k + m, start, end) for m in range(-cell, cell)]
                    left = (e[cell - 1] - e[0]) / (cell - 1)
                    right = (e[-1] - e[cell]) / (cell - 1)
                    step = e[cell] - e[cell - 1] - (left + right) / 2
                    height_of_line += abs(step) / 3 * (end - start) / other
            found[k in lines][k] = height_of_line
        seams = []
        for k, height_of_line in found[True].items():
            sides = []
            for direction in (-cell, cell):
                side, other = [], k + direction
                while other in found[False]:
                    # The first and the last line lie next to the picture's edges.
                    if cell < other < max([*found[True], *found[False]]):
                        side.append(found[False][other])
                    other += direction
                sides += [np.mean(side)] if side else []
            if sides:
                seams.append(height_of_line - np.mean(sides))
        excess.append(np.mean(seams))
    return float(np.mean(excess))


@pytest.mark.parametrize(
    ("cell", "borders"), [(2, Borders((4, 8), (6, 14))), (3, Borders((6,), (9,)))]
)
def test_the_seam_step_is_that_of_the_definition(cell, borders):
    edited, truth = noise(3, 15, 22), noise(3, 15, 22, seed=1)
    expected = slow_seam((edited - truth).double().numpy(), borders, cell)
    assert seam_step(edited, truth, borders, cell_size=cell) == pytest.approx(expected, abs=1e-6)


COLUMNS = Borders((), (16, 32, 48))
"""Borders of windows of 16 pixels, four cells, on 64."""


def steps(*heights: float) -> Tensor:
    """An error with these steps at 16, 32 and 48."""
    error = torch.zeros(3, 40, 64)
    for k, height in zip(COLUMNS.columns, heights, strict=True):
        error[:, :, k:] += height
    return error


def seam(error: Tensor, borders: Borders = COLUMNS) -> float:
    truth = 0.3 + 0.1 * noise(*error.shape, seed=9)
    return seam_step(truth + error, truth, borders, cell_size=4)


@pytest.mark.parametrize("heights", [(0.1, 0.1, 0.1), (-0.1, 0.1, -0.1), (-0.1, -0.2, 0)])
def test_seams_of_either_sign_are_as_high_as_they_are(heights):
    assert seam(steps(*heights)) == pytest.approx(0.1, abs=1e-6)
    assert seam(-steps(*heights)) == pytest.approx(0.1, abs=1e-6)


def test_a_smooth_error_is_no_seam_and_hides_none():
    ramp = torch.linspace(-0.5, 0.5, 64).expand(3, 40, 64)
    wave = 0.2 * torch.sin(2 * torch.pi * torch.arange(64) / 64).expand(3, 40, 64)
    assert seam(ramp) == pytest.approx(0, abs=1e-6)
    assert abs(seam(wave)) < 5e-4
    # The ramp's own jump is 1 / 63: a plain jump of opposite sign would be 0.016 lower.
    for smooth in (ramp, wave):
        assert seam(smooth - steps(0.05, 0.05, 0.05)) == pytest.approx(0.05, abs=5e-4)
        assert seam(smooth + steps(0.05, 0.05, 0.05)) == pytest.approx(0.05, abs=5e-4)


def test_noise_is_no_seam_and_hides_none():
    found, planted = [], []
    for seed in range(20):
        error = 0.1 * torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(seed))
        found.append(seam(error))
        planted.append(seam(error + steps(0.1, -0.1, 0.1)))
    # A line's mean step has a deviation of 0.1 sqrt(2.9 / 40) = 0.027.
    assert abs(np.mean(found)) < 2e-3
    assert min(planted) > max(map(abs, found))


def test_noise_at_the_edges_of_a_picture_is_no_seam():
    found = []
    for seed in range(20):
        error = 0.02 * torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(seed))
        error[:, :, :4] *= 10
        error[:, :, 60:] *= 10
        found.append(seam(error))
    assert abs(np.mean(found)) < 1e-3


def test_windows_above_and_below_may_have_opposite_offsets():
    error = steps(0.1, 0.1, 0.1)
    error[:, 20:] *= -1
    assert seam(error, Borders((20,), COLUMNS.columns)) > 0.09
    # Without the border of the rows a line is one piece, in which they cancel.
    assert seam(error) == pytest.approx(0, abs=1e-6)


def test_a_step_beside_the_borders_is_none_at_the_borders():
    error = torch.zeros(3, 40, 64)
    error[:, :, 4:] += 0.1
    assert seam(error) == pytest.approx(0, abs=1e-6), "It lies next to the picture's edge."
    error[:, :, 20:] += 0.1
    # One of the three lines on one of the two sides, of two of the three borders.
    assert seam(error) == pytest.approx(-2 / 3 * 0.1 / 3 / 2, abs=1e-6)
    assert seam(torch.zeros(3, 40, 64)) == pytest.approx(0, abs=1e-7)


def test_both_axes_count_alike():
    error = torch.zeros(3, 40, 64)
    error[:, 20:] += 0.1
    assert seam(error, Borders((20,), (32,))) == pytest.approx(0.1 / 2, abs=1e-6)
    assert seam(error, Borders((20,), ())) == pytest.approx(0.1, abs=1e-6)


def test_a_grid_of_cells_is_no_seam():
    grid = (torch.arange(64) // 4 % 2 * 0.1).expand(3, 40, 64)
    assert seam(grid) == pytest.approx(0, abs=1e-6)


def test_the_seam_of_a_wrapped_panorama_lies_between_its_edges():
    ramp = torch.linspace(0, 1, 64).expand(3, 40, 64)
    # From 1 down to 0, between two cells that rise by 1 / 63 a pixel.
    assert seam(ramp, Borders((), (0,))) == pytest.approx(1 + 1 / 63, abs=1e-6)


@pytest.mark.parametrize("borders", [Borders((), ()), Borders((), (2, 4, 6))])
def test_a_seam_needs_something_to_compare_with(borders):
    image = noise(3, 8, 8)
    with pytest.raises(ValueError, match=r"needs borders and lines that are none .* 8x8 pixels"):
        seam_step(image, image, borders, cell_size=2)
    with pytest.raises(ValueError, match="cells of at least 2 pixels, got 1"):
        seam_step(image, image, Borders((), (4,)), cell_size=1)


def slow_psnr(edited: Tensor, truth: Tensor, keep) -> float:
    squares = [
        (float(edited[c, y, x]) - float(truth[c, y, x])) ** 2
        for c in range(3)
        for y in range(edited.shape[1])
        for x in range(edited.shape[2])
        if keep(y, x)
    ]
    return -10 * math.log10(sum(squares) / len(squares))


def test_corners_border_and_interior_are_told_apart():
    edited, truth = noise(3, 10, 14), noise(3, 10, 14, seed=1)

    def row(y: int) -> bool:
        return y < 3 or y >= 7

    def column(x: int) -> bool:
        return x < 3 or x >= 11

    seen = border_psnr(edited, truth, margin=3)
    assert seen.corners == pytest.approx(
        slow_psnr(edited, truth, lambda y, x: row(y) and column(x))
    )
    assert seen.border == pytest.approx(slow_psnr(edited, truth, lambda y, x: row(y) or column(x)))
    inside = slow_psnr(edited, truth, lambda y, x: not row(y) and not column(x))
    assert seen.interior == pytest.approx(inside)
    around = border_psnr(edited, truth, margin=3, wrap=True)
    assert around.border == pytest.approx(slow_psnr(edited, truth, lambda y, x: row(y)))
    assert around.interior == pytest.approx(slow_psnr(edited, truth, lambda y, x: not row(y)))


@pytest.mark.parametrize("margin", [0, 5])
def test_a_margin_has_to_leave_an_interior(margin):
    image = noise(3, 10, 14)
    with pytest.raises(ValueError, match=f"interior of a 10x14 image, got {margin}"):
        border_psnr(image, image, margin=margin)


def test_flicker_by_hand():
    truth = torch.zeros(3, 3, 2, 2)
    truth[1:] = 0.5
    edited = truth + 0.1
    assert flicker(edited, truth) == pytest.approx(0, abs=1e-7)
    edited[1] += 0.06
    # Both changes of the error are 0.06, up and down again.
    assert flicker(edited, truth) == pytest.approx(0.06, abs=1e-6)
    # Changes of the edit: 0.56 and 0.06; of the truth: 0.5 and 0.
    assert extra_change(edited, truth) == pytest.approx(0.31 - 0.25, abs=1e-6)


def test_flicker_is_that_of_the_definition():
    edited, truth = noise(4, 3, 3, 2), noise(4, 3, 3, 2, seed=1)
    e, t = edited.double().numpy(), truth.double().numpy()
    wrong, change, still = [], [], []
    for place in np.ndindex(3, 3, 3, 2):
        before, after = place, (place[0] + 1, *place[1:])
        wrong.append(abs((e[after] - e[before]) - (t[after] - t[before])))
        change.append(abs(e[after] - e[before]))
        still.append(abs(t[after] - t[before]))
    assert flicker(edited, truth) == pytest.approx(np.mean(wrong), abs=1e-6)
    assert extra_change(edited, truth) == pytest.approx(np.mean(change) - np.mean(still), abs=1e-6)


@pytest.mark.parametrize("measure", [flicker, extra_change])
def test_flicker_needs_two_frames(measure):
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        measure(noise(1, 3, 2, 2), noise(1, 3, 2, 2))
