"""Alpha compositing of Gaussians that are projected to the image plane, on the CPU.

gsplat composites in CUDA only. This is the same sum (Kerbl et al., 3D Gaussian Splatting, 2023,
Eq. 3). A pixel's Gaussians, from near to far, have

    alpha_k = min(0.999, opacity_k exp(-sigma_k)),  sigma_k = (x - m_k)^T C_k (x - m_k) / 2,
    colour = sum_k w_k c_k,  w_k = alpha_k prod_{j < k} (1 - alpha_j),

where those with alpha below 1/255 count as nothing, and the sum ends before the transmittance would
fall to 1e-4. Both limits are gsplat's. It also leaves out what lies in tiles that the square of
three standard deviations doesn't touch; here the result does not depend on tiles.

The image is divided into tiles, each of which gathers the Gaussians that reach it in order of
depth. `tiles` has the loops over pixels. The backward pass computes the weights again instead of
keeping them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from csd_nerf.methods.common.loops import as_array, in_threads
from csd_nerf.methods.csd_edit_splat.tiles import (
    TILE,
    composite_tiles,
    differentiate_tiles,
    place_pairs,
)


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
        return _grid(self.size)

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
        rows, columns = _grid(size)
        order = depths.flatten().argsort(stable=True)
        shapes = means2d.flatten(0, 1), conics.flatten(0, 1), opacities.flatten()
        seen = (radii > 0).flatten()
        arrays = [as_array(part) for part in (order, *shapes, seen)]
        given = (*arrays, radii.shape[1], (rows, columns), size)
        count = torch.zeros(len(radii) * rows * columns, dtype=torch.long)
        place_pairs(*given, as_array(count), as_array(torch.zeros(0, dtype=torch.long)))
        last = count.cumsum(0)
        gaussian = torch.zeros(int(last[-1]), dtype=torch.long)
        place_pairs(*given, as_array(last - count), as_array(gaussian))
        return cls(size, gaussian, last - count, count)


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles in an image of this height and width."""
    return -(-size[0] // TILE), -(-size[1] // TILE)


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
        # The weights are the values of a colour of ones.
        values = torch.cat([colors, torch.ones_like(colors[..., :1])], dim=-1)
        sums = colors.new_zeros(len(colors), *plan.size, values.shape[-1])
        given = [part.flatten(0, 1) for part in (means2d, conics, values)]
        _run(composite_tiles, plan, *given, opacities.flatten(), sums)
        ctx.save_for_backward(means2d, conics, values, opacities, sums)
        # The tensor that the caller holds, for its attribute absgrad.
        ctx.plan, ctx.absgrad, ctx.means2d = plan, absgrad, means2d
        return sums[..., :-1].contiguous(), sums[..., -1].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of means, conics, colours and opacities."""
        means2d, conics, values, opacities, sums = ctx.saved_tensors
        plan: _Plan = ctx.plan
        wanted = torch.cat([gradients[0], gradients[1][..., None]], dim=-1)
        sizes = [2, 3, 1, 2, values.shape[-1]]
        pairs = sums.new_zeros(len(plan.gaussian), sum(sizes))
        given = [part.flatten(0, 1) for part in (means2d, conics, values)]
        _run(differentiate_tiles, plan, *given, opacities.flatten(), sums, wanted, pairs)
        found = sums.new_zeros(opacities.numel(), sum(sizes))
        found.index_add_(0, plan.gaussian, pairs)
        mean, conic, opacity, absolute, color = found.split(sizes, dim=1)
        if ctx.absgrad:
            ctx.means2d.absgrad = absolute.reshape(means2d.shape)
        return (
            mean.reshape(means2d.shape),
            conic.reshape(conics.shape),
            color.reshape(values.shape)[..., :-1],
            opacity.reshape(opacities.shape),
            None,
            None,
        )


def _run(
    loop: Callable[..., None],
    plan: _Plan,
    means: Float[Tensor, "m 2"],
    conics: Float[Tensor, "m 3"],
    values: Float[Tensor, "m d"],
    opacities: Float[Tensor, "m"],
    sums: Float[Tensor, "c h w d"],
    *more: Tensor,
) -> None:
    """Call a loop of `tiles`, which fills its last array."""
    pairs = plan.gaussian, plan.first, plan.count
    shapes = means, conics, values, opacities
    in_threads(loop, len(plan.count), *pairs, *shapes, sums, plan.grid, *more)
