"""Where each frame of a video may change.

A rectangle or the file of a mask holds for all frames. A folder has masks of some frames, from
which they are carried to the others along the motion. A word is looked for in each frame.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from csd_nerf.adapters.reporter import Reporter
from csd_nerf.media.frames import FrameSource, is_picture
from csd_nerf.media.motion import carry_masks, grey_frame
from csd_nerf.media.pixels import to_01
from csd_nerf.media.regions import (
    PackedMask,
    Region,
    Segmenter,
    Word,
    editable_cells,
    find_masks,
    keep_outside,
    picture_mask,
    read_mask,
)


@dataclass(frozen=True)
class FrameMasks:
    """The masks of all frames."""

    editable: Float[Tensor, "n h w"]
    """Factor of each latent cell's step, from `editable_cells`."""
    masks: list[PackedMask]
    """The mask of each frame; packed, so that long films fit in memory."""

    @property
    def edited(self) -> Int[Tensor, "k"]:
        """Numbers of the frames that have anything inside."""
        return torch.tensor([n for n, mask in enumerate(self.masks) if not mask.is_empty])

    def keep_outside(
        self, number: int, original: UInt8[Tensor, "H W 3"], edited: UInt8[Tensor, "H W 3"]
    ) -> UInt8[Tensor, "H W 3"]:
        """The edit of a frame, with the original outside of the mask."""
        return keep_outside(original, edited, self.masks[number].inside)


def make_frame_masks(
    region: Region,
    source: FrameSource,
    *,
    grid: tuple[int, int],
    segmenter: Segmenter | None = None,
    reporter: Reporter,
) -> FrameMasks:
    """Compute the masks of all frames.

    Args:
        region: The region of the video.
        source: The frames.
        grid: Height and width of a frame's latent in cells.
        segmenter: Finds what a word names.
        reporter: Gets the progress.

    Raises:
        ValueError: If nothing is inside in any frame, or as `picture_mask` and `find_masks` do.
        FileNotFoundError: As `picture_mask` and `find_masks` do.
    """
    masks, editable = [], []
    if _is_one(region):
        mask = PackedMask.of(picture_mask(region, size=source.size))
        masks = [mask] * source.count
        editable = [editable_cells(mask.inside, grid)] * source.count
    else:
        reporter.begin("masks", source.count)
        for number, shares in enumerate(_masks(region, source, segmenter), start=1):
            masks.append(PackedMask.of(shares))
            editable.append(editable_cells(masks[-1].inside, grid))
            reporter.tick(number)
    if all(mask.is_empty for mask in masks):
        raise ValueError(
            f"A region needs to cover half a pixel or more of a frame, got {region.where}, which "
            "covers none; name another."
        )
    return FrameMasks(torch.stack(editable), masks)


def check_frame_masks(region: Region, source: FrameSource) -> None:
    """Check what can be checked of a video's region without its frames.

    Raises:
        ValueError: As `make_frame_masks` does.
        FileNotFoundError: As `make_frame_masks` does.
    """
    if _is_one(region):
        picture_mask(region, size=source.size)
    elif isinstance(region.where, Path):
        for path in _found(region.where, source).values():
            read_mask(path, size=source.size)


def _is_one(region: Region) -> bool:
    """Whether all frames have the same mask."""
    folder = isinstance(region.where, Path) and region.where.is_dir()
    return not folder and not isinstance(region.where, Word)


def _masks(
    region: Region, source: FrameSource, segmenter: Segmenter | None
) -> Iterator[Float[Tensor, "H W"]]:
    if isinstance(region.where, Word):
        for frame in source:
            yield picture_mask(region, size=source.size, image01=to_01(frame), segmenter=segmenter)
        return
    assert isinstance(region.where, Path), "other regions have one mask for all frames"
    found = _found(region.where, source)

    def read(number: int) -> Float[Tensor, "H W"]:
        return read_mask(found[number], size=source.size)

    if len(found) == source.count:
        yield from map(read, found)
        return
    yield from carry_masks([grey_frame(frame) for frame in source], [*found], read)


def _found(folder: Path, source: FrameSource) -> dict[int, Path]:
    """The files of masks by the numbers of their frames, ascending.

    They are named like the frames; if none is, those count whose names end in the same number.
    """
    numbers = {name: number for number, name in enumerate(source.names)}
    pictures = [path for path in folder.iterdir() if is_picture(path)]
    stems = {Path(name).stem for name in numbers}
    if not any({path.stem, Path(path.stem).stem} & stems for path in pictures):
        ends = {_end(path.stem): path for path in sorted(pictures)}
        wanted = {number: _end(Path(name).stem) for name, number in numbers.items()}
        if found := {n: ends[end] for n, end in wanted.items() if end is not None and end in ends}:
            return found
    return {numbers[name]: path for name, path in find_masks(folder, numbers).items()}


def _end(stem: str) -> int | None:
    """The number at a name's end; None if there is none."""
    match = re.search(r"(\d+)$", stem)
    return None if match is None else int(match[1])
