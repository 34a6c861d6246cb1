"""Regions: their texts, their masks, and how an edit is confined to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_nerf.media.regions import (
    Labels,
    PictureBox,
    Region,
    SceneBox,
    Word,
    area_means,
    blended,
    find_masks,
    inner_fade,
    keep_outside,
    parse_region,
    picture_mask,
    read_mask,
)


def mask_of(text: str, size: tuple[int, int], **inputs) -> Tensor:
    return picture_mask(parse_region(text), size=size, **inputs)


def supersampled(mask: Tensor, grid: tuple[int, int], fine: int = 60) -> Tensor:
    """Cells' means by looking at many points of each."""
    rows, columns = (
        ((torch.arange(cells * fine) + 0.5) * length / (cells * fine)).long()
        for length, cells in zip(mask.shape, grid, strict=True)
    )
    points = mask[rows][:, columns]
    return points.view(grid[0], fine, grid[1], fine).mean((1, 3))


def slow_distance(inside: Tensor) -> Tensor:
    """Distance of each pixel's centre from the nearest centre outside, by looking at all."""
    outside = (~inside).nonzero().double()
    wanted = torch.zeros(inside.shape, dtype=torch.float64)
    for row, column in inside.nonzero().tolist():
        place = torch.tensor([row, column], dtype=torch.float64)
        wanted[row, column] = (outside - place).norm(dim=1).min()
    return wanted


def test_a_picture_has_boxes_masks_and_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    box = PictureBox("0", "10", "50.5", "60")
    assert parse_region("make it night@0,10,50.5,60") == Region("make it night", box)
    assert parse_region("0, 10,50.5 ,60") == Region(None, box)
    assert parse_region("say hi@home @ 0%, 10%,50%,100%").prompt == "say hi@home"
    assert parse_region("snow@sky.png") == Region("snow", Path("sky.png"))
    assert parse_region("masks/car") == Region(None, Path("masks/car"))
    assert parse_region("the car") == Region(None, Word("the car"))
    assert parse_region("paint it red@the car, please") == Region(
        "paint it red", Word("the car, please")
    )
    (tmp_path / "masks").mkdir()
    assert parse_region("masks") == Region(None, Path("masks"))
    odd = tmp_path / "a,b@c.png"
    odd.touch()
    assert parse_region(str(odd)) == Region(None, odd)
    assert parse_region("snow@mr. smith").where == Word("mr. smith")


def test_a_scene_has_boxes_labels_masks_and_words(tmp_path):
    def where(text):
        return parse_region(text, of="scene")

    assert where("-1,-1,0,.5,1e0,2") == Region(None, SceneBox((-1.0, -1.0, 0.0), (0.5, 1.0, 2.0)))
    assert where("labels:0, 3") == Region(None, Labels((0, 3)))
    assert where(str(tmp_path)) == Region(None, tmp_path)
    assert where("the red ball") == Region(None, Word("the red ball"))


@pytest.mark.parametrize("text", ["0,10%,50.5,60%", "sky.png", "the car"])
def test_a_place_in_a_picture_is_read_again_from_its_text(text):
    assert str(parse_region(text).where) == text


@pytest.mark.parametrize("text", ["-1,0.25,0,1,1,2", "labels:0,3", "masks/car", "the car"])
def test_a_place_in_a_scene_is_read_again_from_its_text(text):
    assert str(parse_region(text, of="scene").where) == text


@pytest.mark.parametrize(
    ("text", "of", "message"),
    [
        ("@0,0,1,1", "picture", "an instruction before the @, got '@0,0,1,1'"),
        ("snow@", "picture", "got 'snow@', which lacks one"),
        ("", "picture", "got '', which lacks one"),
        ("snow@1,2,3", "picture", "needs 4 numbers: .*; got '1,2,3'"),
        ("snow@1,2,3,x", "picture", "needs 4 numbers"),
        ("1,2,3,nan", "picture", "needs 4 numbers"),
        ("1,2,3,4,5,6", "picture", "A box in a picture needs 4 numbers"),
        ("labels:1", "picture", "A region of a picture needs .*, got 'labels:1'"),
        ("labels:car", "scene", "A region of a scene needs .*, got 'labels:car'"),
        ("1,2,3,4", "scene", "A box in a scene needs 6 numbers: .*; got '1,2,3,4'"),
        ("0,0,0,1,1,100%", "scene", "needs 6 numbers"),
        ("0,0,0,1,-1,1", "scene", "x0 < x1, y0 < y1 and z0 < z1, got '0,0,0,1,-1,1'"),
        ("snow@0,0,0,1,1,1", "scene", "needs 6 numbers"),
    ],
)
def test_mistakes_in_texts_are_told_in_one_line(text, of, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_region(text, of=of)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("50,0,50,60", "x0 < x1 and y0 < y1, got 50,0,50,60"),
        ("0,40,50,30", "x0 < x1 and y0 < y1"),
        ("0,0,101,60", "within the picture of 100 x 60 pixels, got 0,0,101,60"),
        ("-1,0,50,60", "within the picture"),
        ("0,-1,50,60", "within the picture"),
        ("0,0,50%,101%", "within the picture"),
        ("the car", "The word 'the car' needs a segmenter"),
    ],
)
def test_places_that_a_picture_lacks_are_told_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        mask_of(text, (60, 100))
    assert "\n" not in str(caught.value)


