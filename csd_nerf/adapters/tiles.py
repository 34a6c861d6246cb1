"""Encodes and decodes large pictures in overlapping tiles.

Near its edges an encoded or decoded tile is wrong, because convolutions pad with zeros. So a margin
is discarded where tiles meet; over the rest of the overlap, one tile fades linearly into the next.
Normalisation layers use the statistics of a sample of tiles for all tiles, so that they fit
together (`Prior.encoding_tiles`). In memory are only the picture in 8 bits, its latent, a few tiles
and one row of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from csd_nerf.core.windows import cut_windows, window_positions
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.priors.base import Prior, at_once

ENCODE_MARGIN = 3
"""Width in cells of the margin that is discarded when encoding. With it, the bundled prior's
latents of a photograph jump by 0.01 between tiles, without it by 0.15."""
DECODE_MARGIN = 3
"""The same when decoding. With it, the flat sky of a panorama at night has columns of 24 to 29
levels; with a margin of 1, which saves a fifth of the decoding's time, of 23 to 34."""
TILES_PER_CALL = 4
"""Largest number of tiles per call; an autoencoder needs far more memory per image than a U-Net."""
SAMPLE_PIXELS = 2**20
"""Approximate number of pixels in the sample of tiles that gives the statistics."""


_LATENT = "latent"


