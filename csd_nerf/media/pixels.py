"""Conversion between 8-bit and [0, 1] images, and resizing.

8-bit images have their channels last, as in files and Pillow. Images in [0, 1], whose names end in
`01`, have their channels first, as in models.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

Filter = Literal["lanczos", "bilinear", "box"]


def to_bytes(image01: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n h w c"]:
    """Convert images in [0, 1] to 8 bits, rounded; values outside are clipped.

    Raises:
        FloatingPointError: If a value is NaN or infinite, which would become black or white.
    """
    if not bool(image01.isfinite().all()):
        raise FloatingPointError(
            "Images need to be finite, got inf or nan; lower the guidance scales or the learning "
            "rate, or run the prior in float32."
        )
    return (255 * image01.clamp(0, 1)).round().byte().movedim(-3, -1)


def to_01(pixels: UInt8[Tensor, "*n h w c"]) -> Float[Tensor, "*n c h w"]:
    """Convert 8-bit images to [0, 1]."""
    return pixels.movedim(-1, -3).float() / 255


def resize(
    image: UInt8[Tensor, "h w c"],
    size: tuple[int, int],
    *,
    by: Filter = "lanczos",
    wrap: bool = False,
) -> UInt8[Tensor, "{size[0]} {size[1]} c"]:
    """Resize an 8-bit image by one of Pillow's filters, which prevent aliasing.

    Args:
        image: RGB or RGBA.
        size: Height and width of the result.
        by: The filter.
        wrap: Whether the left and right edges meet, so that the filter reaches across them.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    # The widest filter, Lanczos, reaches 3 pixels of the smaller picture.
    beyond = math.ceil(3 * max(1, width / size[1])) + 1 if wrap else 0
    columns = torch.arange(-beyond, width + beyond) % width
    picture = Image.fromarray((image[:, columns] if wrap else image).numpy())
    box = (beyond, 0, beyond + width, height)
    kind = Image.Resampling[by.upper()]
    return torch.from_numpy(np.array(picture.resize((size[1], size[0]), kind, box=box)))


def resize01(image01: Float[Tensor, "n 3 _ _"], size: tuple[int, int]) -> Float[Tensor, "n 3 _ _"]:
    """Resize images in [0, 1] on their device, bicubic with antialiasing and clipped to [0, 1]."""
    if tuple(image01.shape[-2:]) == size:
        return image01
    resized = functional.interpolate(image01, size, mode="bicubic", antialias=True)
    return resized.clamp(0, 1)
