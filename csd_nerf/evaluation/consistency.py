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
    cell_size: int,
) -> float:
    """How much larger the error's steps are at the borders of windows than between other cells.

    A seam is an offset of the error along the edge of a window, in either direction. So e is first
    averaged along each piece of a line, where the other axis's borders cut lines into pieces;
    noise averages out, and windows above and below may have offsets of opposite sign. For a column
    x between two cells of c = `cell_size` pixels, the step of a piece is its jump, minus the mean
    slope inside the two cells:

        d(x) = e(x) - e(x-1) - [e(x-1) - e(x-c) + e(x+c-1) - e(x)] / (2 (c-1))

    An error that changes evenly across the border thus has no step. A border's seam is the mean of
    |d| over its pieces, weighted by their length, minus that of the lines between the other cells
    up to the next border: the mean of both sides. The measure is the mean over the borders of
    columns, and of rows; then the mean of both. Borders without such lines are left out, and so are
    lines beside a part of a cell.

    Borders are compared with other lines between cells, so that the autoencoder's grid is no seam,
    and with lines nearby, so that noise is none, though it is stronger in some parts of a picture.
    The lines next to the picture's edges, where all errors are larger, are left out.

    Args:
        edited01: The edit.
        truth01: The true edit.
        borders: Borders of the windows, in pixels.
        cell_size: Edge of a latent cell in pixels, at least 2; all borders are multiples of it.

    Returns:
        About 0 without seams, for noise and smooth errors too, and the mean height of the steps
        with seams. Smaller is better.

    Raises:
        ValueError: If no axis has both borders and other lines, or cells have one pixel.
    """
    if cell_size < 2:
        raise ValueError(f"seam_step needs cells of at least 2 pixels, got {cell_size}.")
    error = (edited01 - truth01).double()
    steps = [
        _excess(error.mT, borders.rows, borders.columns, cell_size),
        _excess(error, borders.columns, borders.rows, cell_size),
    ]
    found = [step for step in steps if step is not None]
    if not found:
        raise ValueError(
            f"seam_step needs borders and lines that are none on one axis, got {borders} and cells "
            f"of {cell_size} pixels for an image of {edited01.shape[1]}x{edited01.shape[2]} pixels."
        )
    return sum(found) / len(found)


def _excess(
    error: Float[Tensor, "3 n length"],
    borders: tuple[int, ...],
    cuts: tuple[int, ...],
    cell_size: int,
) -> float | None:
    """Mean seam of the borders of the last axis; None without borders or without other lines."""
    length = error.shape[2]
    lines = [k for k in range(0, length, cell_size) if k + cell_size <= length]
    inside = [k for k in borders if k in lines]
    others = torch.tensor([k for k in lines[2:-1] if k not in borders])
    heights = _step_heights(error, cuts, cell_size)
    seams = []
    for k, last, following in zip(inside, [0, *inside], [*inside[1:], length], strict=False):
        # The border of a wrapped panorama, 0, is also at the end.
        start, end = (last, k) if k else (inside[-1], length)
        sides = (
            others[(others > start) & (others < end)],
            others[(others > k) & (others < following)],
        )
        if means := [heights[side].mean() for side in sides if len(side)]:
            seams.append(heights[k] - torch.stack(means).mean())
    return float(torch.stack(seams).mean()) if seams else None


def _step_heights(
    error: Float[Tensor, "3 n length"], cuts: tuple[int, ...], cell_size: int
) -> Float[Tensor, "length"]:
    """Mean |d| over the pieces of each line of the last axis."""
    ends = sorted({*cuts, error.shape[1]} - {0})
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    mean = torch.stack([piece.mean(dim=1) for piece in error.split(sizes, dim=1)], dim=1)
    after, far_after = mean, mean.roll(1 - cell_size, dims=2)
    before, far_before = mean.roll(1, dims=2), mean.roll(cell_size, dims=2)
    slopes = (before - far_before + far_after - after) / (2 * (cell_size - 1))
    step = (after - before - slopes).abs().mean(dim=0)
    return torch.tensor(sizes).to(step) / error.shape[1] @ step


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
