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

_ROWS = 256
"""Rows of pixels to which a change is added at a time."""


def to_bytes(image01: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n h w c"]:
    """Convert images in [0, 1] to 8 bits, rounded; values outside are clipped.

    Raises:
        FloatingPointError: If a value is NaN or infinite, which would become black or white.
    """
    _check_finite(image01)
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


def add_change(
    original: UInt8[Tensor, "H W 3"], change: Float[Tensor, "3 h w"], *, wrap: bool = False
) -> UInt8[Tensor, "H W 3"]:
    """Add a change, resized to the original's size, to the original, which keeps its fine detail.

    The filter is bicubic with antialiasing. Some rows are done at a time, so that large pictures
    need little memory.

    Args:
        original: The picture, on the CPU.
        change: Difference of two images in [0, 1], of any size: the edit less the original as the
            prior's encoder and decoder return it, so that their errors cancel.
        wrap: Whether the left and right edges meet.

    Raises:
        FloatingPointError: If a value of the change is NaN or infinite.
    """
    _check_finite(change)
    (height, width), (rows, columns) = original.shape[:2], change.shape[1:]
    # The filter reaches 2 pixels of the smaller picture.
    reach, across = (
        math.ceil(2 * max(1, have / want)) + 1 for have, want in ((rows, height), (columns, width))
    )
    beyond = across if wrap else 0
    at = torch.arange(-beyond, columns + beyond) % columns
    result = torch.empty_like(original)
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        low, high = top * rows / height, bottom * rows / height
        first = max(0, math.floor(low) - reach)
        strip = change[:, first : math.ceil(high) + reach, at].float().cpu()
        box = (beyond, low - first, beyond + columns, high - first)
        size = (width, bottom - top)
        parts = [
            np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC, box=box))
            for channel in strip.numpy()
        ]
        added = 255 * torch.from_numpy(np.stack(parts, axis=-1))
        whole = original[top:bottom].float() + added
        result[top:bottom] = whole.round().clamp(0, 255).byte()
    return result


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise FloatingPointError(
            "Images need to be finite, got inf or nan; lower the guidance scales or the learning "
            "rate, or run the prior in float32."
        )
