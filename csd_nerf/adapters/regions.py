"""Instructions for parts of a picture: "PROMPT@x0,y0,x1,y1" or "PROMPT@mask.png".

A mask says which share of each latent cell an instruction has. Where regions overlap they share
alike; shares of a cell sum to one at most, and what is missing stays as it is.
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
"""A lesser share of a cell is none: it would cost evaluations and show nothing."""
_ROWS = 64
"""Rows of pixels that are blended together."""


@dataclass(frozen=True)
class Region:
    """An instruction and where it holds."""

    prompt: str
    """The instruction."""
    where: tuple[str, str, str, str] | Path
    """x0, y0, x1, y1 in pixels or percent of the picture, or a mask: a picture of its size."""


@dataclass(frozen=True)
class PromptMap:
    """Which instruction holds where."""

    prompts: list[str]
    """The instructions."""
    masks: Float[Tensor, "k h w"]
    """Share of each in every latent cell."""

    @property
    def editable(self) -> Float[Tensor, "h w"]:
        """How much of each cell any instruction has."""
        return self.masks.sum(0).clamp(max=1)

    @property
    def leaves_parts_alone(self) -> bool:
        """Whether there are cells that no instruction has, or not wholly."""
        return bool((self.editable < 1 - _ROUNDING).any())


def parse_region(text: str) -> Region:
    """Read a region; the last @ parts the instruction from the place.

    Raises:
        ValueError: If it has another form.
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
    """Lay regions, and a prompt for what they leave, on the latent grid.

    Args:
        regions: What holds in parts of the picture.
        prompt: What holds in the rest; empty leaves it alone.
        size: Height and width of the picture in pixels, as boxes and masks mean them.
        grid: Height and width in cells.

    Raises:
        ValueError: If a place doesn't fit the picture.
        FileNotFoundError: If a mask is missing.
    """
    total = torch.zeros(size)
    for region in regions:
        total += region_mask(region, size=size)
    total.clamp_(min=1)
    # Made twice, for all at once would need much memory.
    masks = [area_means(region_mask(region, size=size).div_(total), grid) for region in regions]
    prompts = [region.prompt for region in regions]
    if prompt.strip():
        rest = 1 - sum(masks, torch.zeros(grid))
        masks.append(rest.where(rest > _ROUNDING, 0.0))
        prompts.append(prompt)
    return PromptMap(prompts, torch.stack(masks))


def region_mask(region: Region, *, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """How much of each pixel a region covers.

    Raises:
        ValueError: If the place doesn't fit a picture of this size.
        FileNotFoundError: If the mask is missing.
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
    rows = _shares(torch.tensor([y0]), torch.tensor([y1]), length=height, cells=height)[0]
    columns = _shares(torch.tensor([x0]), torch.tensor([x1]), length=width, cells=width)[0]
    return rows[:, None] * columns


def area_means(
    mask: Float[Tensor, "H W"], grid: tuple[int, int]
) -> Float[Tensor, "{grid[0]} {grid[1]}"]:
    """Mean of a mask over the area of each cell; cells may end within pixels."""
    down, across = (
        _shares(torch.arange(length), torch.arange(length) + 1, length=length, cells=cells)
        for length, cells in zip(mask.shape, grid, strict=True)
    )
    return (down.T @ mask @ across).clamp_(0, 1)


def keep_unasked(
    original: UInt8[Tensor, "H W 3"],
    edited: UInt8[Tensor, "H W 3"],
    editable: Float[Tensor, "h w"],
    *,
    wrap: bool = False,
) -> UInt8[Tensor, "H W 3"]:
    """The original's pixels where no instruction holds; they fade into the edit within a cell.

    Args:
        original: The input.
        edited: Its edit.
        editable: How much of each latent cell any instruction has.
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
        picture, _ = read_image(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"--region needs {_FORM}, got {path}: no such file.") from None
    if picture.shape[:2] != size:
        height, width = picture.shape[:2]
        raise ValueError(
            f"A mask needs the picture's size, {size[1]} x {size[0]} pixels, got {path} of "
            f"{width} x {height}."
        )
    mask = picture.amax(2).float().div_(255)
    if not mask.any():
        raise ValueError(f"A mask needs to be white somewhere, got {path}, all black.")
    return mask


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text.strip().removesuffix("%")))
    except ValueError:
        return False


def _pixels(text: str, edge: int) -> float:
    number = float(text.strip().removesuffix("%"))
    return number * edge / 100 if text.strip().endswith("%") else number


def _shares(low: Tensor, high: Tensor, *, length: int, cells: int) -> Float[Tensor, "n {cells}"]:
    """Share of each of the equal cells of an axis that intervals cover."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * length / cells
    top = torch.minimum(high[:, None], edges[1:])
    covered = (top - torch.maximum(low[:, None], edges[:-1])).clamp(min=0)
    return (covered * cells / length).float()


def _neighbours(length: int, cells: int, *, wrap: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The cells whose middles lie before and after each pixel's, and how far it is on its way."""
    place = (torch.arange(length) + 0.5) * cells / length - 0.5
    before = place.floor().long()
    if wrap:
        return before % cells, (before + 1) % cells, place - before
    return before.clamp(min=0), (before + 1).clamp(max=cells - 1), place - before
