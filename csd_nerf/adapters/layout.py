"""Chooses the size at which a picture is edited, and its windows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from csd_nerf.adapters.options import PanoramaOptions
from csd_nerf.priors.base import Prior

MARGIN = 2
"""Least width in cells of a margin: those that the bundled prior edits wrongly at a right edge."""


@dataclass(frozen=True)
class Layout:
    """The size at which a panorama is edited, and its windows."""

    size: tuple[int, int]
    """Height and width in pixels."""
    grid: tuple[int, int]
    """Height and width of the canvas in cells."""
    window: tuple[int, int]
    """Height and width of a window in cells."""
    stride: int
    """Cells between neighbouring windows."""
    wrap: bool
    """Whether the left and right edges meet, so that windows cross them."""
    notices: list[str]
    """Notices for the user."""
    margins: tuple[int, int] = (0, 0)
    """Rows and columns of cells beyond each edge of the picture, which is mirrored there."""

    def with_margins(self, prior: Prior) -> Layout:
        """Let the canvas go beyond the picture's edges, where several windows lie side by side.

        Convolutions see zeros beyond a canvas, and cells at its edges are edited wrongly. There is
        no margin across edges that meet, nor where a window reaches from edge to edge.
        """
        multiple = prior.size_multiple // prior.cell_size
        # On both sides together a multiple of what the prior can encode.
        cells = math.ceil(2 * MARGIN / multiple) * multiple // 2
        down, across = (edge > part for edge, part in zip(self.grid, self.window, strict=True))
        rows, columns = cells * down, cells * (across and not self.wrap)
        grid = (self.grid[0] + 2 * rows, self.grid[1] + 2 * columns)
        return replace(self, grid=grid, margins=(rows, columns))

    def facts(self) -> dict[str, Any]:
        """The sizes for a JSON file, as (width, height), and whether the edges meet."""
        return {
            "work_size": [*reversed(self.size)],
            "canvas_cells": [*reversed(self.grid)],
            "margin_cells": [*reversed(self.margins)],
            "window_cells": [*reversed(self.window)],
            "stride_cells": self.stride,
            "wrap": self.wrap,
        }


def plan_layout(prior: Prior, size: tuple[int, int], options: PanoramaOptions) -> Layout:
    """Choose the size at which to edit and the windows.

    The size is the input's or `options.size`, rounded to multiples of `prior.size_multiple`; a
    picture smaller than a window is enlarged. The method ip2p-downsize edits the whole picture as
    one window. Its area is that of the prior's training images, or less if `options.size` asks.

    Args:
        prior: The diffusion model.
        size: Height and width of the input in pixels.
        options: Only `method`, `size`, `stride` and `wrap` are used.
    """
    edge, whole = prior.preferred_size, options.method == "ip2p-downsize"
    scale = (options.size or max(size)) / max(size)
    if whole:
        trained = edge / math.sqrt(size[0] * size[1])
        scale = trained if options.size is None else min(scale, trained)
    notices = []
    if not whole and scale * min(size) < edge:
        scale = edge / min(size)
        wanted = f"--size {options.size}" if options.size else f"{size[1]} x {size[0]} pixels"
        notices.append(f"enlarged for the edit: {wanted} is less than a window of {edge} pixels")
    least = prior.size_multiple if whole else edge
    height, width = (max(least, _rounded(scale * e, prior.size_multiple)) for e in size)
    grid = (height // prior.cell_size, width // prior.cell_size)
    cells = edge // prior.cell_size
    return Layout(
        size=(height, width),
        grid=grid,
        window=grid if whole else (cells, cells),
        stride=min(grid) if whole else options.stride or max(1, cells // 4),
        wrap=options.wrap and not whole,
        notices=notices,
    )


def _rounded(length: float, multiple: int) -> int:
    return round(length / multiple) * multiple