def test_mistakes_with_masks_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got .*nowhere.png: no such file"):
        mask_of(f"{tmp_path}/nowhere.png", (60, 100))
    with pytest.raises(FileNotFoundError, match=r": a folder"):
        mask_of(str(tmp_path), (60, 100))
    path = tmp_path / "mask.png"
    Image.new("L", (50, 60), 255).save(path)
    with pytest.raises(ValueError, match=r"100 x 60 pixels, got .*mask.png of 50 x 60"):
        mask_of(str(path), (60, 100))
    Image.new("L", (100, 60), 0).save(path)
    with pytest.raises(ValueError, match=r"white somewhere, got .*mask.png"):
        mask_of(str(path), (60, 100))
    with pytest.raises(ValueError, match="A region of a picture needs"):
        picture_mask(Region(None, Labels((0,))), size=(60, 100))


def test_a_mask_covers_as_much_as_it_is_opaque(tmp_path):
    grey = np.array([[255, 255, 255, 0], [102, 102, 102, 0]], np.uint8)
    alpha = np.array([[255, 51, 0, 255], [255, 51, 0, 0]], np.uint8)
    Image.fromarray(np.stack([grey, grey, grey, alpha], -1)).save(tmp_path / "mask.png")
    wanted = torch.tensor([[1, 0.2, 0, 0], [0.4, 0.08, 0, 0]])
    torch.testing.assert_close(read_mask(tmp_path / "mask.png", size=(2, 4)), wanted)


def test_a_mask_of_another_size_is_resized_and_one_may_be_black(tmp_path):
    Image.fromarray(np.array([[255, 0], [0, 0]], np.uint8)).save(tmp_path / "mask.png")
    larger = read_mask(tmp_path / "mask.png", size=(4, 4))
    assert larger.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert read_mask(tmp_path / "mask.png", size=(1, 1)).item() == 0.25
    Image.new("L", (4, 4), 0).save(tmp_path / "black.png")
    assert not read_mask(tmp_path / "black.png", size=(4, 4)).any()


def test_a_box_in_percent_is_the_same_as_in_pixels_and_as_its_mask(tmp_path):
    pixels = np.zeros((60, 100), dtype=np.uint8)
    pixels[15:33, 20:75] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    by_mask = mask_of(f"{tmp_path}/mask.png", (60, 100))
    torch.testing.assert_close(mask_of("20,15,75,33", (60, 100)), by_mask)
    torch.testing.assert_close(mask_of("20%,25%,75%,55%", (60, 100)), by_mask)


