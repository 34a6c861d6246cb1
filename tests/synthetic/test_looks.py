from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage.exposure import adjust_gamma
from torch import Tensor

from csd_nerf.synthetic.looks import LOOKS, luma, saturate

EVERY_LOOK = pytest.mark.parametrize("name", LOOKS)


@pytest.fixture
def image01() -> Tensor:
    """Random pixels, and every corner of the colour cube."""
    image = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]).float()
    image[0, :, 0, :8] = corners.T
    return image


def grey_of(rgb: np.ndarray) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def mix(rgb: np.ndarray, amount: float) -> np.ndarray:
    return grey_of(rgb) + amount * (rgb - grey_of(rgb))


def between(low: tuple[float, ...], high: tuple[float, ...], rgb: np.ndarray) -> np.ndarray:
    return np.array(
        [(1 - grey_of(rgb)) * a + grey_of(rgb) * b for a, b in zip(low, high, strict=True)]
    )


def thermal(rgb: np.ndarray) -> np.ndarray:
    """Piecewise linear between five colours that are evenly spaced in brightness."""
    table = {
        "red": (0.05, 0.50, 0.90, 1.0, 1.0),
        "green": (0.03, 0.05, 0.25, 0.70, 1.0),
        "blue": (0.35, 0.55, 0.25, 0.15, 0.85),
    }
    return np.array([np.interp(grey_of(rgb), np.linspace(0, 1, 5), c) for c in table.values()])


PIXEL_LOOKS = {
    "black and white": lambda p: np.full(3, grey_of(p)),
    "sepia": lambda p: between((0.10, 0.05, 0.02), (1.0, 0.90, 0.70), p),
    "night": lambda p: mix(p, 0.45) * [0.22, 0.28, 0.46],
    "sunset": lambda p: mix(p, 0.75) * [1.06, 0.66, 0.42] + 0.02,
    "negative": lambda p: 1 - p,
    "vivid": lambda p: 1.15 * mix(p, 1.9) - 0.075,
    "faded": lambda p: 0.38 + 0.5 * mix(p, 0.5),
    "brighter": lambda p: p**0.55,
    "darker": lambda p: p * p,
    "blueprint": lambda p: between((0.02, 0.10, 0.36), (0.88, 0.95, 1.0), p),
    "infrared": thermal,
}
"""What each look makes of one pixel, before it is clipped to [0, 1]."""


@pytest.mark.parametrize("name", PIXEL_LOOKS)
def test_a_look_of_pixels_is_its_definition_on_each_of_them(name, image01):
    actual = LOOKS[name](image01).numpy()
    for n, y, x in np.ndindex(2, 12, 10):
        pixel = image01[n, :, y, x].double().numpy()
        expected = np.clip(PIXEL_LOOKS[name](pixel), 0, 1)
        np.testing.assert_allclose(actual[n, :, y, x], expected, atol=1e-6)


def test_sketch_is_dark_where_brightness_changes(image01):
    actual = LOOKS["sketch"](image01).numpy()
    grey = luma(image01).double().numpy()[:, 0]
    for n, y, x in np.ndindex(2, 12, 10):
        across = grey[n, y, min(x + 1, 9)] - grey[n, y, max(x - 1, 0)]
        down = grey[n, min(y + 1, 11), x] - grey[n, max(y - 1, 0), x]
        line = min(1, 2.5 * np.hypot(across, down))
        expected = (0.80 + 0.18 * grey[n, y, x]) * (1 - 0.9 * line)
        np.testing.assert_allclose(actual[n, :, y, x], expected, atol=1e-3)


def test_every_look_has_a_definition_here():
    assert {*PIXEL_LOOKS, "sketch"} == {*LOOKS}


@EVERY_LOOK
def test_a_look_stays_in_range_and_keeps_the_shape(name, image01):
    result = LOOKS[name](image01)
    assert result.shape == image01.shape
    assert result.dtype == image01.dtype
    assert 0 <= result.min() <= result.max() <= 1


@EVERY_LOOK
@pytest.mark.parametrize("dim", [2, 3])
def test_a_look_commutes_with_flips(name, dim, image01):
    look = LOOKS[name]
    torch.testing.assert_close(look(image01.flip(dim)), look(image01).flip(dim))


@EVERY_LOOK
def test_all_looks_but_sketch_act_on_each_pixel_by_itself(name, image01):
    shuffle = torch.randperm(120, generator=torch.Generator().manual_seed(1))

    def shuffled(x: Tensor) -> Tensor:
        return x.flatten(2)[..., shuffle].view_as(image01)

    alike = torch.allclose(LOOKS[name](shuffled(image01)), shuffled(LOOKS[name](image01)))
    assert alike == (name != "sketch")


def test_looks_that_other_packages_know(image01):
    pixels = (255 * image01[0]).round().byte().permute(1, 2, 0).numpy()
    picture, exact = Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255

    def agrees(name: str, other: Image.Image, *, levels: int) -> None:
        expected = np.asarray(other.convert("RGB")).astype(float)
        actual = 255 * LOOKS[name](exact)[0].permute(1, 2, 0).double().numpy()
        assert np.abs(actual - expected).max() <= levels

    agrees("black and white", picture.convert("L"), levels=1)
    agrees("negative", ImageOps.invert(picture), levels=1)
    sepia = ImageOps.colorize(picture.convert("L"), (26, 13, 5), (255, 230, 179))
    agrees("sepia", sepia, levels=2)
    for name, gamma in (("brighter", 0.55), ("darker", 2)):
        np.testing.assert_allclose(
            LOOKS[name](exact), adjust_gamma(exact.numpy(), gamma), atol=1e-6
        )


def test_saturation_keeps_brightness_and_knows_its_limits(image01):
    torch.testing.assert_close(luma(saturate(image01, 1.9)), luma(image01))
    torch.testing.assert_close(saturate(image01, 0.0), luma(image01).expand_as(image01))
    torch.testing.assert_close(saturate(image01, 1.0), image01)
