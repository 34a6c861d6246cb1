"""Where an instruction applies: one `Region` for pictures, videos and scenes.

Masks hold the share of each pixel that lies in the region, from 0 to 1. Pixels with less than half
are outside. `csd_nerf.media.places` reads the texts of regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from csd_nerf.media.frames import is_picture
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import strips
from csd_nerf.media.places import (
    PICTURE_FORMS,
    Labels,
    PictureBox,
    Place,
    Region,
    SceneBox,
    Word,
    parse_region,
)

__all__ = [
    "Labels",
    "PackedMask",
    "PictureBox",
    "Place",
    "Region",
    "SceneBox",
    "Segmenter",
    "Word",
    "area_means",
    "blended",
    "edit_weight",
    "editable_cells",
    "find_masks",
    "inner_fade",
    "keep_outside",
    "parse_region",
    "picture_mask",
    "read_mask",
]

FADE = 0.01
"""Width over which an edit fades in from the border of a region, as a share of the shorter edge."""
_ROWS = 64
"""Rows of pixels that are blended at a time."""

Segmenter = Callable[[Float[Tensor, "3 h w"], str], Float[Tensor, "h w"]]
"""Finds what a word names: image in [0, 1] and word -> share of each pixel, in [0, 1]."""


@dataclass(frozen=True)
class PackedMask:
    """A mask that is kept in little memory: a pixel is inside, or outside."""

    size: tuple[int, int]
    """Height and width in pixels."""
    bits: NDArray[np.uint8]
    """Whether each pixel is inside, eight of them in a byte."""

    @classmethod
    def of(cls, mask: Float[Tensor, "H W"]) -> PackedMask:
        """Take the shares of pixels, of which a half and more are inside."""
        return cls((mask.shape[0], mask.shape[1]), np.packbits((mask >= 0.5).numpy()))

    @property
    def is_empty(self) -> bool:
        """Whether no pixel is inside."""
        return not self.bits.any()

    @property
    def is_inside(self) -> Bool[Tensor, "H W"]:
        """Whether each pixel is inside."""
        bits = np.unpackbits(self.bits, count=self.size[0] * self.size[1])
        return torch.from_numpy(bits.reshape(self.size).view(bool))

    @property
    def inside(self) -> Float[Tensor, "H W"]:
        """1 for each pixel that is inside, else 0."""
        return self.is_inside.float()


def picture_mask(
    region: Region,
    *,
    size: tuple[int, int],
    image01: Float[Tensor, "3 h w"] | None = None,
    segmenter: Segmenter | None = None,
) -> Float[Tensor, "H W"]:
    """The share of each pixel of a picture that a region covers; all 0 if a word isn't found.

    Args:
        region: A rectangle, a mask's file, or a word.
        size: Height and width of the picture.
        image01: The picture, of any size; a word needs it.
        segmenter: Finds what a word names.

    Raises:
        ValueError: If the rectangle is empty or not within the picture, the mask has another shape
            or is all black, or the region is none of a picture.
        FileNotFoundError: If the mask's file is missing.
    """
    where = region.where
    if isinstance(where, PictureBox):
        x0, y0, x1, y1 = where.pixels(size)
        rows = _covered(torch.tensor([y0]), torch.tensor([y1]), length=size[0], cells=size[0])[0]
        columns = _covered(torch.tensor([x0]), torch.tensor([x1]), length=size[1], cells=size[1])[0]
        return rows[:, None] * columns
    if isinstance(where, Path):
        mask = read_mask(where, size=size)
        if not mask.any():
            raise ValueError(
                f"A mask needs to be white somewhere, got {where}, all black or transparent."
            )
        return mask
    if not isinstance(where, Word):
        raise ValueError(f"A region of a picture needs {PICTURE_FORMS}, got {where}.")
    if segmenter is None or image01 is None:
        raise ValueError(f"The word {where.text!r} needs a segmenter and the picture, got none.")
    share = segmenter(image01, where.text)[None, None].float().cpu()
    if share.shape[2:] != size:
        share = functional.interpolate(share, size, mode="bilinear", antialias=True)
    return share[0, 0].clamp(0, 1)


def read_mask(path: Path, *, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Read a mask for a picture of this height and width; white is inside, transparent outside.

    A mask of the same shape but another size is resized.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is no picture, or its aspect ratio is not the picture's.
    """
    try:
        picture, _ = read_image(path, keep_alpha=True)
    except FileNotFoundError:
        what = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"A region needs {PICTURE_FORMS}, got {path}: {what}.") from None
    mask = picture[..., :3].amax(2).float().div_(255)
    if picture.shape[2] == 4:
        mask *= picture[..., 3].float().div_(255)
    height, width = mask.shape
    if (height, width) == size:
        return mask
    # A smaller copy may have been rounded by up to one pixel.
    if abs(width * size[0] - height * size[1]) > max(*size, height, width):
        raise ValueError(
            f"A mask needs the picture's shape, {size[1]} x {size[0]} pixels, got {path} of "
            f"{width} x {height}."
        )
    return functional.interpolate(mask[None, None], size, mode="area")[0, 0]


