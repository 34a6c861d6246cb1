from __future__ import annotations

import pytest
import torch
from slow_patches import slow_mix

from csd_nerf.core import patches
from csd_nerf.core.kernels import median_bandwidth, squared_distances
from csd_nerf.core.patches import PatchKernel, patch_kernel


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bandwidth", [0.1, 0.7])
def test_mixing_is_the_kernel_weighted_mean_over_the_cells_of_other_images(bandwidth):
    source, residual = noise(0, 3, 2, 3, 4), noise(1, 3, 2, 3, 4)
    # Some patches of different images are alike, as in photographs of one scene.
    source[1, :, :, 1:] = source[0, :, :, :3] + 0.05 * noise(2, 2, 3, 3)
    found = patch_kernel(source.float(), bandwidth=bandwidth).mix(residual.float())
    expected = slow_mix(source.float().double(), residual, bandwidth)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)
    assert (expected - residual).abs().max() > 0.1


def test_one_image_follows_its_own_residual():
    residual = noise(1, 1, 4, 6, 5).float()
    found = patch_kernel(noise(0, 1, 4, 6, 5).float()).mix(residual)
    torch.testing.assert_close(found, residual, atol=1e-6, rtol=1e-6)


def test_images_that_have_nothing_in_common_follow_their_own_residuals():
    source = torch.stack([torch.full((2, 4, 4), v) for v in (-1.0, 0.0, 1.0)])
    residual = noise(1, 3, 2, 4, 4).float()
    found = patch_kernel(source, bandwidth=0.01).mix(residual)
    torch.testing.assert_close(found, residual, atol=1e-6, rtol=1e-6)


def test_identical_images_get_identical_steps():
    source = noise(0, 1, 3, 5, 5).float().expand(4, -1, -1, -1)
    residual = noise(1, 4, 3, 5, 5).float()
    found = patch_kernel(source).mix(residual[:1].expand(4, -1, -1, -1))
    torch.testing.assert_close(found, found[:1].expand_as(found), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [(5, 4), (16, 17)])
def test_a_permutation_of_the_images_permutes_the_result(size):
    """The larger ones have more cells than the median is taken of."""
    source, residual = noise(0, 4, 2, *size).float(), noise(1, 4, 2, *size).float()
    source *= torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None, None, None]
    order = torch.tensor([2, 0, 3, 1])
    found = patch_kernel(source, bandwidth=0.5).mix(residual)
    permuted = patch_kernel(source[order], bandwidth=0.5).mix(residual[order])
    torch.testing.assert_close(permuted, found[order], atol=1e-5, rtol=1e-4)


def test_the_cells_of_which_the_median_is_taken_stand_for_all():
    points = noise(0, 4 * 256, 3).float()
    points.view(4, 16, 16, 3)[:, :, ::4] *= 8  # Columns that evenly spaced cells would be.
    squared = squared_distances(points)
    some = patches._sample(squared.view(4, 256, 4, 256))
    assert some.shape == (512, 512)
    medians = [float(median_bandwidth(s, divisor=1.0)) for s in (some, squared)]
    assert medians[0] == pytest.approx(medians[1], rel=0.1)
    assert float(median_bandwidth(squared[::4, ::4], divisor=1.0)) > 5 * medians[1]


def test_a_residual_that_is_the_same_everywhere_stays():
    residual = torch.full((3, 2, 7, 9), 0.3)
    for max_cells in (4096, 40):
        kernel = patch_kernel(noise(0, 3, 2, 7, 9).float(), max_cells=max_cells)
        torch.testing.assert_close(kernel.mix(residual), residual)


def test_a_limit_on_the_cells_mixes_means_and_keeps_each_image_s_detail():
    source, residual = noise(0, 2, 2, 8, 12).float(), noise(1, 2, 2, 8, 12).float()
    kernel = patch_kernel(source, max_cells=60)
    assert kernel.grid == (4, 6)
    assert kernel.weights.shape == (48, 48)

    def means(image: torch.Tensor) -> torch.Tensor:
        return image.view(2, 2, 4, 2, 6, 2).mean((3, 5))

    change = kernel.mix(residual) - residual
    fine = PatchKernel(kernel.weights, kernel.grid).mix(means(residual)) - means(residual)
    expected = torch.nn.functional.interpolate(fine, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(change, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        patch_kernel(means(source)).weights, kernel.weights, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("size", "cells", "grid"),
    [((16, 16), 256, (16, 16)), ((64, 96), 256, (11, 16)), ((1, 9), 1, (1, 1))],
)
def test_the_grid_is_the_finest_that_fits(size, cells, grid):
    kernel = patch_kernel(torch.zeros(2, 1, *size), max_cells=2 * cells)
    assert kernel.grid == grid


def test_sources_without_any_contrast_mix_uniformly():
    kernel = patch_kernel(torch.zeros(2, 3, 2, 2))
    residual = noise(1, 2, 3, 2, 2).float()
    found = kernel.mix(residual)
    expected = (residual + residual.flip(0).mean((2, 3), keepdim=True)) / 2
    torch.testing.assert_close(found, expected)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"patch_bandwidth needs to be positive, got 0\."):
        patch_kernel(torch.zeros(2, 1, 2, 2), bandwidth=0.0)
    with pytest.raises(ValueError, match=r"one cell for each of 3 images, got 2\."):
        patch_kernel(torch.zeros(3, 1, 2, 2), max_cells=2)
