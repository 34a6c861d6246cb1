"""Large pictures in Pillow's memory, of which some rows at a time are taken and replaced.

Pillow keeps a picture in 4 bytes a pixel, reads files into that and writes files from it. A tensor
of the picture besides would take 3 more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from csd_nerf.media.pixels import resized_picture, strips


class Raster:
    """A picture with 8 bits a channel; `raster[top:bottom]` takes and replaces rows of pixels."""

    def __init__(self, image: Image.Image) -> None:
        """Take an RGB or RGBA picture over, without a copy."""
        self.image = image

    @classmethod
    def of(cls, pixels: UInt8[Tensor, "H W c"]) -> Raster:
        """A copy of a tensor."""
        return cls(Image.fromarray(pixels.cpu().numpy()))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.image.height, self.image.width)

    def __getitem__(self, rows: slice) -> UInt8[Tensor, "r W c"]:
        """A copy of rows."""
        top, bottom, _ = rows.indices(self.image.height)
        # Of a whole picture numpy makes several copies on its way.
        part = self.image.crop((0, top, self.image.width, bottom))
        return torch.from_numpy(np.array(part))

    def __setitem__(self, rows: slice, pixels: UInt8[Tensor, "r W c"]) -> None:
        """Replace rows."""
        self.image.paste(Image.fromarray(pixels.numpy()), (0, rows.indices(self.image.height)[0]))

    @property
    def pixels(self) -> UInt8[Tensor, "H W c"]:
        """A copy of all rows."""
        height, width = self.size
        whole = torch.empty(height, width, len(self.image.getbands()), dtype=torch.uint8)
        for top, bottom in strips(height, width):
            whole[top:bottom] = self[top:bottom]
        return whole

    def resized(self, size: tuple[int, int], *, wrap: bool = False) -> UInt8[Tensor, "h w 3"]:
        """A resized copy, as `pixels.resize` makes it of an RGB picture, to the last bit."""
        if size == self.size:
            return self.pixels
        narrow = self.image
        if wrap and size[1] != narrow.width:
            # Pillow, too, resizes rows first, to 8 bits, and then columns.
            narrow = Image.new("RGB", (size[1], narrow.height))
            for top, bottom in strips(*self.size):
                part = resized_picture(self[top:bottom], (bottom - top, size[1]), wrap=True)
                narrow.paste(part, (0, top))
        return Raster(narrow.resize((size[1], size[0]), Image.Resampling.LANCZOS)).pixels

    def replace(
        self,
        make: Callable[[UInt8[Tensor, "r W 3"], int], UInt8[Tensor, "r W 3"]],
        *,
        after_rows: Callable[[int, int], None] | None = None,
    ) -> None:
        """Replace all rows, some at a time.

        Args:
            make: Gets rows and the number of the first of them, and returns what replaces them.
            after_rows: Called with the number of rows that are done, from 0, and of all rows.
        """
        told = after_rows or (lambda *_: None)
        told(0, self.image.height)
        for top, bottom in strips(*self.size):
            self[top:bottom] = make(self[top:bottom], top)
            told(bottom, self.image.height)