def test_a_box_that_ends_within_a_pixel_covers_a_part_of_it():
    assert mask_of("0.5,0,2,1", (2, 3)).tolist() == [[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_word_is_found_by_the_segmenter_in_the_picture():
    asked = []

    def right_half(image01, word):
        asked.append((image01, word))
        return torch.tensor([[0.0, 1.25], [0.0, 1.25]])

    image01 = torch.rand(3, 8, 8)
    found = mask_of("the car", (4, 8), image01=image01, segmenter=right_half)
    assert asked[0][0] is image01
    assert asked[0][1] == "the car"
    assert found.shape == (4, 8)
    assert (found[:, 6:] == 1).all()
    assert (found[:, :2] == 0).all()


def test_masks_are_found_by_the_pictures_names(tmp_path):
    for name in ("a.png", "b.jpg.png", "other.png", "notes.txt"):
        (tmp_path / name).touch()
    names = ["images/a.jpg", "b.jpg", "c.jpg"]
    wanted = {"images/a.jpg": tmp_path / "a.png", "b.jpg": tmp_path / "b.jpg.png"}
    assert find_masks(tmp_path, names) == wanted
    with pytest.raises(ValueError, match=r"such as x.png, got .* with none"):
        find_masks(tmp_path, ["x.jpg"])
    (tmp_path / "a.webp").touch()
    with pytest.raises(ValueError, match=r"one mask, got a.png and a.webp in"):
        find_masks(tmp_path, names)
    with pytest.raises(FileNotFoundError, match="Masks need a folder"):
        find_masks(tmp_path / "a.png", names)


def test_area_means_are_exact_where_cells_end_within_pixels():
    mask = torch.rand(9, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        area_means(mask, (6, 4)), supersampled(mask, (6, 4), fine=84), atol=1e-5, rtol=0
    )


def blob(size=(40, 60)) -> Tensor:
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    return ((rows - 18) ** 2 / 15**2 + (columns - 30) ** 2 / 20**2 < 1).float()


def test_the_fade_is_zero_outside_and_rises_with_the_distance_from_the_border():
    mask = 0.75 * blob() + 0.2
    weight = inner_fade(mask, width=5.0)
    inside = mask >= 0.5
    assert (weight[~inside] == 0).all()
    assert (weight[inside] > 0).all()
    wanted = ((slow_distance(inside) - 0.5) / 5).clamp(0, 1) * inside
    torch.testing.assert_close(weight.double(), wanted, atol=1e-6, rtol=0)
    assert weight.max() == 1


def test_parts_too_thin_for_the_fade_still_reach_one():
    mask = torch.zeros(40, 60)
    mask[5, 3:50] = 1
    mask[12:15, 3:50] = 1
    mask[20:40, 10:50] = 1
    weight = inner_fade(mask, width=8.0)
    assert weight[5].max() == 1
    assert weight[13].max() == 1
    assert weight[12, 20] < 1
    # The wide part fades over the whole width; the lower edge of the picture is no border.
    torch.testing.assert_close(weight[20:29, 30], ((torch.arange(9) + 0.5) / 8).clamp(max=1))
    assert weight[39, 30] == 1


def test_parts_that_meet_at_a_corner_have_widths_of_their_own():
    mask = torch.zeros(40, 40)
    mask[:30, :30] = 1
    mask[30:33, 30:33] = 1
    weight = inner_fade(mask, width=8.0)
    assert weight[31, 31] == 1
    assert weight[28, 10] < 0.2


def test_without_a_width_the_fade_is_the_mask():
    assert torch.equal(inner_fade(blob(), width=0.0), blob())
    assert torch.equal(inner_fade(torch.ones(4, 5), width=3.0), torch.ones(4, 5))
    assert not inner_fade(torch.zeros(4, 5), width=3.0).any()


def test_where_the_edges_meet_the_fade_goes_on_beyond_them():
    mask = torch.zeros(20, 60)
    mask[:, :10] = mask[:, 40:] = 1
    ring = inner_fade(mask, width=6.0, wrap=True)
    turned = inner_fade(mask.roll(30, 1), width=6.0)
    assert torch.equal(ring.roll(30, 1), turned)
    # At the left edge alone the picture would look as if it ended.
    mask[:, 40:] = 0
    assert inner_fade(mask, width=4.0, wrap=True)[10, 0] < 0.5
    assert inner_fade(mask, width=4.0)[10, 0] == 1


def test_blended_keeps_the_very_bytes_where_the_weight_is_zero():
    generator = torch.Generator().manual_seed(0)
    original, edited = torch.randint(
        0, 256, (2, 150, 30, 3), dtype=torch.uint8, generator=generator
    )
    weight = torch.linspace(0, 1, 30).expand(150, 30).clone()
    weight[70:] = 0
    result = blended(original, edited, weight)
    assert torch.equal(result[70:], original[70:])
    assert torch.equal(result[:, 0], original[:, 0])
    assert torch.equal(result[:70, -1], edited[:70, -1])
    wanted = original.double() + weight[..., None].double() * (edited.double() - original.double())
    assert (result.double() - wanted).abs().max() <= 0.5 + 1e-3


def test_an_edit_fades_in_at_a_border_where_the_edges_meet():
    original = torch.zeros(200, 600, 3, dtype=torch.uint8)
    edited, mask = torch.full_like(original, 200), torch.zeros(200, 600)
    mask[:, :50] = 1
    kept = keep_outside(original, edited, mask, wrap=True)
    # Over a hundredth of the shorter edge.
    assert kept[100, :4, 0].tolist() == [50, 150, 200, 200]
    turned = keep_outside(original, edited, mask.roll(300, 1))
    assert torch.equal(kept.roll(300, 1), turned)
    assert (keep_outside(original, edited, mask)[:, 0] == 200).all()
