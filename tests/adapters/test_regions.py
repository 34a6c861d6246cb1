"""Instructions for parts of a picture: reading, rasterising, keeping the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_nerf.adapters.regions import (
    Region,
    area_means,
    map_prompts,
    parse_region,
    region_mask,
    restore_original,
)

SIZE, GRID = (60, 100), (6, 10)


def lay(*texts: str, prompt: str = "", size=SIZE, grid=GRID):
    return map_prompts([parse_region(text) for text in texts], prompt, size=size, grid=grid)


def supersampled(mask: Tensor, grid: tuple[int, int], fine: int = 60) -> Tensor:
    """Cells' means by looking at many points of each."""
    rows, columns = (
        ((torch.arange(cells * fine) + 0.5) * length / (cells * fine)).long()
        for length, cells in zip(mask.shape, grid, strict=True)
    )
    points = mask[rows][:, columns]
    return points.view(grid[0], fine, grid[1], fine).mean((1, 3))


def test_boxes_masks_and_addresses_with_an_at_are_read(tmp_path):
    assert parse_region("make it night@0,10,50.5,60") == Region(
        "make it night", ("0", "10", "50.5", "60")
    )
    assert parse_region("say hi@home @ 0%, 10%,50%,100%").prompt == "say hi@home"
    assert parse_region("snow@sky.png") == Region("snow", Path("sky.png"))
    odd = tmp_path / "a,b.png"
    odd.touch()
    assert parse_region(f"snow@{odd}") == Region("snow", odd)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("make it night", "got 'make it night', which lacks an @"),
        ("@0,0,1,1", "lacks an instruction before the @"),
        ("snow@", "lacks a place"),
        ("snow@1,2,3", "four numbers after the @.* got '1,2,3'"),
        ("snow@1,2,3,x", "four numbers"),
        ("snow@1,2,3,nan", "four numbers"),
        ("snow@50,0,50,60", "x0 < x1 and y0 < y1, got 50,0,50,60"),
        ("snow@0,40,50,30", "x0 < x1 and y0 < y1"),
        ("snow@0,0,101,60", "within the picture of 100 x 60 pixels, got 0,0,101,60"),
        ("snow@-1,0,50,60", "within the picture"),
        ("snow@0,0,50%,101%", "within the picture"),
    ],
)
def test_mistakes_are_told_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        lay(text)
    assert "\n" not in str(caught.value)


def test_mistakes_with_masks_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got .*nowhere.png: no such file"):
        lay(f"snow@{tmp_path}/nowhere.png")
    mask = tmp_path / "mask.png"
    Image.new("L", (50, 60), 255).save(mask)
    with pytest.raises(ValueError, match=r"100 x 60 pixels, got .*mask.png of 50 x 60"):
        lay(f"snow@{mask}")
    Image.new("L", (100, 60), 0).save(mask)
    with pytest.raises(ValueError, match=r"white somewhere, got .*mask.png"):
        lay(f"snow@{mask}")


def test_a_mask_covers_as_much_as_it_is_opaque(tmp_path):
    grey = np.array([[255, 255, 255, 0], [102, 102, 102, 0]], np.uint8)
    alpha = np.array([[255, 51, 0, 255], [255, 51, 0, 0]], np.uint8)
    Image.fromarray(np.stack([grey, grey, grey, alpha], -1)).save(tmp_path / "mask.png")
    mask = region_mask(parse_region(f"snow@{tmp_path}/mask.png"), size=(2, 4))
    wanted = torch.tensor([[1, 0.2, 0, 0], [0.4, 0.08, 0, 0]])
    torch.testing.assert_close(mask, wanted)


def test_a_mask_means_the_same_as_its_box(tmp_path):
    pixels = np.zeros((60, 100), dtype=np.uint8)
    pixels[15:33, 20:75] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    grid = (7, 13)
    by_mask = lay(f"snow@{tmp_path}/mask.png", grid=grid).masks
    torch.testing.assert_close(lay("snow@20,15,75,33", grid=grid).masks, by_mask)
    torch.testing.assert_close(lay("snow@20%,25%,75%,55%", grid=grid).masks, by_mask)
    torch.testing.assert_close(
        by_mask[0], supersampled(torch.from_numpy(pixels) / 255, grid), atol=0.01, rtol=0
    )


def test_area_means_are_exact_where_cells_end_within_pixels():
    mask = torch.rand(9, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        area_means(mask, (6, 4)), supersampled(mask, (6, 4), fine=84), atol=1e-5, rtol=0
    )


def test_a_box_that_ends_within_a_pixel_covers_a_part_of_it():
    mask = region_mask(parse_region("snow@0.5,0,2,1"), size=(2, 3))
    assert mask.tolist() == [[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_overlapping_regions_share_alike_and_the_prompt_takes_the_rest():
    layers = lay("snow@0,0,50,60", "fog@30,0,80,60", "night@40,0,50,60", prompt="sepia")
    assert layers.prompts == ["snow", "fog", "night", "sepia"]
    shares = torch.tensor(
        [
            [1, 1, 1, 1 / 2, 1 / 3, 0, 0, 0, 0, 0],
            [0, 0, 0, 1 / 2, 1 / 3, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 1 / 3, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
        ]
    )
    torch.testing.assert_close(layers.masks[:, 2], shares)
    assert not layers.leaves_parts_alone


def test_without_a_prompt_the_rest_is_left_alone():
    layers = lay("snow@0,0,25,60", "fog@0,0,10,60")
    assert layers.leaves_parts_alone
    expected = torch.tensor([1, 1, 0.5, 0, 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(layers.editable[0], expected)
    whole = lay(prompt="sepia")
    assert whole.masks.shape == (1, *GRID)
    assert (whole.masks == 1).all()
    assert not whole.leaves_parts_alone


def test_a_share_of_rounding_is_no_share():
    layers = lay("snow@0%,0%,33.3%,100%", "fog@33.3%,0%,100%,100%", prompt="sepia", grid=(7, 9))
    assert not layers.masks[2].any()


def test_the_original_stays_where_nothing_was_asked():
    original = torch.zeros(*SIZE, 3, dtype=torch.uint8)
    edited = torch.full_like(original, 255)
    editable = torch.zeros(GRID)
    editable[:, :5] = 1
    kept = restore_original(original, edited, editable)[..., 0].int()
    # Cells are 10 pixels wide; the region ends at 50.
    assert (kept[:, :45] == 255).all()
    assert (kept[:, 55:] == 0).all()
    steps = kept.diff(dim=1).abs()
    assert steps.max() <= 26
    assert (kept == kept[:1]).all()

    wrapped = restore_original(original, edited, editable, wrap=True)[..., 0].int()
    assert (wrapped[:, 0] - wrapped[:, -1]).abs().max() <= 26
    assert (kept[:, 0] - kept[:, -1]).abs().min() == 255
