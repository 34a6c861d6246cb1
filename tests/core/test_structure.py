"""Structure images: their packing by cells, and depth as a structure."""

from __future__ import annotations

import math

import pytest
import torch

from csd_nerf.core.structure import depth_structure, pack_structure, unpack_structure


@pytest.mark.parametrize("cell_size", [1, 2, 8])
def test_packing_moves_each_pixel_to_its_cell_and_back(cell_size):
    image01 = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    packed = pack_structure(image01, cell_size=cell_size)
    for y in range(16):
        for x in range(24):
            channel = cell_size * (y % cell_size) + x % cell_size
            assert torch.equal(
                packed[:, channel, y // cell_size, x // cell_size], image01[:, 0, y, x]
            )
    assert torch.equal(unpack_structure(packed, cell_size=cell_size), image01)


def test_a_crop_of_packed_cells_is_the_packed_crop():
    image01 = torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    crop = pack_structure(image01, cell_size=8)[:, :, 1:3, 2:5]
    assert torch.equal(unpack_structure(crop, cell_size=8), image01[:, :, 8:24, 16:40])


def test_depth_is_inverse_and_near_is_white():
    depth = torch.tensor([[1.0, 2.0], [4.0, math.inf]])
    expected = torch.tensor([[[1.0, 0.5], [0.25, 0.0]]])
    torch.testing.assert_close(depth_structure(depth), expected)


def test_the_unit_of_depth_makes_no_difference():
    depth = 1 + torch.rand(12, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(depth_structure(1000 * depth), depth_structure(depth))


def test_a_stray_point_before_the_camera_leaves_the_rest_its_shades():
    depth = torch.linspace(1, 3, 400).view(20, 20)
    stray = depth.clone()
    stray[10, 10] = 1e-6
    difference = (depth_structure(stray) - depth_structure(depth)).abs()
    difference[0, 10, 10] = 0
    assert float(difference.max()) < 0.01


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-45, 2.5, math.inf, math.nan])
def test_a_view_of_one_depth_is_black(value):
    assert torch.equal(depth_structure(torch.full((6, 8), value)), torch.zeros(1, 6, 8))


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_depth_counts_as_far(value):
    depth = torch.linspace(1, 2, 48).view(6, 8)
    depth[2, 3] = value
    found = depth_structure(depth)
    assert found.isfinite().all()
    assert float(found[0, 2, 3]) == 0
    assert float(found.max()) == 1
