"""Measures of an edit's consistency: across windows, at the border, from frame to frame.

All images are in [0, 1]. e = edited - truth is the error. |x| is the absolute value, and a mean is
taken over channels and pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Borders:
    """Rows and columns at which windows begin or end, without the image's edges.

    A border at k lies between the pixels k - 1 and k.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]


def window_borders(
    positions: Int[Tensor, "m 2"],
    window: tuple[int, int],
    canvas: tuple[int, int],
    *,
    cell_size: int,
    wrap: bool = False,
) -> Borders:
    """The borders of windows, in pixels.

    Args:
        positions: Top left cells of the windows.
        window: Height and width in cells.
        canvas: Height and width in cells.
        cell_size: Pixels along a cell's edge.
        wrap: Whether the left and right edges meet; a border may then lie at 0, between the last
            and the first column.
    """

    def lines(starts: Iterable[int], extent: int, length: int, around: bool) -> tuple[int, ...]:
        ends = {start + extent for start in starts} | set(starts)
        inside = {k % length for k in ends} if around else ends - {0, length}
        return tuple(sorted(k * cell_size for k in inside))

    rows, columns = (positions[:, axis].tolist() for axis in (0, 1))
    return Borders(
        lines(rows, window[0], canvas[0], False), lines(columns, window[1], canvas[1], wrap)
    )


def seam_step(
    edited01: Float[Tensor, "3 H W"],
    truth01: Float[Tensor, "3 H W"],
    borders: Borders,
    *,
    period: int = 1,
) -> float:
    """How much more the error jumps across borders of windows than elsewhere.

    For columns it is the mean of |e(x) - e(x - 1)| over the borders x, minus the mean over all
    other x that are multiples of `period`. The result is the mean over columns and rows. An axis
    without borders, or without other places, is left out.

    Args:
        edited01: The edit.
        truth01: The true edit.
        borders: Borders of the windows, in pixels.
        period: Distance in pixels of the places to compare with. With the edge of a latent cell,
            jumps at borders are compared with jumps between other cells, so that the autoencoder's
            grid doesn't count as a seam.

    Returns:
        About 0 without seams, positive with visible seams; smaller is better.

    Raises:
        ValueError: If no axis has both borders and other places.
    """
    error = edited01 - truth01
    steps = [
        _excess(error, borders.rows, period, axis=1),
        _excess(error, borders.columns, period, axis=2),
    ]
    found = [step for step in steps if step is not None]
    if not found:
        raise ValueError(
            f"seam_step needs borders and places that are none on one axis, got {borders} and "
            f"period {period} for an image of {edited01.shape[1]}x{edited01.shape[2]} pixels."
        )
    return sum(found) / len(found)


def _excess(
    error: Float[Tensor, "3 H W"], borders: tuple[int, ...], period: int, *, axis: int
) -> float | None:
    """Mean jump at the borders minus mean jump elsewhere; None if there are no such places."""
    other = 3 - axis
    jumps = (error - error.roll(1, dims=axis)).abs().mean(dim=(0, other))
    elsewhere = [k for k in range(period, len(jumps), period) if k not in borders]
    if not borders or not elsewhere:
        return None
    return float(jumps[list(borders)].mean() - jumps[elsewhere].mean())


@dataclass(frozen=True)
class BorderPsnr:
    """PSNR to the truth in dB in parts of the image; higher is better."""

    corners: float
    """Within the margin of two adjacent edges."""
    border: float
    """Within the margin of any edge, corners included."""
    interior: float
    """Everywhere else."""


def border_psnr(
    edited01: Float[Tensor, "3 H W"],
    truth01: Float[Tensor, "3 H W"],
    *,
    margin: int,
    wrap: bool = False,
) -> BorderPsnr:
    """PSNR, -10 log10(mean e^2), at the image's edges and away from them.

    Args:
        edited01: The edit.
        truth01: The true edit.
        margin: Width of the border in pixels.
        wrap: Whether the left and right edges meet. They then don't count as edges, and since there
            are no corners, `corners` is equal to `border`.

    Raises:
        ValueError: If the margin leaves no interior.
    """
    height, width = edited01.shape[1:]
    if not 0 < 2 * margin < (height if wrap else min(height, width)):
        raise ValueError(
            f"margin needs to be positive and to leave an interior of a {height}x{width} image, "
            f"got {margin}."
        )
    near_row, near_column = _near_edge(height, margin)[:, None], _near_edge(width, margin)[None]
    if wrap:
        near_column = torch.zeros_like(near_column)
    border = near_row | near_column
    corners = border if wrap else near_row & near_column
    squared = (edited01 - truth01).square().mean(dim=0).cpu()
    return BorderPsnr(*(_psnr_where(squared, mask) for mask in (corners, border, ~border)))


def _near_edge(length: int, margin: int) -> Bool[Tensor, "n"]:
    place = torch.arange(length)
    return (place < margin) | (place >= length - margin)


def _psnr_where(squared: Float[Tensor, "H W"], mask: Bool[Tensor, "H W"]) -> float:
    return float(-10 * squared[mask].mean().log10())


def flicker(edited01: Float[Tensor, "n 3 h w"], truth01: Float[Tensor, "n 3 h w"]) -> float:
    """Mean |D edited - D truth|, where D is the difference of consecutive frames.

    0 means that the edit changes from frame to frame exactly as the truth does; an error that is
    the same in all frames doesn't count. Smaller is better.

    Raises:
        ValueError: If there are fewer than two frames.
    """
    return float((_changes(edited01) - _changes(truth01)).abs().mean())


def extra_change(edited01: Float[Tensor, "n 3 h w"], source01: Float[Tensor, "n 3 h w"]) -> float:
    """Mean |D edited| - mean |D source|, where D is the difference of consecutive frames.

    It needs no truth. But an edit that raises contrast makes it positive without any flicker, and
    an edit that lowers contrast hides flicker. So compare it with the same measure of the true
    edit.

    Raises:
        ValueError: If there are fewer than two frames.
    """
    return float(_changes(edited01).abs().mean() - _changes(source01).abs().mean())


def _changes(frames01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n-1 3 h w"]:
    if len(frames01) < 2:
        raise ValueError(f"Flicker needs at least 2 frames, got {len(frames01)}.")
    return frames01[1:] - frames01[:-1]