@torch.no_grad()
def encode_tiled(
    prior: Prior,
    image: UInt8[Tensor, "H W 3"],
    *,
    wrap: bool = False,
    tile: tuple[int, int] | None = None,
    max_batch: int | None = None,
    after_row: Callable[[int, int], None] | None = None,
) -> tuple[Float[Tensor, "c h w"], dict[str, Tensor]]:
    """Encode a picture to its clean latent and its conditions, on the CPU.

    The conditions are the rows of `Prior.encode_source`, each of shape (k, h, w). They must be maps
    of the latent's size.

    Args:
        prior: The diffusion model.
        image: A picture whose height and width are multiples of `prior.size_multiple`.
        wrap: Whether the left and right edges meet; tiles then cross them.
        tile: Height and width of a tile in latent cells; None means the prior's preferred size.
            A picture no larger than a tile, without wrap, is encoded as a whole.
        max_batch: Largest number of tiles per call; `TILES_PER_CALL` if None or more than that. If
            ranks share the prior, that is the number in each.
        after_row: Called at first, and after each row of tiles, with the number of rows done and
            their total.
    """
    scale = prior.cell_size
    canvas = (image.shape[0] // scale, image.shape[1] // scale)
    tiles = _Tiles.over(prior, canvas, tile, ENCODE_MARGIN, wrap)
    down, across = tiles.weights(1)
    sums: dict[str, Tensor] = {}
    size = (scale * tiles.window[0], scale * tiles.window[1])
    sample = [
        image[top : top + size[0], left : left + size[1]]
        for top, left in (scale * tiles.sample(scale)).tolist()
    ]
    together = _together(prior, max_batch)
    told = after_row or (lambda *_: None)
    told(0, len(tiles.rows))
    with prior.encoding_tiles(to_01(torch.stack(sample))) if tiles.several else nullcontext():
        for row, part in tiles.calls(together):
            top = int(tiles.rows[row])
            strip = image[top * scale : top * scale + size[0]]
            columns = _along(tiles.columns[part] * scale, size[1], image.shape[1])
            latent, image_rows = prior.encode_source(to_01(strip[:, columns].movedim(1, 0)))
            encoded = {_LATENT: latent, **image_rows}
            sums = sums or {n: e.new_zeros(e.shape[1], *tiles.canvas) for n, e in encoded.items()}
            at = _along(tiles.columns[part], tiles.window[1], tiles.canvas[1])
            for name, parts in encoded.items():
                rows = sums[name][:, top : top + tiles.window[0]]
                _add(rows, parts * down[row][:, None] * across[part][:, None, None, :], at)
            if part.stop == len(tiles.columns):
                told(row + 1, len(tiles.rows))
    return sums.pop(_LATENT), sums


@torch.no_grad()
def decode_tiled(
    prior: Prior,
    latent: Float[Tensor, "c h w"],
    *,
    wrap: bool = False,
    tile: tuple[int, int] | None = None,
    max_batch: int | None = None,
    after_row: Callable[[int, int], None] | None = None,
) -> UInt8[Tensor, "H W 3"]:
    """Decode a clean latent to a picture on the CPU; arguments as for `encode_tiled`."""
    scale = prior.cell_size
    canvas = (latent.shape[1], latent.shape[2])
    tiles = _Tiles.over(prior, canvas, tile, DECODE_MARGIN, wrap)
    down, across = tiles.weights(scale)
    height, width = (scale * edge for edge in tiles.canvas)
    image = torch.empty(height, width, 3, dtype=torch.uint8)
    strip = torch.zeros(3, scale * tiles.window[0], width)
    # From these rows of pixels on, the next row of tiles still adds to the strip.
    ends = [*(scale * tiles.rows[1:]).tolist(), height]
    sample = cut_windows(latent, tiles.sample(scale), tiles.window)
    together = _together(prior, max_batch)
    told = after_row or (lambda *_: None)
    told(0, len(tiles.rows))
    with prior.decoding_tiles(sample) if tiles.several else nullcontext():
        for row, part in tiles.calls(together):
            tops = tiles.rows[row].expand(part.stop - part.start)
            positions = torch.stack([tops, tiles.columns[part]], dim=1)
            pixels = prior.decode(cut_windows(latent, positions, tiles.window)).cpu()
            at = _along(scale * tiles.columns[part], scale * tiles.window[1], width)
            _add(strip, pixels * down[row][:, None] * across[part][:, None, None, :], at)
            if part.stop == len(tiles.columns):
                top = scale * int(tiles.rows[row])
                done = ends[row] - top
                image[top : ends[row]] = to_bytes(strip[:, :done])
                strip = torch.cat([strip[:, done:], strip.new_zeros(3, done, width)], dim=1)
                told(row + 1, len(tiles.rows))
    return image


@dataclass(frozen=True)
class _Tiles:
    """The layout of tiles on a canvas; all lengths are in cells."""

    canvas: tuple[int, int]
    window: tuple[int, int]
    rows: Int[Tensor, "r"]
    columns: Int[Tensor, "q"]
    margin: int
    wrap: bool

    @classmethod
    def over(
        cls,
        prior: Prior,
        canvas: tuple[int, int],
        tile: tuple[int, int] | None,
        margin: int,
        wrap: bool,
    ) -> _Tiles:
        edge = prior.preferred_size // prior.cell_size
        height, width = tile or (edge, edge)
        window = (min(height, canvas[0]), min(width, canvas[1]))
        rows = _first_cells(canvas[0], window[0], margin, wrap=False)
        columns = _first_cells(canvas[1], window[1], margin, wrap=wrap)
        return cls(canvas, window, rows, columns, margin, wrap)

    def weights(self, scale: int) -> tuple[Float[Tensor, "r h"], Float[Tensor, "q w"]]:
        """Blending weights of every row and column of tiles, at `scale` values per cell.

        A tile's weight is the product of both; the weights of all tiles sum to one everywhere.
        """
        down, across = (
            _ramps(starts, window, length, margin=self.margin, scale=scale, wrap=wrap)
            for starts, window, length, wrap in zip(
                (self.rows, self.columns), self.window, self.canvas, (False, self.wrap), strict=True
            )
        )
        return down, across

    @property
    def several(self) -> bool:
        """Whether there is more than one tile."""
        return len(self.rows) * len(self.columns) > 1

    def sample(self, scale: int) -> Int[Tensor, "m 2"]:
        """Positions of a sample of tiles spread over the canvas, with about `SAMPLE_PIXELS`."""
        positions = window_positions(self.canvas, self.window, stride=min(self.window))
        pixels = self.window[0] * self.window[1] * scale**2
        count = min(max(TILES_PER_CALL, SAMPLE_PIXELS // pixels), len(positions))
        return positions[torch.linspace(0, len(positions) - 1, count).round().long()]

    def calls(self, count: int) -> Iterator[tuple[int, slice]]:
        """The tiles of each call of the prior: the number of a row, and a slice of its columns.

        Args:
            count: Largest number of tiles in a call.
        """
        for row in range(len(self.rows)):
            for first in range(0, len(self.columns), count):
                yield row, slice(first, min(first + count, len(self.columns)))


def _together(prior: Prior, max_batch: int | None) -> int:
    """The number of tiles in a call."""
    limit = min(max_batch or TILES_PER_CALL, TILES_PER_CALL)
    return at_once(prior, limit, total=limit)


def _overlap(window: int, margin: int) -> tuple[int, int]:
    """The overlap of two tiles in cells: those discarded at both edges, and those of the fade.

    Together they are a quarter of a tile, or up to half a tile if the margins need it.
    """
    fade = max(1, window // 8, window // 4 - 2 * margin)
    return min(2 * margin, max(0, window // 2 - fade)), fade


def _first_cells(length: int, window: int, margin: int, *, wrap: bool) -> Int[Tensor, "m"]:
    """First cell of each tile along an axis; the last tile ends at its end, unless it wraps."""
    stride = max(1, window - sum(_overlap(window, margin)))
    if wrap:
        return torch.arange(0, length, stride)
    return torch.tensor([*range(0, length - window, stride), length - window])


def _ramps(
    starts: Int[Tensor, "m"], window: int, length: int, *, margin: int, scale: int, wrap: bool
) -> Float[Tensor, "m {window*scale}"]:
    """Blending weights of each tile along an axis; tiles don't fade at the ends of the axis."""
    left_out, fade = _overlap(window, margin)
    places = torch.arange(window * scale)
    rise = ((places + 0.5 - scale * left_out / 2) / (scale * fade)).clamp(0, 1)
    low = (starts[:, None] == 0) & (not wrap)
    high = (starts[:, None] == length - window) & (not wrap)
    ramps = torch.where(low, 1.0, rise) * torch.where(high, 1.0, rise.flip(0))
    at = _along(starts * scale, window * scale, length * scale)
    # Tiles that overlap by more than planned: normalise the sum to one.
    total = torch.zeros(length * scale).index_add_(0, at.flatten(), ramps.flatten())
    return ramps / total[at]


def _along(starts: Int[Tensor, "m"], window: int, length: int) -> Int[Tensor, "m {window}"]:
    """Indices of each window's elements along an axis, modulo its length."""
    return (starts[:, None] + torch.arange(window)) % length


def _add(
    strip: Float[Tensor, "c h W"], parts: Float[Tensor, "b c h w"], at: Int[Tensor, "b w"]
) -> None:
    """Add parts to a strip of the same height, in place, at these columns."""
    for part, columns in zip(parts, at, strict=True):
        strip.index_add_(2, columns, part)
