"""Alpha compositing of Gaussians that are projected to the image plane: pure torch, on any device.

gsplat composites in CUDA only. This is the same sum on any device (Kerbl et al., 3D Gaussian
Splatting, 2023, Eq. 3). A pixel's Gaussians, from near to far, have

    alpha_k = min(0.999, opacity_k exp(-sigma_k)),  sigma_k = (x - m_k)^T C_k (x - m_k) / 2,
    colour = sum_k w_k c_k,  w_k = alpha_k prod_{j < k} (1 - alpha_j),

where those with alpha below 1/255 count as nothing, and the sum ends before the transmittance would
fall to 1e-4. Both limits are gsplat's. It also leaves out what lies in tiles that the square of
three standard deviations doesn't touch; here the result does not depend on tiles.

The image is divided into tiles, each of which gathers the Gaussians that reach it in order of
depth. Tiles with similar numbers of Gaussians are computed together, a few at a time so that all
fits the processor's cache. sigma is a polynomial in a pixel's place within its tile, so that it,
and in the backward pass the gradients of means and conics, are matrix products. The backward pass
computes the weights again instead of keeping them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TILE = 8
"""Edge of a tile in pixels."""
LEAST_ALPHA = 1 / 255
"""Below this a Gaussian counts as nothing in a pixel."""
MOST_ALPHA = 0.999
LEAST_TRANSMITTANCE = 1e-4
"""A pixel's sum ends before the transmittance would fall to this."""
_ELEMENTS = 2**16
"""Tiles x Gaussians x pixels that are computed together."""


def composite(
    means2d: Float[Tensor, "c n 2"],
    conics: Float[Tensor, "c n 3"],
    colors: Float[Tensor, "c n d"],
    opacities: Float[Tensor, "c n"],
    *,
    radii: Int[Tensor, "c n"],
    depths: Float[Tensor, "c n"],
    width: int,
    height: int,
    absgrad: bool = False,
) -> tuple[Float[Tensor, "c h w d"], Float[Tensor, "c h w 1"]]:
    """Composite Gaussians over black, differentiably in the first four arguments.

    Args:
        means2d: Centres of the Gaussians in pixels, for each camera; a pixel's middle is at 0.5.
        conics: Inverse covariances in 1 / pixel^2, as (xx, xy, yy).
        colors: Any values to composite, such as RGB and depth.
        opacities: In [0, 1].
        radii: Gaussians with 0 are left out.
        depths: What is nearer is in front; of equals, the first.
        width: Width of the image in pixels.
        height: Its height.
        absgrad: Whether the backward pass sets `means2d.absgrad`: for each Gaussian the sum over
            pixels of the absolute values of its gradient, by which AbsGS densifies.

    Returns:
        The sums of values by weight, and the sums of weights: the opacity of each pixel.
    """
    plan = _Plan.of(means2d, conics, opacities, radii=radii, depths=depths, size=(height, width))
    values, opacity = _Composite.apply(means2d, conics, colors, opacities, plan, absgrad)  # pyright: ignore[reportGeneralTypeIssues]
    return values, opacity[..., None]