def find_masks(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The mask of each picture in a folder; pictures without one are left out.

    Args:
        folder: Its masks are named like the pictures up to the suffix (`a.png` for `a.jpg`), or
            with the picture's whole name before it (`a.jpg.png`, as COLMAP has them).
        names: Names or paths of the pictures.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If no picture has a mask, or one has two.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Masks need a folder, got {folder}, which is none.")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_picture(path):
            by_stem.setdefault(path.stem, []).append(path)
    found: dict[str, Path] = {}
    names = list(names)
    for name in names:
        masks = by_stem.get(Path(name).stem) or by_stem.get(Path(name).name) or []
        if len(masks) > 1:
            raise ValueError(
                f"A picture needs one mask, got {masks[0].name} and {masks[1].name} in {folder}; "
                "move one away."
            )
        if masks:
            found[name] = masks[0]
    if not found:
        raise ValueError(
            f"A folder of masks needs files named like the pictures, such as "
            f"{Path(names[0]).stem if names else 'NAME'}.png, got {folder} with none."
        )
    return found


def area_means(
    mask: Float[Tensor, "H W"], grid: tuple[int, int]
) -> Float[Tensor, "{grid[0]} {grid[1]}"]:
    """Mean of a mask over each cell of a grid; cells need not be a whole number of pixels."""
    down, across = (
        _covered(torch.arange(length), torch.arange(length) + 1, length=length, cells=cells)
        for length, cells in zip(mask.shape, grid, strict=True)
    )
    return (down.T @ mask @ across).clamp_(0, 1)


def editable_cells(
    mask: Float[Tensor, "H W"], grid: tuple[int, int], *, wrap: bool = False
) -> Float[Tensor, "{grid[0]} {grid[1]}"]:
    """Factor of each latent cell's step for a region.

    It is the largest share of the cell and its eight neighbours that lies in the region. A cell at
    the border is then edited in full, and what is around it fades; pixels outside are put back by
    `keep_outside` anyway.

    Args:
        mask: Share of each pixel that lies in the region.
        grid: Height and width of the latent in cells.
        wrap: Whether the left and right edges of the picture meet.
    """
    share = area_means(mask, grid)[None]
    beside = functional.pad(share, (1, 1, 0, 0), mode="circular" if wrap else "replicate")
    return functional.max_pool2d(beside, 3, stride=1, padding=(1, 0))[0]


def keep_outside(
    original: UInt8[Tensor, "H W 3"],
    edited: UInt8[Tensor, "H W 3"],
    mask: Float[Tensor, "H W"],
    *,
    wrap: bool = False,
) -> UInt8[Tensor, "H W 3"]:
    """Put the original back outside of a region, to the last bit.

    Inside, the edit's weight rises from the border over `FADE` of the picture's shorter edge; see
    `inner_fade`.

    Args:
        original: The picture before the edit.
        edited: Its edit.
        mask: Share of each pixel that lies in the region.
        wrap: Whether the left and right edges of the picture meet.
    """
    return blended(original, edited, edit_weight(mask, wrap=wrap))


def edit_weight(
    mask: Float[Tensor, "H W"] | Bool[Tensor, "H W"], *, wrap: bool = False
) -> Float[Tensor, "H W"]:
    """Weight of the edit in each pixel, as `keep_outside` has it."""
    return inner_fade(mask, width=FADE * min(mask.shape), wrap=wrap)


def inner_fade(
    mask: Float[Tensor, "H W"] | Bool[Tensor, "H W"], *, width: float, wrap: bool = False
) -> Float[Tensor, "H W"]:
    """Weight of the edit in each pixel: exactly 0 outside of the mask, rising to 1 inwards.

    With the distance d of a pixel's centre from the border it is d / width, at most 1. The edges of
    the picture are no borders. In each connected part of the mask, `width` is at most half of its
    largest distance, so that thin parts are edited too.

    Args:
        mask: Share of each pixel, outside where it is below 0.5; or whether it is inside.
        width: Pixels over which the weight rises; 0 means none.
        wrap: Whether the left and right edges of the picture meet.
    """
    # Late: few edits have a region.
    import cv2

    weight = torch.zeros(mask.shape)
    inside = (mask if mask.dtype == torch.bool else mask >= 0.5).cpu()
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return weight
    # The part that matters, with a border: large pictures would need much memory.
    top, bottom = max(int(rows[0]) - 1, 0), int(rows[-1]) + 2
    if wrap:
        beyond = min(math.ceil(width) + 1, inside.shape[1])
        at = torch.arange(-beyond, inside.shape[1] + beyond) % inside.shape[1]
    else:
        beyond = 0
        at = torch.arange(max(int(columns[0]) - 1, 0), int(columns[-1]) + 2)
        at = at[at < inside.shape[1]]
    part = inside[top:bottom, at].numpy().view(np.uint8)
    if part.all():
        return inside.float()
    # Half a pixel lies between the border and the centre of the first pixel.
    distance = cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance -= 0.5
    count, labels = cv2.connectedComponents(part, connectivity=4)
    numbers = np.asarray(labels, np.int32)
    largest = np.zeros(count, "float32")
    rows_of = [slice(first, last) for first, last in strips(*part.shape)]
    for rows in rows_of:
        np.maximum.at(largest, numbers[rows].ravel(), distance[rows].ravel())
    widths = np.minimum(largest / 2, width)
    inner, whole = slice(beyond, len(at) - beyond), weight[top:bottom]
    for rows in rows_of:
        with np.errstate(divide="ignore"):
            risen = np.clip(distance[rows] / widths[numbers[rows]], 0, 1) * part[rows]
        whole[rows, at[inner]] = torch.from_numpy(risen)[:, inner]
    return weight


def blended(
    original: UInt8[Tensor, "H W 3"],
    edited: UInt8[Tensor, "H W 3"],
    weight: Float[Tensor, "H W"],
) -> UInt8[Tensor, "H W 3"]:
    """Add weight (edited - original) to the original, rounded.

    At weight 0 the original's very bytes stay.
    """
    result = torch.empty_like(original)
    for rows in torch.arange(len(original)).split(_ROWS):
        blend = torch.lerp(original[rows].float(), edited[rows].float(), weight[rows, :, None])
        result[rows] = blend.round().to(torch.uint8)
    return result


def _covered(low: Tensor, high: Tensor, *, length: int, cells: int) -> Float[Tensor, "n {cells}"]:
    """Fraction of each cell that is covered by each interval, along an axis of `length` pixels."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * length / cells
    top = torch.minimum(high[:, None], edges[1:])
    covered = (top - torch.maximum(low[:, None], edges[:-1])).clamp(min=0)
    return (covered * cells / length).float()
