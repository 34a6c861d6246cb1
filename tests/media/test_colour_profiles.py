from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from profile_maker import P3, SRGB, grey_profile, rgb_profile, rgb_to_xyz, srgb_profile

from csd_nerf.media.images import read_image


def saved(path: Path, pixels: np.ndarray, profile: bytes, **options) -> Path:
    Image.fromarray(pixels).save(path, icc_profile=profile, **options)
    return path


def linear(code: np.ndarray) -> np.ndarray:
    value = code / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def code(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


COLOURS = np.array(
    [[[200, 60, 60], [60, 200, 60], [60, 60, 200], [128, 128, 128], [0, 0, 0], [255] * 3]], np.uint8
)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_colours_of_display_p3_become_those_of_srgb(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path / f"a{suffix}", COLOURS, rgb_profile(), **options)
    image, notices = read_image(path)
    matrix = np.linalg.inv(rgb_to_xyz(SRGB)) @ rgb_to_xyz(P3)
    wanted = code(linear(COLOURS) @ matrix.T)
    assert np.abs(wanted - COLOURS).max() > 20, "else this shows nothing"
    np.testing.assert_allclose(image.numpy(), wanted, atol=2)
    assert notices == ["colours converted from Display P3 to sRGB"]


@pytest.mark.parametrize(
    "profile", [srgb_profile(), rgb_profile(SRGB, name="another sRGB")], ids=["theirs", "ours"]
)
def test_a_profile_of_srgb_changes_no_pixel(tmp_path, profile):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    image, notices = read_image(saved(tmp_path / "a.png", pixels, profile))
    assert np.array_equal(image.numpy(), pixels)
    assert notices == []


def test_transparency_and_palettes_are_converted_too(tmp_path):
    rgba = np.concatenate([COLOURS, np.full((1, 6, 1), 255, np.uint8)], -1)
    rgba[0, 0, 3] = 0
    clear, notices = read_image(saved(tmp_path / "a.png", rgba, rgb_profile()), keep_alpha=True)
    opaque, _ = read_image(saved(tmp_path / "b.png", COLOURS, rgb_profile()))
    assert np.array_equal(clear[..., :3].numpy(), opaque.numpy())
    assert clear[0, :, 3].tolist() == [0, 255, 255, 255, 255, 255]
    assert notices == ["colours converted from Display P3 to sRGB"]
    palette = Image.fromarray(COLOURS).quantize(6)
    palette.save(tmp_path / "p.png", icc_profile=rgb_profile())
    assert np.array_equal(read_image(tmp_path / "p.png")[0].numpy(), opaque.numpy())


@pytest.mark.parametrize("deep", [False, True])
def test_greys_of_another_curve_are_converted(tmp_path, deep):
    levels = np.array([[0, 50, 128, 200, 255]])
    pixels = (levels * 257).astype(np.uint16) if deep else levels.astype(np.uint8)
    image, notices = read_image(saved(tmp_path / "a.png", pixels, grey_profile(1.0)))
    np.testing.assert_allclose(image[0, :, 1].numpy(), code(levels[0] / 255), atol=1.01)
    assert notices[-1] == "colours converted from a grey to sRGB"


@pytest.mark.parametrize(
    "profile",
    [b"no profile", rgb_profile()[:200], grey_profile(2.2)],
    ids=["junk", "cut", "of other colours"],
)
def test_a_profile_that_can_not_be_applied_is_told_and_changes_nothing(tmp_path, profile):
    image, notices = read_image(saved(tmp_path / "a.png", COLOURS, profile))
    assert np.array_equal(image.numpy(), COLOURS)
    assert notices == ["its colour profile is damaged or of other colours, and not applied"]
