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

_GAIN_REACH = 8
"""Half the width in pixels of the square over which contrasts are compared."""
_FLAT = 1e-3
"""Variance of colours in [0, 1] below which a place counts as without contrast."""
_NOISE = 0.02
"""Standard deviation in [0, 1] below which what an edit adds to the colours around counts as the
decoder's noise. That of the bundled prior has stripes of 0.01 in a flat sky."""
_STILL_FLAT = 1e-5
"""As `_FLAT`, where it is asked how much of an edit is explained by the colours before."""
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
    original: UInt8[Tensor, "H W 3"],
    before01: Float[Tensor, "3 h w"],
    after01: Float[Tensor, "3 h w"],
    *,
    wrap: bool = False,
) -> UInt8[Tensor, "H W 3"]:
    """Apply a change, made at another size, to the original, which keeps its fine detail.

    The result is up(after) + up(G) (original - up(before)). The matrix G says how the change treats
    contrasts, so that detail is darkened with what it lies on, and loses its colour where that
    does: where the contrasts of both are the same, G is the identity, and their difference is
    simply added. See `_regressed`, which also takes noise out of `after`. The filter is bicubic
    with antialiasing. Some rows are done at a time, so that large pictures need little memory.

    Args:
        original: The picture, on the CPU.
        before01: The original as the prior's encoder and decoder return it, of any size. What they
            lose of it is detail, and their errors cancel.
        after01: The edit, decoded likewise.
        wrap: Whether the left and right edges meet.

    Raises:
        FloatingPointError: If a value is NaN or infinite.
    """
    for image01 in (before01, after01):
        _check_finite(image01)
    (height, width), (rows, columns) = original.shape[:2], after01.shape[1:]
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
        strip = _maps(before01, after01, (first, math.ceil(high) + reach), wrap=wrap)[:, :, at]
        box = (beyond, low - first, beyond + columns, high - first)
        size = (width, bottom - top)
        parts = [
            np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC, box=box))
            for channel in strip.numpy()
        ]
        before, after, gain = torch.from_numpy(np.stack(parts, axis=-1)).split((3, 3, 9), dim=-1)
        detail = original[top:bottom].float() - 255 * before
        # With the identity apart, nothing is rounded where there is no change.
        more = gain.unflatten(-1, (3, 3)) - torch.eye(3)
        scaled = detail + torch.einsum("hwij,hwj->hwi", more, detail)
        result[top:bottom] = (255 * after + scaled).round().clamp(0, 255).byte()
    return result


def _maps(
    before01: Float[Tensor, "3 h w"],
    after01: Float[Tensor, "3 h w"],
    rows: tuple[int, int],
    *,
    wrap: bool,
) -> Float[Tensor, "15 _ w"]:
    """Of some rows both images, that after without noise, and the rows of the gain, on the CPU."""
    height, width = before01.shape[1:]
    reach = min(_GAIN_REACH, (min(height, width) - 1) // 2)
    first, last = rows[0], min(rows[1], height)
    low, high = max(0, first - reach), min(height, last + reach)
    before, after = (image01[:, low:high].float().cpu() for image01 in (before01, after01))
    maps = torch.cat([before, *_regressed(before, after, reach, wrap=wrap)])
    return maps[:, first - low : last - low]


def _regressed(
    before01: Float[Tensor, "3 h w"], after01: Float[Tensor, "3 h w"], reach: int, *, wrap: bool
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "9 h w"]]:
    """An image without noise, and the matrix that a change multiplies contrasts with.

    The matrix is the slope of the regression around each pixel of the image after on that before,
    all colours on all, as in a guided filter (He et al. 2013). Where there is no contrast, it tends
    to the ratio of the means, at most 1, of each colour by itself.

    What the regression doesn't explain, with the variance v around, is new structure, or noise
    where there is little of it: (v - `_NOISE`^2) / v of it is left, or nothing.
    """
    around = (reach, reach, 0, 0), (0, 0, reach, reach)

    def mean(values: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
        wide = functional.pad(values[None], around[0], mode="circular" if wrap else "replicate")
        padded = functional.pad(wide, around[1], mode="replicate")
        return functional.avg_pool2d(padded, 2 * reach + 1, stride=1)[0]

    before, after = mean(before01), mean(after01)

    def covariance(
        image01: Float[Tensor, "3 h w"], mean01: Float[Tensor, "3 h w"]
    ) -> Float[Tensor, "h w 3 3"]:
        """Of each colour of an image, with its mean, with each colour of the image before."""
        products = mean((image01[:, None] * before01).flatten(0, 1)).unflatten(0, (3, 3))
        return (products - mean01[:, None] * before).movedim((0, 1), (2, 3))

    ratio = (after / before.clamp(min=0.02)).clamp(0, 1)
    ratio = torch.where(after == before, 1.0, ratio)
    both, own = covariance(after01, after), covariance(before01, before)

    def slope(flat: float) -> Float[Tensor, "h w 3 3"]:
        """Of contrasts with a variance well above `flat`; (both + ...) (own + ...)^-1."""
        wanted = both + flat * torch.diag_embed(ratio.movedim(0, 2))
        # The second is symmetric.
        return torch.linalg.solve(own + flat * torch.eye(3), wanted.mT).mT

    gain = slope(_FLAT).clamp(-2, 2)
    explained = torch.einsum("hwij,jhw->ihw", slope(_STILL_FLAT), before01 - before)
    rest = after01 - after - explained
    variance = mean(rest.square())
    noise = (_NOISE**2 / variance.clamp(min=1e-12)).clamp(max=1) * rest
    return after01 - noise, gain.flatten(2).movedim(2, 0)


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise FloatingPointError(
            "Images need to be finite, got inf or nan; lower the guidance scales or the learning "
            "rate, or run the prior in float32."
        )
