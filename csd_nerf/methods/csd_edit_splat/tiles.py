"""The loops over pixels and Gaussians of `compositing`, compiled by numba for the CPU.

`place_pairs` finds the Gaussians that reach each tile. The other two go through a tile's Gaussians
from near to far, and for each of them through the tile's pixels. Tiles are independent of each
other: each writes its own pixels, and the gradients of its own pairs of tile and Gaussian, which
the caller adds up. Arrays are all of one float type.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from csd_nerf.methods.common.loops import compiled

TILE = 8
"""Edge of a tile in pixels."""
LEAST_ALPHA = 1 / 255
"""Below this a Gaussian counts as nothing in a pixel."""
MOST_ALPHA = 0.999
LEAST_TRANSMITTANCE = 1e-4
"""A pixel's sum ends before the transmittance would fall to this."""
MEAN, CONIC, OPACITY, ABSOLUTE, COLOR = 0, 2, 5, 6, 8
"""First columns in the gradients of pairs."""


@compiled
@no_type_check
def _least_sigma(a, b, c, left, top, right, bottom):
    """The least sigma in a box, whose edges are relative to the mean."""
    if left <= 0 <= right and top <= 0 <= bottom:
        return 0.0
    least = math.inf
    for x in (left, right):
        y = min(max(-b / c * x, top), bottom)
        least = min(least, a * x * x / 2 + b * x * y + c * y * y / 2)
    for y in (top, bottom):
        x = min(max(-b / a * y, left), right)
        least = min(least, a * x * x / 2 + b * x * y + c * y * y / 2)
    return least


