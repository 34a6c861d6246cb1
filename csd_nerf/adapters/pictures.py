"""A picture before and after its edit, of which only what is needed is in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from csd_nerf.media.images import read_raster
from csd_nerf.media.metadata import PictureMetadata
from csd_nerf.media.pixels import Change, resized_picture
from csd_nerf.media.rasters import Raster
from csd_nerf.media.regions import PackedMask, blended, edit_weight

Told = Callable[[int, int], None]
"""Is called with how much is done, and with the whole."""
Bar = Callable[[str], AbstractContextManager[Told]]
"""Returns a bar with this label, which is told bytes."""


@dataclass(frozen=True)
class Picture:
    """A picture to edit, which is read whenever its pixels are needed."""

    name: str
    """Its name, for facts and notices."""
    size: tuple[int, int]
    """Height and width in pixels."""
    read: Callable[[], Raster]
    """Returns its pixels, which are the caller's to change."""


@dataclass(frozen=True)
class PictureFile:
    """A picture file that was read once, and is whole."""

    path: Path
    size: tuple[int, int]
    """Height and width in pixels."""
    metadata: PictureMetadata
    notices: list[str]
    """What was converted, or left out."""

    @classmethod
    def checked(cls, path: Path, told: Told | None = None) -> PictureFile:
        """Read a file, of which the pixels are not kept.

        Raises:
            ValueError: If it is no picture, or is damaged.
            FileNotFoundError: If it is missing.
        """
        found = read_raster(path, told=told)
        return cls(path, found.raster.size, found.metadata, found.notices)

    def picture(self, bar: Bar | None = None) -> Picture:
        """The picture, whose reading a bar shows."""
        return Picture(self.path.name, self.size, partial(self._read, bar))

    def _read(self, bar: Bar | None) -> Raster:
        with nullcontext() if bar is None else bar("read") as told:
            raster = read_raster(self.path, told=told).raster
        if raster.size != self.size:
            raise ValueError(
                f"A picture must not change while it is edited, got {self.path} of "
                f"{raster.size[1]} x {raster.size[0]} pixels instead of {self.size[1]} x "
                f"{self.size[0]}; start anew."
            )
        return raster


def finished(
    picture: Picture,
    edit: UInt8[Tensor, "h w 3"] | Change,
    *,
    inside: PackedMask | None = None,
    wrap: bool = False,
    told: Told | None = None,
) -> Raster:
    """The result of an edit, at the picture's size.

    Args:
        picture: The picture.
        edit: The edited picture, of any size, or the change that is added to the picture.
        inside: Where the picture may change; None means everywhere.
        wrap: Whether the left and right edges meet.
        told: Called with the number of finished rows of pixels, from 0, and of all.
    """
    height = picture.size[0]
    weight = None if inside is None else edit_weight(inside.is_inside, wrap=wrap)

    def kept(original: Tensor, edited: Tensor, top: int) -> Tensor:
        if weight is None:
            return edited
        return blended(original, edited, weight[top : top + len(original)])

    if isinstance(edit, Change):
        raster = picture.read()
        raster.replace(
            lambda rows, top: kept(rows, edit.applied(rows, top=top, height=height), top),
            after_rows=told,
        )
        return raster
    enlarged = Raster(resized_picture(edit, picture.size, wrap=wrap))
    if weight is not None:
        original = picture.read()
        enlarged.replace(
            lambda rows, top: kept(original[top : top + len(rows)], rows, top), after_rows=told
        )
    return enlarged