@dataclass(frozen=True)
class _Plan:
    """Which Gaussians each tile composites.

    Gaussians are numbered through all cameras, and so are tiles.
    """

    size: tuple[int, int]
    """Height and width of the image."""
    gaussian: Int[Tensor, "pairs"]
    """The Gaussian of each pair of tile and Gaussian, by tile and then by depth."""
    first: Int[Tensor, "tiles"]
    """The first pair of each tile."""
    count: Int[Tensor, "tiles"]
    """The number of its pairs."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles in an image."""
        return -(-self.size[0] // TILE), -(-self.size[1] // TILE)

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        means2d: Float[Tensor, "c n 2"],
        conics: Float[Tensor, "c n 3"],
        opacities: Float[Tensor, "c n"],
        *,
        radii: Int[Tensor, "c n"],
        depths: Float[Tensor, "c n"],
        size: tuple[int, int],
    ) -> _Plan:
        """Find the tiles that each Gaussian reaches with an alpha of at least `LEAST_ALPHA`."""
        cameras, n = radii.shape
        order = depths.flatten().argsort(stable=True)
        # alpha >= LEAST_ALPHA where sigma <= reach.
        reach = (opacities / LEAST_ALPHA).clamp(min=1e-9).log().flatten()[order]
        mean, conic = means2d.flatten(0, 1)[order], conics.flatten(0, 1)[order]
        determinant = conic[:, 0] * conic[:, 2] - conic[:, 1] ** 2
        # The box of the ellipse sigma = reach, a hair larger than rounding makes it.
        variance = conic[:, [2, 0]] / determinant[:, None]
        extent = (2 * reach[:, None].clamp(min=0) * variance).sqrt() + 1e-3
        height, width = size
        rows, columns = -(-height // TILE), -(-width // TILE)
        edge = mean.new_tensor([columns, rows])
        # The first and last pixel's middle within the box, as tiles.
        low = (((mean - extent - 0.5).ceil() / TILE).floor().clamp(min=0)).minimum(edge)
        high = ((mean + extent - 0.5).floor() / TILE).floor().clamp(min=-1).minimum(edge - 1)
        across, down = (high - low + 1).clamp(min=0).long().unbind(1)
        seen = (reach >= 0) & (radii.flatten()[order] > 0) & (determinant > 0)
        number = across * down * seen
        pair = torch.arange(n * cameras, device=order.device).repeat_interleave(number)
        within = torch.arange(len(pair), device=order.device) - (number.cumsum(0) - number)[pair]
        row = low[pair, 1].long() + within // across[pair]
        column = low[pair, 0].long() + within % across[pair]
        corner = torch.stack([column, row], dim=1) * TILE + 0.5 - mean[pair]
        near = _least_sigma(conic[pair], corner) <= reach[pair] + 1e-3
        pair, row, column = pair[near], row[near], column[near]
        gaussian = order[pair]
        tile = (gaussian // max(n, 1) * rows + row) * columns + column
        tile, by_tile = tile.sort(stable=True)
        count = tile.bincount(minlength=cameras * rows * columns)
        return cls(size, gaussian[by_tile], count.cumsum(0) - count, count)

    def batches(self) -> Iterator[tuple[Int[Tensor, "b"], int]]:
        """Tiles with similar numbers of Gaussians, and their largest number."""
        filled = self.count.nonzero()[:, 0]
        tiles = filled[self.count[filled].argsort(stable=True)]
        counts = self.count[tiles].tolist()
        begin = 0
        while begin < len(tiles):
            end, least = begin + 1, counts[begin]
            while end < len(tiles) and counts[end] <= max(1.25 * least, least + 4):
                if (end + 1 - begin) * counts[end] * TILE**2 > _ELEMENTS:
                    break
                end += 1
            yield tiles[begin:end], counts[end - 1]
            begin = end

    def gather(
        self, tiles: Int[Tensor, "b"], most: int
    ) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
        """The Gaussians of these tiles, and which of them are real; others fill up short tiles."""
        place = torch.arange(most, device=tiles.device)
        real = place < self.count[tiles, None]
        pair = (self.first[tiles, None] + place).clamp(max=len(self.gaussian) - 1)
        return self.gaussian[pair], real

    def corners(self, tiles: Int[Tensor, "b"]) -> Int[Tensor, "b 2"]:
        """The tiles' corners in pixels, as (x, y)."""
        rows, columns = self.grid
        return torch.stack([tiles % columns, tiles // columns % rows], dim=1) * TILE

    def to_tiles(self, image: Float[Tensor, "c h w d"]) -> Float[Tensor, "tiles pixels d"]:
        """Cut images into tiles; what lies beyond an image is 0."""
        (height, width), (rows, columns) = self.size, self.grid
        beyond = (0, 0, 0, columns * TILE - width, 0, rows * TILE - height)
        padded = torch.nn.functional.pad(image, beyond)
        parts = padded.view(len(image), rows, TILE, columns, TILE, image.shape[-1])
        return parts.transpose(2, 3).reshape(-1, TILE * TILE, image.shape[-1])

    def to_images(self, tiles: Float[Tensor, "tiles pixels d"]) -> Float[Tensor, "c h w d"]:
        """Join the tiles of images."""
        (height, width), (rows, columns) = self.size, self.grid
        parts = tiles.view(-1, rows, columns, TILE, TILE, tiles.shape[-1]).transpose(2, 3)
        return parts.reshape(-1, rows * TILE, columns * TILE, tiles.shape[-1])[:, :height, :width]


def _least_sigma(conic: Float[Tensor, "p 3"], corner: Float[Tensor, "p 2"]) -> Float[Tensor, "p"]:
    """The least sigma in tiles whose first pixel lies at these places relative to the mean."""
    a, b, c = conic.unbind(1)
    (left, top), (right, bottom) = corner.unbind(1), (corner + TILE - 1).unbind(1)
    found = []
    for x in (left, right):
        y = (-b / c * x).clamp(top, bottom)
        found.append(a * x * x / 2 + b * x * y + c * y * y / 2)
    for y in (top, bottom):
        x = (-b / a * y).clamp(left, right)
        found.append(a * x * x / 2 + b * x * y + c * y * y / 2)
    inside = (left <= 0) & (right >= 0) & (top <= 0) & (bottom >= 0)
    return torch.stack(found).amin(0).where(~inside, 0.0)


def _pixels(like: Tensor) -> tuple[Float[Tensor, "pixels"], Float[Tensor, "pixels"]]:
    """The middles of a tile's pixels, row by row: all x, and all y."""
    along = torch.arange(TILE, device=like.device, dtype=like.dtype) + 0.5
    return along.repeat(TILE), along.repeat_interleave(TILE)


@dataclass(frozen=True)
class _Batch:
    """The Gaussians of a few tiles, and their weights in all pixels."""

    tiles: Int[Tensor, "b"]
    gaussian: Int[Tensor, "b k"]
    mean: Float[Tensor, "b k 2"]
    """Relative to the tile's corner."""
    conic: Float[Tensor, "b k 3"]
    gauss: Float[Tensor, "b k pixels"]
    """exp(-sigma)."""
    alpha: Float[Tensor, "b k pixels"]
    """0 where a Gaussian counts as nothing, or lies behind the end of the sum."""
    free: Float[Tensor, "b k pixels"]
    """The transmittance in front of each Gaussian."""


def _batches(
    plan: _Plan,
    means2d: Float[Tensor, "m 2"],
    conics: Float[Tensor, "m 3"],
    opacities: Float[Tensor, "m"],
) -> Iterator[_Batch]:
    x, y = _pixels(means2d)
    powers = torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)])
    for tiles, most in plan.batches():
        gaussian, real = plan.gather(tiles, most)
        mean = means2d[gaussian] - plan.corners(tiles)[:, None].to(means2d)
        conic = conics[gaussian]
        (a, b, c), (m, n) = conic.unbind(-1), mean.unbind(-1)
        rest = a * m * m / 2 + b * m * n + c * n * n / 2
        sigma = (
            torch.stack([a / 2, b, c / 2, -a * m - b * n, -b * m - c * n, rest], dim=-1) @ powers
        )
        gauss = sigma.neg_().exp_()
        alpha = (gauss * (opacities[gaussian] * real)[..., None]).clamp_(max=MOST_ALPHA)
        alpha.masked_fill_(alpha < LEAST_ALPHA, 0.0)
        behind = (1 - alpha).cumprod(dim=1)
        alpha.masked_fill_(behind <= LEAST_TRANSMITTANCE, 0.0)
        free = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], dim=1)
        yield _Batch(tiles, gaussian, mean, conic, gauss, alpha, free)