@compiled
@no_type_check
def place_pairs(order, means, conics, opacities, seen, per_camera, grid, size, next_pair, gaussian):
    """Find the tiles that each Gaussian reaches with an alpha of at least `LEAST_ALPHA`.

    Called twice: to count the pairs, and to place them.

    Args:
        order: The Gaussians of all cameras by depth, shape (n,).
        means: Centres in pixels, shape (n, 2).
        conics: (xx, xy, yy) of each Gaussian, shape (n, 3).
        opacities: Shape (n,).
        seen: Gaussians that aren't are left out, shape (n,).
        per_camera: Number of Gaussians of each camera.
        grid: Rows and columns of tiles.
        size: Height and width of an image in pixels.
        next_pair: Where each tile's next pair goes, shape (tiles,); counted up.
        gaussian: Filled with the Gaussian of each pair; nothing is placed if it is empty.
    """
    rows, columns = grid
    height, width = size
    for g in order:
        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
        determinant = a * c - b * b
        if not (seen[g] and determinant > 0 and opacities[g] >= LEAST_ALPHA):
            continue
        # alpha >= LEAST_ALPHA where sigma <= reach; a hair more than rounding makes it.
        reach = math.log(opacities[g] / LEAST_ALPHA) + 1e-3
        # The box of the ellipse sigma = reach, from the first to the last pixel's middle in it.
        extent_x = math.sqrt(2 * reach * c / determinant)
        extent_y = math.sqrt(2 * reach * a / determinant)
        x, y = means[g, 0] - 0.5, means[g, 1] - 0.5
        if not math.isfinite(x + y + extent_x + extent_y):
            continue
        left, right = max(math.ceil(x - extent_x), 0), min(math.floor(x + extent_x), width - 1)
        top, bottom = max(math.ceil(y - extent_y), 0), min(math.floor(y + extent_y), height - 1)
        if left > right or top > bottom:
            continue
        of_camera = g // per_camera * rows * columns
        for row in range(int(top) // TILE, int(bottom) // TILE + 1):
            for column in range(int(left) // TILE, int(right) // TILE + 1):
                box_x, box_y = column * TILE - x, row * TILE - y
                edge = TILE - 1
                if _least_sigma(a, b, c, box_x, box_y, box_x + edge, box_y + edge) > reach:
                    continue
                tile = of_camera + row * columns + column
                if len(gaussian):
                    gaussian[next_pair[tile]] = g
                next_pair[tile] += 1


@compiled
@no_type_check
def composite_tiles(
    begin, end, gaussian, first, count, means, conics, colors, opacities, sums, grid
):
    """Add up the Gaussians of some tiles.

    Args:
        begin: The first tile.
        end: The tile after the last.
        gaussian: The Gaussian of each pair, by tile and then by depth, shape (pairs,).
        first: The first pair of each tile, shape (tiles,).
        count: The number of its pairs.
        means: Centres in pixels, shape (n, 2).
        conics: (xx, xy, yy) of each Gaussian, shape (n, 3).
        colors: Values, shape (n, d).
        opacities: Shape (n,).
        sums: Filled with the sums, shape (cameras, height, width, d).
        grid: Rows and columns of tiles.
    """
    rows, columns = grid
    height, width, d = sums.shape[1:]
    # Numbers of other types would make all of it double precision.
    real = means.dtype.type
    zero, half, one = real(0), real(0.5), real(1)
    most, least = real(MOST_ALPHA), real(LEAST_TRANSMITTANCE)
    for tile in range(begin, end):
        camera, place = divmod(tile, rows * columns)
        top, left = place // columns * TILE, place % columns * TILE
        down, across = min(TILE, height - top), min(TILE, width - left)
        free = np.ones((TILE, TILE), means.dtype)
        alive = down * across
        for pair in range(first[tile], first[tile] + count[tile]):
            g = gaussian[pair]
            a, b, c, opacity = conics[g, 0], conics[g, 1], conics[g, 2], opacities[g]
            reach = real(math.log(opacity / LEAST_ALPHA))
            for row in range(down):
                y = real(top + row) + half - means[g, 1]
                for column in range(across):
                    x = real(left + column) + half - means[g, 0]
                    sigma = half * (a * x * x + c * y * y) + b * x * y
                    # A pixel whose sum has ended has a negative transmittance.
                    before = free[row, column]
                    if sigma > reach or before < zero:
                        continue
                    alpha = min(most, opacity * math.exp(-sigma))
                    after = before * (one - alpha)
                    if after <= least:
                        free[row, column] = -before
                        alive -= 1
                        continue
                    weight = alpha * before
                    for k in range(d):
                        sums[camera, top + row, left + column, k] += weight * colors[g, k]
                    free[row, column] = after
            if alive == 0:
                break


@compiled
@no_type_check
def differentiate_tiles(
    begin, end, gaussian, first, count, means, conics, colors, opacities, sums, grid, wanted, found
):
    """The gradients of a loss by what each pair of tile and Gaussian adds.

    Args:
        begin: As for `composite_tiles`.
        end: As for `composite_tiles`.
        gaussian: As for `composite_tiles`.
        first: As for `composite_tiles`.
        count: As for `composite_tiles`.
        means: As for `composite_tiles`.
        conics: As for `composite_tiles`.
        colors: As for `composite_tiles`.
        opacities: As for `composite_tiles`.
        sums: What `composite_tiles` found.
        grid: Rows and columns of tiles.
        wanted: The gradient of the loss by the sums, of their shape.
        found: Filled with the gradients of each pair, shape (pairs, 8 + d): of the mean, of the
            conic, of the opacity, the sums over pixels of the absolute gradients of the mean, and
            of the values.
    """
    rows, columns = grid
    height, width, d = sums.shape[1:]
    # Numbers of other types would make all of it double precision.
    real = means.dtype.type
    zero, half, one = real(0), real(0.5), real(1)
    most, least = real(MOST_ALPHA), real(LEAST_TRANSMITTANCE)
    for tile in range(begin, end):
        camera, place = divmod(tile, rows * columns)
        top, left = place // columns * TILE, place % columns * TILE
        down, across = min(TILE, height - top), min(TILE, width - left)
        free = np.ones((TILE, TILE), means.dtype)
        to_color = np.empty(d, means.dtype)
        # What lies at a Gaussian and behind it adds this much to the loss, to first order.
        behind = np.zeros((TILE, TILE), means.dtype)
        for row in range(down):
            for column in range(across):
                for k in range(d):
                    y, x = top + row, left + column
                    behind[row, column] += sums[camera, y, x, k] * wanted[camera, y, x, k]
        alive = down * across
        for pair in range(first[tile], first[tile] + count[tile]):
            g = gaussian[pair]
            a, b, c, opacity = conics[g, 0], conics[g, 1], conics[g, 2], opacities[g]
            reach = real(math.log(opacity / LEAST_ALPHA))
            to_x = to_y = xx = xy = yy = to_opacity = absolute_x = absolute_y = zero
            to_color[:] = 0
            for row in range(down):
                y = real(top + row) + half - means[g, 1]
                for column in range(across):
                    x = real(left + column) + half - means[g, 0]
                    sigma = half * (a * x * x + c * y * y) + b * x * y
                    before = free[row, column]
                    if sigma > reach or before < zero:
                        continue
                    gauss = math.exp(-sigma)
                    alpha = min(most, opacity * gauss)
                    after = before * (one - alpha)
                    if after <= least:
                        free[row, column] = -before
                        alive -= 1
                        continue
                    weight = alpha * before
                    worth = zero
                    for k in range(d):
                        slope = wanted[camera, top + row, left + column, k]
                        worth += colors[g, k] * slope
                        to_color[k] += weight * slope
                    behind[row, column] -= weight * worth
                    free[row, column] = after
                    if alpha >= most:
                        continue
                    # What lies behind a Gaussian loses what it takes.
                    to_alpha = before * worth - behind[row, column] / (one - alpha)
                    to_opacity += to_alpha * gauss
                    # alpha = opacity exp(-sigma), whose derivative by sigma is -alpha.
                    to_sigma = -to_alpha * alpha
                    xx += to_sigma * x * x
                    xy += to_sigma * x * y
                    yy += to_sigma * y * y
                    along_x, along_y = -to_sigma * (a * x + b * y), -to_sigma * (b * x + c * y)
                    to_x += along_x
                    to_y += along_y
                    absolute_x += abs(along_x)
                    absolute_y += abs(along_y)
            found[pair, MEAN], found[pair, MEAN + 1] = to_x, to_y
            found[pair, CONIC], found[pair, CONIC + 1] = half * xx, xy
            found[pair, CONIC + 2] = half * yy
            found[pair, OPACITY] = to_opacity
            found[pair, ABSOLUTE], found[pair, ABSOLUTE + 1] = absolute_x, absolute_y
            found[pair, COLOR:] = to_color
            if alive == 0:
                break
