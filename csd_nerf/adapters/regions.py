"""The instructions of a panorama on its latent grid.

The mask of an instruction holds its weight in each latent cell: the fraction of the cell's area
that its region covers. Where k regions overlap, each weight is divided by k. If the rest of the
picture is not edited, the weights of a cell at a region's border are those inside of it: latents
fade by `editable_cells`, and pixels by `keep_outside`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import pad

from csd_nerf.adapters.pictures import Picture
from csd_nerf.core.windows import window_means
from csd_nerf.media.pixels import to_01
from csd_nerf.media.regions import (
    PackedMask,
    Region,
    Segmenter,
    Word,
    area_means,
    editable_cells,
    find_masks,
    picture_mask,
)

_ROUNDING = 1e-4
"""Smaller weights are set to zero: they would cost evaluations without a visible effect."""

_MOST_SHOWN = 4096
"""Longest edge in pixels of what a segmenter is shown; CLIPSeg shrinks it to 352."""

MaskOf = Callable[[Region], Float[Tensor, "H W"]]
"""The share of each pixel of the picture that a region covers."""


@dataclass(frozen=True)
class PromptMap:
    """The instructions and the cells that each applies to."""

    prompts: list[str]
    """The instructions."""
    masks: Float[Tensor, "k h w"]
    """Weight of each instruction in every latent cell, in [0, 1]."""
    inside: PackedMask | None
    """The pixels that any instruction applies to; None if they apply everywhere."""
    editable: Float[Tensor, "h w"] | None
    """Factor of each cell's step, from `editable_cells`; None for 1 everywhere."""

    def with_margins(self, margins: tuple[int, int]) -> PromptMap:
        """Let rows and columns of cells beyond the picture's edges be as those at the edges."""
        if margins == (0, 0):
            return self
        rows, columns = margins
        around = (columns, columns, rows, rows)
        masks = pad(self.masks, around, mode="replicate")
        editable = self.editable
        if editable is not None:
            editable = pad(editable[None], around, mode="replicate")[0]
        return replace(self, masks=masks, editable=editable)

    def shares(
        self, positions: Int[Tensor, "m 2"], window: tuple[int, int]
    ) -> Float[Tensor, "m k"]:
        """Weight of each instruction in each window.

        It is the mean over the window. If a part of the picture is not edited, it is the mean over
        the rest.
        """
        means = window_means(self.masks, positions, window)
        if self.inside is None:
            return means
        return means / means.sum(1, keepdim=True).clamp(min=1e-9)


def map_prompts(
    regions: Sequence[Region],
    prompt: str,
    mask_of: MaskOf,
    *,
    size: tuple[int, int],
    grid: tuple[int, int],
    wrap: bool = False,
) -> PromptMap:
    """Compute the masks of regions, and of a prompt for the rest of the picture.

    Args:
        regions: Instructions for parts of the picture. One without an instruction takes `prompt`,
            and the rest is then not edited.
        prompt: The instruction for the rest; if it is empty, the rest is not edited.
        mask_of: Computes a region's mask. It is called more than once for each, since keeping all
            masks would need much memory.
        size: Height and width of the picture in pixels, to which the regions refer.
        grid: Height and width of the latent grid in cells.
        wrap: Whether the left and right edges of the picture meet.

    Raises:
        ValueError: If no region covers anything, or `mask_of` raises it.
        FileNotFoundError: As `mask_of` does.
    """
    if not regions:
        return PromptMap([prompt], torch.ones(1, *grid), None, None)
    total = torch.zeros(size)
    for region in regions:
        total += mask_of(region)
    edits_rest = bool(prompt.strip()) and all(region.prompt is not None for region in regions)
    kept = None
    if not edits_rest:
        if not bool((total >= 0.5).any()):
            raise ValueError(
                "A region needs to cover half a pixel or more, got "
                f"{', '.join(str(region.where) for region in regions)}, which covers none; name "
                "another."
            )
        if not bool((total >= 1 - _ROUNDING).all()):
            editable = editable_cells(total.clamp(max=1), grid, wrap=wrap)
            kept = (PackedMask.of(total), editable)
    total.clamp_(min=1)
    prompts = [prompt if region.prompt is None else region.prompt for region in regions]
    masks = [area_means(mask_of(region).div_(total), grid) for region in regions]
    if edits_rest:
        rest = 1 - sum(masks, torch.zeros(grid))
        masks.append(rest.where(rest > _ROUNDING, 0.0))
        prompts.append(prompt)
        return PromptMap(prompts, torch.stack(masks), None, None)
    if kept is None:
        return PromptMap(prompts, torch.stack(masks), None, None)
    parts = torch.stack([editable_cells(mask_of(r).div_(total), grid, wrap=wrap) for r in regions])
    weights = parts / parts.sum(0).clamp(min=1e-9)
    return PromptMap(prompts, weights, *kept)


def masks_of(picture: Picture, *, segmenter: Segmenter | None = None) -> MaskOf:
    """Returns a function that computes the masks of regions of a picture.

    Args:
        picture: The picture; by its name its mask is found in a folder of masks.
        segmenter: Finds what a word names.
    """

    def mask_of(region: Region) -> Float[Tensor, "H W"]:
        if isinstance(region.where, Path) and region.where.is_dir():
            found = find_masks(region.where, [picture.name])[picture.name]
            region = replace(region, where=found)
        image01 = to_01(shown(picture)) if isinstance(region.where, Word) else None
        return picture_mask(region, size=picture.size, image01=image01, segmenter=segmenter)

    return mask_of


def shown(picture: Picture) -> UInt8[Tensor, "h w 3"]:
    """What a segmenter sees of a picture: all its pixels, or of a large one `_MOST_SHOWN`."""
    raster = picture.read()
    shrink = max(picture.size) / _MOST_SHOWN
    if shrink <= 1:
        return raster.pixels
    height, width = (max(1, round(edge / shrink)) for edge in picture.size)
    return raster.resized((height, width))
