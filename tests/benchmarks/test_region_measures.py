"""What is measured of local edits, on pixels that can be counted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.regions.run import _overlap, _psnr, _widened


def test_masks_overlap_by_what_they_share_of_what_either_covers():
    first, second = torch.zeros(2, 4, 4, dtype=torch.bool)
    first[:2], second[1:] = True, True
    assert _overlap(first, second) == pytest.approx(4 / 16)


def test_pixels_nearer_than_a_distance_belong_to_the_outline():
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[4, 4] = True
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    away = torch.maximum((rows - 4).abs(), (columns - 4).abs())
    assert torch.equal(_widened(mask, 3), away < 3)


def test_errors_are_means_over_the_chosen_pixels_of_all_images():
    black = [torch.zeros(3, 2, 2)] * 2
    off = [torch.full((3, 2, 2), 0.1), torch.full((3, 2, 2), 0.3)]
    corner = torch.zeros(2, 2, dtype=torch.bool)
    corner[0, 0] = True
    # Four pixels are off by 0.1, one by 0.3.
    error = (4 * 0.01 + 0.09) / 5
    found = _psnr(black, off, [torch.ones(2, 2, dtype=torch.bool), corner])
    assert found == pytest.approx(float(-10 * torch.tensor(error).log10()), abs=1e-4)
