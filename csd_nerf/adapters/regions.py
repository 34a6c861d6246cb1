"""Instructions for parts of a picture: "PROMPT@x0,y0,x1,y1" or "PROMPT@mask.png".

The mask of an instruction holds its weight in each latent cell: the fraction of the cell's area
that its region covers. Where k regions overlap, each weight is divided by k. If the weights of a
cell sum to less than one, the cell is edited only by this share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.media.images import read_image

_FORM = '"PROMPT@x0,y0,x1,y1" (pixels or percent) or "PROMPT@mask.png"'
_ROUNDING = 1e-4
"""Smaller weights are set to zero: they would cost evaluations without a visible effect."""
_ROWS = 64
"""Rows of pixels that are blended at a time."""


@dataclass(frozen=True)
class Region:
    """An instruction and the part of the picture that it applies to."""

    prompt: str
    """The instruction."""
    where: tuple[str, str, str, str] | Path
    """x0, y0, x1, y1 in pixels or percent, or the file of a mask: a picture of the same size, white
    inside the region."""


@dataclass(frozen=True)
class PromptMap:
    """The instructions and the cells that each applies to."""

    prompts: list[str]
    """The instructions."""
    masks: Float[Tensor, "k h w"]
    """Weight of each instruction in every latent cell, in [0, 1]."""

    @property
    def editable(self) -> Float[Tensor, "h w"]:
        """Sum of the weights of all instructions in each cell, at most 1."""
        return self.masks.sum(0).clamp(max=1)

    @property
    def leaves_parts_alone(self) -> bool:
        """Whether any cell is not, or not fully, covered by instructions."""
        return bool((self.editable < 1 - _ROUNDING).any())


def parse_region(text: str) -> Region:
    """Parse a region; the last @ separates the instruction from the place.

    Raises:
        ValueError: If the text has another form.
    """
    prompt, at, where = (part.strip() for part in text.rpartition("@"))
    if not at or not prompt or not where:
        lack = "an @" if not at else "an instruction before the @" if not prompt else "a place"
        raise ValueError(f"--region needs {_FORM}, got {text!r}, which lacks {lack}.")
    if "," not in where or Path(where).is_file():
        return Region(prompt, Path(where))
    parts = where.split(",")
    if len(parts) != 4 or not all(_is_number(part) for part in parts):
        raise ValueError(
            f"--region needs four numbers after the @, {_FORM}, got {where!r} in {text!r}."
        )
    return Region(prompt, (parts[0], parts[1], parts[2], parts[3]))


def map_prompts(
    regions: Sequence[Region], prompt: str, *, size: tuple[int, int], grid: tuple[int, int]
) -> PromptMap:
    """Compute the masks of regions, and of a prompt for the rest of the picture.

    Args:
        regions: Instructions for parts of the picture.
        prompt: The instruction for the rest; if it is empty, the rest is not edited.
        size: Height and width of the picture in pixels, to which the regions refer.
        grid: Height and width of the latent grid in cells.

    Raises:
        ValueError: If a rectangle is empty or not within the picture, or a mask has another size
            or is all black.
        FileNotFoundError: If a mask's file is missing.
    """
    total = torch.zeros(size)
    for region in regions:
        total += region_mask(region, size=size)
    total.clamp_(min=1)
    # Each mask in pixels is made twice: keeping all of them would need much memory.
    masks = [area_means(region_mask(region, size=size).div_(total), grid) for region in regions]
    prompts = [region.prompt for region in regions]
    if prompt.strip():
        rest = 1 - sum(masks, torch.zeros(grid))
        masks.append(rest.where(rest > _ROUNDING, 0.0))
        prompts.append(prompt)
    return PromptMap(prompts, torch.stack(masks))


def region_mask(region: Region, *, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """The fraction of each pixel that a region covers.

    Raises:
        ValueError: If the rectangle is empty or not within the picture, or the mask has another
            size or is all black.
        FileNotFoundError: If the mask's file is missing.
    """
    if isinstance(region.where, Path):
        return _read_mask(region.where, size=size)
    height, width = size
    x0, y0, x1, y1 = (
        _pixels(text, edge)
        for text, edge in zip(region.where, (width, height, width, height), strict=True)
    )
    place = ",".join(region.where)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"--region needs x0 < x1 and y0 < y1, got {place}.")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise ValueError(
            f"--region needs to lie within the picture of {width} x {height} pixels, got {place}."
        )
    rows = _covered(torch.tensor([y0]), torch.tensor([y1]), length=height, cells=height)[0]
    columns = _covered(torch.tensor([x0]), torch.tensor([x1]), length=width, cells=width)[0]
    return rows[:, None] * columns


def area_means(
    mask: Float[Tensor, "H W"], grid: tuple[int, int]
) -> Float[Tensor, "{grid[0]} {grid[1]}"]:
    """Mean of a mask over each cell of a grid; cells need not be a whole number of pixels."""
    down, across = (
        _covered(torch.arange(length), torch.arange(length) + 1, length=length, cells=cells)
        for length, cells in zip(mask.shape, grid, strict=True)
    )
    return (down.T @ mask @ across).clamp_(0, 1)


def restore_original(
    original: UInt8[Tensor, "H W 3"],
    edited: UInt8[Tensor, "H W 3"],
    editable: Float[Tensor, "h w"],
    *,
    wrap: bool = False,
) -> UInt8[Tensor, "H W 3"]:
    """Blend the original's pixels back in where no instruction applies.

    Weights are interpolated linearly between the centres of latent cells.

    Args:
        original: The input.
        edited: Its edit.
        editable: Sum of the instructions' weights in each latent cell, `PromptMap.editable`.
        wrap: Whether the left and right edges meet.
    """
    height, width = original.shape[:2]
    upper, lower, down = _neighbours(height, editable.shape[0], wrap=False)
    left, right, across = _neighbours(width, editable.shape[1], wrap=wrap)
    wide = torch.lerp(editable[:, left], editable[:, right], across)
    result = torch.empty_like(original)
    for rows in torch.arange(height).split(_ROWS):
        alpha = torch.lerp(wide[upper[rows]], wide[lower[rows]], down[rows, None])[..., None]
        blend = torch.lerp(original[rows].float(), edited[rows].float(), alpha)
        result[rows] = blend.round().to(torch.uint8)
    return result


def _read_mask(path: Path, *, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    try:
        picture, _ = read_image(path, keep_alpha=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"--region needs {_FORM}, got {path}: no such file.") from None
    if picture.shape[:2] != size:
        height, width = picture.shape[:2]
        raise ValueError(
            f"A mask needs the picture's size, {size[1]} x {size[0]} pixels, got {path} of "
            f"{width} x {height}."
        )
    mask = picture[..., :3].amax(2).float().div_(255)
    if picture.shape[2] == 4:
        mask *= picture[..., 3].float().div_(255)
    if not mask.any():
        raise ValueError(
            f"A mask needs to be white somewhere, got {path}, all black or transparent."
        )
    return mask


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text.strip().removesuffix("%")))
    except ValueError:
        return False


def _pixels(text: str, edge: int) -> float:
    number = float(text.strip().removesuffix("%"))
    return number * edge / 100 if text.strip().endswith("%") else number


def _covered(low: Tensor, high: Tensor, *, length: int, cells: int) -> Float[Tensor, "n {cells}"]:
    """Fraction of each cell that is covered by each interval, along an axis of `length` pixels."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * length / cells
    top = torch.minimum(high[:, None], edges[1:])
    covered = (top - torch.maximum(low[:, None], edges[:-1])).clamp(min=0)
    return (covered * cells / length).float()


def _neighbours(length: int, cells: int, *, wrap: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel, the two cells between whose centres it lies, and the second's weight."""
    place = (torch.arange(length) + 0.5) * cells / length - 0.5
    before = place.floor().long()
    if wrap:
        return before % cells, (before + 1) % cells, place - before
    return before.clamp(min=0), (before + 1).clamp(max=cells - 1), place - before
