"""Conversion between 8-bit and [0, 1] images, and resizing.

8-bit images have their channels last, as in files and Pillow. Images in [0, 1], whose names end in
`01`, have their channels first, as in models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
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
_ROWS, _STRIP = 256, 2**20
"""The most rows, and about the most pixels, that are worked on at a time."""


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
    if (image.shape[0], image.shape[1]) == size:
        return image
    return torch.from_numpy(np.array(resized_picture(image, size, by=by, wrap=wrap)))


def resized_picture(
    image: UInt8[Tensor, "h w c"],
    size: tuple[int, int],
    *,
    by: Filter = "lanczos",
    wrap: bool = False,
) -> Image.Image:
    """As `resize`, for Pillow: a large result is not copied to a tensor."""
    height, width = image.shape[:2]
    # The widest filter, Lanczos, reaches 3 pixels of the smaller picture.
    beyond = math.ceil(3 * max(1, width / size[1])) + 1 if wrap else 0
    columns = torch.arange(-beyond, width + beyond) % width
    picture = Image.fromarray((image[:, columns] if wrap else image).numpy())
    box = (beyond, 0, beyond + width, height)
    return picture.resize((size[1], size[0]), Image.Resampling[by.upper()], box=box)


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The first and the last row, exclusive, of strips of a picture that need little memory."""
    rows = max(1, min(_ROWS, _STRIP // width))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def resize01(image01: Float[Tensor, "n 3 _ _"], size: tuple[int, int]) -> Float[Tensor, "n 3 _ _"]:
    """Resize images in [0, 1] on their device, bicubic with antialiasing and clipped to [0, 1]."""
    if tuple(image01.shape[-2:]) == size:
        return image01
    resized = functional.interpolate(image01, size, mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


@dataclass(frozen=True)
class Change:
    """A change to a picture, made at another size, which leaves the picture its fine detail.

    The result is up(after) + up(G) (original - up(before)). The matrix G says how the change treats
    contrasts, so that detail is darkened with what it lies on, and loses its colour where that
    does: where the contrasts of both are the same, G is the identity, and their difference is
    simply added. See `_regressed`, which also takes noise out of `after`. The filter is bicubic
    with antialiasing.
    """

    before: Float[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"]
    """The picture as the prior's encoder and decoder return it, in [0, 1] or with 8 bits, of any
    size. What they lose of it is detail, and their errors cancel."""
    after: Float[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"]
    """The edit, decoded likewise."""
    wrap: bool = False
    """Whether the left and right edges meet."""

    def __post_init__(self) -> None:
        """Check that all values are finite.

        Raises:
            FloatingPointError: If one is NaN or infinite.
        """
        for image in (self.before, self.after):
            if image.is_floating_point():
                _check_finite(image)

    def applied(
        self, original: UInt8[Tensor, "r W 3"], *, top: int, height: int
    ) -> UInt8[Tensor, "r W 3"]:
        """Change some rows of the picture, on the CPU.

        Args:
            original: The rows.
            top: Number of the first of them.
            height: Rows of the whole picture.
        """
        (rows, columns), width = self.after.shape[1:], original.shape[1]
        # The filter reaches 2 pixels of the smaller picture.
        reach, across = (
            math.ceil(2 * max(1, have / want)) + 1
            for have, want in ((rows, height), (columns, width))
        )
        beyond = across if self.wrap else 0
        at = torch.arange(-beyond, columns + beyond) % columns
        low, high = top * rows / height, (top + len(original)) * rows / height
        first = max(0, math.floor(low) - reach)
        last = math.ceil(high) + reach
        strip = _maps(self.before, self.after, (first, last), wrap=self.wrap)[:, :, at]
        box = (beyond, low - first, beyond + columns, high - first)
        size = (width, len(original))

        def enlarged(number: int) -> Float[Tensor, "r W"]:
            one = Image.fromarray(strip[number].numpy())
            return torch.from_numpy(np.array(one.resize(size, Image.Resampling.BICUBIC, box=box)))

        # A map at a time: a strip of all of them would take ten times as much memory.
        result = torch.empty_like(original)
        details = [original[..., i].float() - 255 * enlarged(i) for i in range(3)]
        for i, detail in enumerate(details):
            # With the identity apart, nothing is rounded where there is no change.
            more = torch.zeros_like(detail)
            for j, other in enumerate(details):
                more += (enlarged(6 + 3 * i + j) - float(i == j)) * other
            result[..., i] = (255 * enlarged(3 + i) + (detail + more)).round().clamp(0, 255).byte()
        return result


def add_change(
    original: UInt8[Tensor, "H W 3"],
    before01: Float[Tensor, "3 h w"],
    after01: Float[Tensor, "3 h w"],
    *,
    wrap: bool = False,
) -> UInt8[Tensor, "H W 3"]:
    """Apply a `Change` to a whole picture on the CPU, some rows at a time.

    Raises:
        FloatingPointError: If a value is NaN or infinite.
    """
    change, result = Change(before01, after01, wrap), torch.empty_like(original)
    height, width = original.shape[:2]
    for top, bottom in strips(height, width):
        result[top:bottom] = change.applied(original[top:bottom], top=top, height=height)
    return result


def _maps(
    before: Float[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"],
    after: Float[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"],
    rows: tuple[int, int],
    *,
    wrap: bool,
) -> Float[Tensor, "15 _ w"]:
    """Of some rows both images, that after without noise, and the rows of the gain, on the CPU."""
    height, width = before.shape[1:]
    reach = min(_GAIN_REACH, (min(height, width) - 1) // 2)
    first, last = rows[0], min(rows[1], height)
    # Means of what has means around it.
    low, high = max(0, first - 2 * reach), min(height, last + 2 * reach)
    before01, after01 = (
        # Half precision tells all 256 levels apart.
        (part if part.is_floating_point() else part.half() / 255).float().cpu()
        for part in (before[:, low:high], after[:, low:high])
    )
    maps = torch.cat([before01, *_regressed(before01, after01, reach, wrap=wrap)])
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
