from __future__ import annotations

import pytest
import torch

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_edit import patches
from csd_nerf.methods.csd_edit.patches import PatchSampler, allowed_corners, gather_pixels


def test_allowed_corners_are_those_of_a_search_by_loops():
    mask = torch.rand(13, 17, generator=torch.Generator().manual_seed(0)) > 0.2
    for size in (1, 2, 3):
        expected = [
            y * 17 + x
            for y in range(13 - size + 1)
            for x in range(17 - size + 1)
            if all(mask[y + i, x + j] for i in range(size) for j in range(size))
        ]
        assert expected
        assert allowed_corners(mask, size=size).tolist() == expected


def test_a_mask_smaller_than_a_patch_allows_none():
    assert len(allowed_corners(torch.ones(3, 9, dtype=torch.bool), size=4)) == 0


def test_patches_are_square_inside_their_image_and_reach_every_pixel():
    sizes = [(6, 9), (8, 5)]
    sampler = PatchSampler(sizes, masks=None, patch_size=3)
    patches = sampler.sample([0, 1], patches=2000).view(-1, 3, 3, 3)
    assert (patches[..., 0] == patches[:, :1, :1, 0]).all()
    assert (patches[..., 1] - patches[:, :1, :1, 1] == torch.arange(3)[:, None]).all()
    assert (patches[..., 2] - patches[:, :1, :1, 2] == torch.arange(3)).all()
    for view, (height, width) in enumerate(sizes):
        pixels = patches[patches[:, 0, 0, 0] == view].view(-1, 3)
        assert len(pixels) > 0.4 * patches[..., 0].numel()
        reached = torch.zeros(height, width, dtype=torch.bool)
        reached[pixels[:, 1], pixels[:, 2]] = True
        assert reached.all()


def test_patches_stay_inside_masks_of_mixed_sizes():
    masks = [torch.zeros(20, 30, dtype=torch.bool), torch.zeros(30, 20, dtype=torch.bool)]
    masks[0][5:12, 3:9] = True
    masks[1][20:29, 10:20] = True
    masks = [mask[..., None] for mask in masks]
    sampler = PatchSampler([(20, 30), (30, 20)], masks=masks, patch_size=4)
    view, y, x = sampler.sample([0, 1], patches=500).unbind(1)
    assert set(view.tolist()) == {0, 1}
    assert all(masks[v][i, j] for v, i, j in zip(view, y, x, strict=True))


def test_views_without_room_are_left_out():
    masks = [torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)]
    masks = torch.stack(masks)[..., None]
    sampler = PatchSampler([(8, 8)] * 2, masks=masks, patch_size=4)
    assert set(sampler.sample([0, 1], patches=50)[:, 0].tolist()) == {0}


def test_a_patch_that_fits_nowhere_is_an_error():
    with pytest.raises(MethodError, match=r"patch of 32 pixels.*--pipeline.datamanager.edit-patch"):
        PatchSampler([(16, 64)], masks=None, patch_size=32)


def test_pixels_come_from_where_the_indices_point():
    images = torch.rand(3, 5, 7, 3)
    indices = torch.tensor([[2, 4, 6], [0, 0, 0], [1, 3, 2]])
    expected = torch.stack([images[2, 4, 6], images[0, 0, 0], images[1, 3, 2]])
    assert torch.equal(gather_pixels(images, indices), expected)
    assert torch.equal(gather_pixels(list(images), indices), expected)


@pytest.mark.parametrize("tries", [0, 500])
def test_all_places_inside_a_mask_are_equally_likely(monkeypatch, tries):
    """Drawn until they lie inside, or looked up where that takes too long."""
    monkeypatch.setattr(patches, "_TRIES", tries)
    mask = torch.rand(9, 11, generator=torch.Generator().manual_seed(3)) > 0.2
    places = allowed_corners(mask, size=2).tolist()
    sampler = PatchSampler([(9, 11)], masks=mask[None, ..., None], patch_size=2)
    torch.manual_seed(0)
    corners = sampler.sample([0], patches=6000).view(-1, 4, 3)[:, 0]
    drawn = (corners[:, 1] * 11 + corners[:, 2]).bincount(minlength=99)
    assert drawn.nonzero()[:, 0].tolist() == places
    expected = 6000 / len(places)
    assert (drawn[places] - expected).abs().max() < 6 * expected**0.5


@pytest.mark.parametrize("tries", [0, 500])
@pytest.mark.parametrize("size", [1, 3])
def test_patches_are_even_over_the_sphere_also_inside_masks(monkeypatch, tries, size):
    """By the sine of the angle between a patch's middle and the pole."""
    monkeypatch.setattr(patches, "_TRIES", tries)
    mask = torch.ones(12, 8, dtype=torch.bool)
    mask[5, 2:7] = mask[:2] = False
    for masks in (None, mask[None, ..., None]):
        sampler = PatchSampler([(12, 8)], masks=masks, patch_size=size, equirectangular=True)
        torch.manual_seed(0)
        corners = sampler.sample([0], patches=20000).view(-1, size * size, 3)[:, 0]
        drawn = (corners[:, 1] * 8 + corners[:, 2]).bincount(minlength=96)
        places = allowed_corners(mask if masks is not None else torch.ones_like(mask), size=size)
        share = torch.zeros(96)
        share[places] = (torch.pi * (places // 8 + size / 2) / 12).sin()
        expected = 20000 * share / share.sum()
        assert ((drawn - expected).abs() < 6 * (expected + 1) ** 0.5).all()
    assert sampler.sample([0], patches=9)[:, 0].unique().tolist() == [0]


def test_masks_are_not_copied():
    masks = torch.ones(2, 40, 50, 1, dtype=torch.bool)
    sampler = PatchSampler([(40, 50)] * 2, masks=masks, patch_size=4)
    assert sampler._masks is masks
    kept = [v for v in vars(sampler).values() if isinstance(v, torch.Tensor) and v is not masks]
    assert sum(tensor.numel() for tensor in kept) <= 8
