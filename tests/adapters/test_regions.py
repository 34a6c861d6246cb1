"""Instructions for parts of a panorama, on its latent grid."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from csd_nerf.adapters.pictures import Picture
from csd_nerf.adapters.regions import PromptMap, map_prompts, masks_of
from csd_nerf.media.rasters import Raster
from csd_nerf.media.regions import parse_region

SIZE, GRID = (60, 100), (6, 10)


def cells(layers: PromptMap) -> list[float]:
    """What the first row of cells may change by."""
    assert layers.editable is not None
    return layers.editable[0].tolist()


def lay(*texts: str, prompt: str = "", size=SIZE, grid=GRID, wrap=False, name="", **inputs):
    black = torch.zeros(*size, 3, dtype=torch.uint8)
    mask_of = masks_of(Picture(name, size, lambda: Raster.of(black)), **inputs)
    regions = [parse_region(text) for text in texts]
    return map_prompts(regions, prompt, mask_of, size=size, grid=grid, wrap=wrap)


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
    assert layers.editable is None
    assert layers.inside is None


def test_without_a_prompt_the_rest_is_left_alone():
    layers = lay("snow@0,0,25,60", "fog@0,0,10,60")
    # The cell beside the border fades, since the border's own is edited in full.
    assert cells(layers) == pytest.approx([1, 1, 1, 0.5, 0, 0, 0, 0, 0, 0])
    assert layers.inside is not None
    assert layers.inside.inside[0].tolist() == [1] * 25 + [0] * 75
    # What both cover counts once.
    both = lay("snow@0,0,25,60", "fog@0,0,25,60")
    assert cells(both) == pytest.approx([1, 1, 1, 0.5, 0, 0, 0, 0, 0, 0])
    whole = lay(prompt="sepia")
    assert whole.masks.shape == (1, *GRID)
    assert (whole.masks == 1).all()
    assert whole.editable is None


def test_a_region_without_an_instruction_takes_the_prompt_and_leaves_the_rest_alone():
    layers = lay("0,0,25,60", "fog@50,0,60,60", prompt="sepia")
    assert layers.prompts == ["sepia", "fog"]
    assert cells(layers) == pytest.approx([1, 1, 1, 0.5, 1, 1, 1, 0, 0, 0])
    assert lay("0,0,100%,100%", prompt="sepia").editable is None


def test_a_share_of_rounding_is_no_share():
    layers = lay("snow@0%,0%,33.3%,100%", "fog@33.3%,0%,100%,100%", prompt="sepia", grid=(7, 9))
    assert not layers.masks[2].any()


def test_a_folder_has_the_mask_of_each_picture(tmp_path):
    Image.new("L", (100, 60), 0).save(tmp_path / "a.png")
    mask = Image.new("L", (100, 60), 0)
    mask.paste(255, (0, 0, 50, 60))
    mask.save(tmp_path / "b.png")
    layers = lay(str(tmp_path), prompt="sepia", name="b.jpg")
    assert cells(layers) == [1] * 6 + [0] * 4
    with pytest.raises(ValueError, match=r"white somewhere, got .*a\.png"):
        lay(str(tmp_path), prompt="sepia", name="a.jpg")


def test_a_word_is_looked_for_in_the_picture():
    def found(image01, word):
        return torch.full(image01.shape[1:], 0.3 if word == "the moon" else 1.0)

    assert lay("the car", prompt="sepia", segmenter=found).editable is None
    with pytest.raises(ValueError, match="half a pixel or more, got the moon, which covers none"):
        lay("the moon", prompt="sepia", segmenter=found)


def test_instructions_have_their_whole_weight_in_windows_across_the_border():
    layers = lay("snow@0,0,20,60", "fog@10,0,20,60")
    positions = torch.tensor([[0, 0], [0, 1], [0, 6]])
    shares = layers.shares(positions, (6, 4))
    torch.testing.assert_close(shares[:2].sum(1), torch.ones(2))
    assert shares[0, 0] > shares[0, 1] > 0
    assert not shares[2].any()
    # With an instruction for the rest, the mean over the window is what each has.
    whole = lay("snow@0,0,20,60", prompt="sepia")
    torch.testing.assert_close(whole.shares(positions[:1], (6, 4)), torch.tensor([[0.5, 0.5]]))


def test_a_region_at_the_seam_reaches_across_it():
    layers = lay("snow@0,0,20,60", wrap=True)
    assert cells(layers) == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1]


def test_an_instruction_at_the_seam_has_its_weight_across_it():
    layers = lay("snow@0,0,20,60", "fog@50,0,60,60", wrap=True)
    assert layers.masks[:, 0].tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 1, 1, 0, 0, 0],
    ]
