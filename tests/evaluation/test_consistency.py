from __future__ import annotations

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


def slow_seam(error: np.ndarray, borders: Borders, period: int) -> float:
    """The definition, a pair of pixels at a time."""
    height, width = error.shape[1:]
    excess = []
    for lines, length, other in ((borders.rows, height, width), (borders.columns, width, height)):
        across, elsewhere = [], []
        for k in range(period, length, period):
            for m in range(other):
                for channel in error:
                    pair = (
                        channel[k, m] - channel[k - 1, m]
                        if length == height and lines is borders.rows
                        else channel[m, k] - channel[m, k - 1]
                    )
                    (across if k in lines else elsewhere).append(abs(pair))
        excess.append(np.mean(across) - np.mean(elsewhere))
    return float(np.mean(excess))


@pytest.mark.parametrize("period", [1, 2])
def test_the_seam_step_is_that_of_the_definition(period):
    edited, truth = noise(3, 10, 14), noise(3, 10, 14, seed=1)
    borders = Borders(rows=(4, 6), columns=(2, 8))
    expected = slow_seam((edited - truth).double().numpy(), borders, period)
    assert seam_step(edited, truth, borders, period=period) == pytest.approx(expected, abs=1e-6)


def test_steps_of_known_height_are_measured_whatever_the_picture():
    truth = 0.2 + 0.5 * noise(3, 8, 12)
    edited = truth.clone()
    edited[:, :, 6:] += 0.1
    assert seam_step(edited, truth, Borders((), (6,))) == pytest.approx(0.1, abs=1e-6)
    # The row's border has no step: the mean of 0.1 and 0.
    assert seam_step(edited, truth, Borders((4,), (6,))) == pytest.approx(0.05, abs=1e-6)
    assert seam_step(truth, truth, Borders((4,), (6,))) == 0
    # A step beside the border is not one at the border: 1 of the 10 other places has it.
    assert seam_step(edited, truth, Borders((), (5,))) == pytest.approx(-0.01, abs=1e-6)


def test_a_grid_of_cells_is_no_seam():
    truth = torch.zeros(3, 16, 16)
    grid = (torch.arange(16) // 4 % 2 * 0.1).expand(3, 16, 16)
    assert seam_step(grid, truth, Borders((), (8,)), period=4) == pytest.approx(0, abs=1e-6)
    assert seam_step(grid, truth, Borders((), (8,))) > 0.08


def test_the_seam_of_a_wrapped_panorama_lies_between_its_edges():
    ramp = torch.linspace(0, 1, 11).expand(3, 4, 11)
    step = seam_step(ramp, torch.zeros_like(ramp), Borders((), (0,)))
    assert step == pytest.approx(1 - 0.1, abs=1e-6)


@pytest.mark.parametrize("borders", [Borders((), ()), Borders((), (2, 4, 6))])
def test_a_seam_needs_something_to_compare_with(borders):
    image = noise(3, 8, 8)
    with pytest.raises(ValueError, match=r"needs borders and places that are none .* 8x8 pixels"):
        seam_step(image, image, borders, period=2)


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
