"""Mixing of residuals by patches: cells of images that show the same thing share their residuals.

Why: the kernel of Eq. 8 compares whole latents. In thousands of dimensions all distances between
images are alike, so that its values say little about what the images show. Structured SVGD gives
each coordinate its own kernel on the few coordinates that matter for it (message passing SVGD, Zhuo
et al., ICML 2018, Eq. 8; structured SVGD with local kernels, Wang et al., ICML 2018).

Derivation: take as particle not the image but the patch, that is cell p of image i with its
neighbours. What an instruction makes of a patch depends on the source's patch. So patches whose
sources are alike are particles of one distribution. SVGD with a kernel k on the source's patches
gives, in descent form and with rows normalised (as `normalize="rowsum"` does),

    g_i(p) = sum_{j,q} k(f_i(p), f_j(q)) r_j(q) / sum_{j,q} k(f_i(p), f_j(q)),
    k(f, f') = exp(-|f - f'|^2 / h).

Symbols:
    f_i(p): features, the 3x3 neighbourhood of cell p in the source's latent.
    h: bandwidth, a fraction of the median squared distance of features.
    r_j(q): residual of image j at cell q.

Two things differ from SVGD. The kernel does not depend on the latents that are edited, so its
gradient is zero and there is no repulsion. And the image's own other places keep out: their kernel
values are added to the weight of cell p itself. So one image alone follows its own residual, which
makes CSD-Edit with N = 1 its editing form of SDS, as with the kernel of Eq. 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from csd_nerf.core.copies import sent
from csd_nerf.core.kernels import median_bandwidth, squared_distances

PATCH = 3
"""Edge of a patch in cells."""
_SAMPLE = 512
"""Number of cells of all images, about, whose distances give the median."""


@dataclass(frozen=True)
class PatchKernel:
    """Weights by which the cells of n images take over each other's residuals."""

    weights: Float[Tensor, "m m"]
    """Row-normalised weights of all m cells, image by image and row by row; see the module."""
    grid: tuple[int, int]
    """Height and width of an image in cells of the kernel."""

    def mix(self, residual: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Mix the residuals of all images.

        If the kernel's cells are larger than the latent's, residuals are averaged over the larger
        cells, mixed, and the change is added (bilinear): each image keeps its own detail.
        """
        own = functional.adaptive_avg_pool2d(residual, self.grid)
        n, channels = own.shape[:2]
        cells = own.flatten(2).transpose(1, 2).flatten(0, 1)
        mixed = (self.weights @ cells.to(self.weights)).view(n, -1, channels).transpose(1, 2)
        mixed = mixed.reshape(own.shape).to(residual)
        if residual.shape[2:] == own.shape[2:]:
            return mixed
        change = functional.interpolate(
            mixed - own, size=residual.shape[2:], mode="bilinear", align_corners=False
        )
        return residual + change


@torch.no_grad()
def patch_kernel(
    source: Float[Tensor, "n c h w"], *, bandwidth: float = 0.1, max_cells: int = 4096
) -> PatchKernel:
    """The patch kernel of a set of images.

    Args:
        source: Clean latents of the source images.
        bandwidth: h as a fraction of the median squared distance of features.
        max_cells: Largest number of cells of all images together, at least one per image. Larger
            latents are averaged over squares of cells. The kernel takes 4 max_cells^2 bytes.

    Raises:
        ValueError: If the bandwidth is not positive, or there are more images than `max_cells`.
    """
    n, _, height, width = source.shape
    if not bandwidth > 0:
        raise ValueError(f"patch_bandwidth needs to be positive, got {bandwidth}.")
    if n > max_cells:
        raise ValueError(
            f"patch_cells needs at least one cell for each of {n} images, got {max_cells}."
        )
    grid = _grid(height, width, max_cells // n)
    with torch.autocast(source.device.type, enabled=False):
        features = _features(functional.adaptive_avg_pool2d(source.float(), grid))
        cells = grid[0] * grid[1]
        squared = squared_distances(features).view(n, cells, n, cells)
        h = median_bandwidth(_sample(squared), divisor=1 / bandwidth)
        blocks = squared.div_(-h).exp_()
        # The diagonal is a view: row i holds the block of image i with itself.
        own = blocks.diagonal(dim1=0, dim2=2)
        own.copy_(torch.diag_embed(own.sum(1).T).permute(1, 2, 0))
        weights = blocks.flatten(2).flatten(0, 1)
        weights /= weights.sum(1, keepdim=True)
        return PatchKernel(weights, grid)


def _grid(height: int, width: int, cells: int) -> tuple[int, int]:
    """The finest grid of at most `cells` cells, each a square of whole cells (edges may differ)."""
    edge = 1
    while math.ceil(height / edge) * math.ceil(width / edge) > cells:
        edge += 1
    return math.ceil(height / edge), math.ceil(width / edge)


def _sample(squared: Float[Tensor, "n l n l"]) -> Float[Tensor, "m m"]:
    """Distances of some cells, the same ones of each image, so that images can change places."""
    n, cells = squared.shape[:2]
    drawn = torch.randperm(cells, generator=torch.Generator().manual_seed(0))
    some = sent(drawn[: max(_SAMPLE // n, 1)], squared.device)
    return squared[:, some][:, :, :, some].flatten(2).flatten(0, 1)


def _features(latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "m f"]:
    """The neighbourhood of each cell; cells outside the image repeat those of its edge."""
    padded = functional.pad(latent, [PATCH // 2] * 4, mode="replicate")
    return functional.unfold(padded, PATCH).transpose(1, 2).flatten(0, 1)