class _Composite(torch.autograd.Function):
    """The sum and its gradient; see the module."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Float[Tensor, "c n 2"],
        conics: Float[Tensor, "c n 3"],
        colors: Float[Tensor, "c n d"],
        opacities: Float[Tensor, "c n"],
        plan: _Plan,
        absgrad: bool,
    ) -> tuple[Float[Tensor, "c h w d"], Float[Tensor, "c h w"]]:
        """The sums of values, and of weights."""
        flat = colors.flatten(0, 1)
        # The weights are the values of a colour of ones.
        flat = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1)
        sums = flat.new_zeros(len(plan.count), TILE * TILE, flat.shape[1])
        shapes = means2d.flatten(0, 1), conics.flatten(0, 1), opacities.flatten()
        for batch in _batches(plan, *shapes):
            weight = batch.alpha * batch.free
            sums[batch.tiles] = weight.transpose(1, 2) @ flat[batch.gaussian]
        images = plan.to_images(sums)
        ctx.save_for_backward(means2d, conics, colors, opacities)
        # The tensor that the caller holds, for its attribute absgrad.
        ctx.plan, ctx.absgrad, ctx.means2d = plan, absgrad, means2d
        return images[..., :-1].contiguous(), images[..., -1].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of means, conics, colours and opacities."""
        means2d, conics, colors, opacities = ctx.saved_tensors
        plan: _Plan = ctx.plan
        flat = colors.flatten(0, 1)
        flat = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1)
        shapes = means2d.flatten(0, 1), conics.flatten(0, 1), opacities.flatten()
        given = plan.to_tiles(torch.cat([gradients[0], gradients[1][..., None]], dim=-1))
        to_mean, to_conic, to_opacity = (torch.zeros_like(shape) for shape in shapes)
        to_color, absolute = torch.zeros_like(flat), torch.zeros_like(to_mean)
        x, y = _pixels(means2d)
        powers = torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)], dim=1)
        for batch in _batches(plan, *shapes):
            wanted, gaussian = given[batch.tiles], batch.gaussian.flatten()
            weight = batch.alpha * batch.free
            to_color.index_add_(0, gaussian, (weight @ wanted).flatten(0, 1))
            worth = flat[batch.gaussian] @ wanted.transpose(1, 2)
            gain = weight * worth
            # What lies behind a Gaussian loses what it takes.
            behind = gain.sum(1, keepdim=True) - gain.cumsum(1)
            to_alpha = batch.free * worth - behind / (1 - batch.alpha)
            counts = (batch.alpha > 0) & (batch.alpha < MOST_ALPHA)
            to_gauss = to_alpha.masked_fill_(~counts, 0.0)
            to_opacity.index_add_(0, gaussian, (to_gauss * batch.gauss).sum(2).flatten())
            # alpha = opacity exp(-sigma), whose derivative by sigma is -alpha.
            to_sigma = to_gauss.mul_(batch.alpha).neg_()
            moments = to_sigma @ powers
            xx, xy, yy, x1, y1, one = moments.unbind(-1)
            (a, b, c), (m, n) = batch.conic.unbind(-1), batch.mean.unbind(-1)
            to_conic.index_add_(
                0,
                gaussian,
                torch.stack(
                    [
                        (xx - 2 * m * x1 + m * m * one) / 2,
                        xy - m * y1 - n * x1 + m * n * one,
                        (yy - 2 * n * y1 + n * n * one) / 2,
                    ],
                    dim=-1,
                ).flatten(0, 1),
            )
            along_x, along_y = x1 - m * one, y1 - n * one
            moved = torch.stack([-a * along_x - b * along_y, -b * along_x - c * along_y], dim=-1)
            to_mean.index_add_(0, gaussian, moved.flatten(0, 1))
            if ctx.absgrad:
                absolute.index_add_(0, gaussian, _absolute(batch, to_sigma, x, y).flatten(0, 1))
        if ctx.absgrad:
            ctx.means2d.absgrad = absolute.view_as(means2d)
        return (
            to_mean.view_as(means2d),
            to_conic.view_as(conics),
            to_color[:, :-1].reshape(colors.shape),
            to_opacity.view_as(opacities),
            None,
            None,
        )


def _absolute(
    batch: _Batch,
    to_sigma: Float[Tensor, "b k pixels"],
    x: Float[Tensor, "pixels"],
    y: Float[Tensor, "pixels"],
) -> Float[Tensor, "b k 2"]:
    """The sums over pixels of the absolute gradients of x and y of the means."""
    (a, b, c), (m, n) = batch.conic.unbind(-1), batch.mean.unbind(-1)
    place = torch.stack([x, y, torch.ones_like(x)])
    found = []
    for one, other in ((a, b), (b, c)):
        slope = torch.stack([one, other, -one * m - other * n], dim=-1) @ place
        found.append((slope * to_sigma).abs_().sum(2))
    return torch.stack(found, dim=-1)
