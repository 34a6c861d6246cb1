"""Overlapping windows over a 2D canvas.

A position is the (row, column) of a window's top left cell. The canvas is a latent with any number
of channels; the windows cut out of it are the particles. Columns are taken modulo the canvas's
width, so that a window may cross the left and right edges of a canvas that wraps.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.copies import sent


def window_positions(
    canvas: tuple[int, int], window: tuple[int, int], *, stride: int, wrap: bool = False
) -> Int[Tensor, "m 2"]:
    """Positions of windows that cover the whole canvas, row by row.

    Positions are `stride` cells apart. The last window of each row and column ends at the canvas's
    edge; it may lie closer than `stride` to the one before.

    Args:
        canvas: Height and width in cells.
        window: Height and width in cells.
        stride: Distance between neighbours in cells.
        wrap: Whether the canvas's left and right edges meet, as in a 360 degree panorama. If so,
            windows start every `stride` columns over the whole width.

    Raises:
        ValueError: If the window is larger than the canvas, or the stride than the window's
            shorter edge, which would leave gaps.
    """
    if any(w < 1 or w > c for c, w in zip(canvas, window, strict=True)):
        raise ValueError(f"A window needs to fit in the canvas {canvas}, got {window}.")
    if not 1 <= stride <= min(window):
        raise ValueError(
            f"stride needs 1 <= stride <= {min(window)}, the window's shorter edge, "
            f"or cells are never covered, got {stride}."
        )
    rows, columns = (
        torch.tensor(sorted({*range(0, c - w, stride), c - w}))
        for c, w in zip(canvas, window, strict=True)
    )
    if wrap:
        columns = torch.arange(0, canvas[1], stride)
    return torch.cartesian_prod(rows, columns)


def window_cells(
    positions: Int[Tensor, "b 2"], window: tuple[int, int], width: int
) -> Int[Tensor, "b h w"]:
    """Indices of each window's cells in the flattened canvas, which has this width in cells."""
    rows = positions[:, :1] + torch.arange(window[0], device=positions.device)
    columns = positions[:, 1:] + torch.arange(window[1], device=positions.device)
    return rows[:, :, None] * width + columns[:, None, :] % width


def cut_windows(
    canvas: Float[Tensor, "c H W"], positions: Int[Tensor, "b 2"], window: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """Cut out the windows at these positions."""
    cells = window_cells(sent(positions, canvas.device), window, canvas.shape[-1])
    return canvas.flatten(1)[:, cells].transpose(0, 1)


def coverage(
    positions: Int[Tensor, "b 2"], window: tuple[int, int], canvas: tuple[int, int]
) -> Int[Tensor, "H W"]:
    """Number of windows that cover each cell."""
    cells = window_cells(positions, window, canvas[1]).flatten()
    count = torch.zeros(canvas[0] * canvas[1], dtype=torch.long, device=positions.device)
    return count.index_add_(0, cells, torch.ones_like(cells)).view(canvas)


def window_means(
    field: Float[Tensor, "k H W"], positions: Int[Tensor, "m 2"], window: tuple[int, int]
) -> Float[Tensor, "m k"]:
    """Mean of k fields over each window; for a mask, the share of the window that it covers."""
    cells = window_cells(positions.to(field.device), window, field.shape[-1])
    # A window at a time: masks of large canvases times their windows would not fit in memory.
    return torch.stack([field.flatten(1)[:, part.flatten()].mean(1) for part in cells])
