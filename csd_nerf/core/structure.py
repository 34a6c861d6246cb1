"""Images of an edit's structure, such as edges or depth, that a model follows beside its text.

A structure image has one channel in [0, 1]. Among the rows of a model's input it is stored at the
resolution of latent cells, so that whatever cuts latents cuts it too: the pixels of a cell become
its channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

CONTROL = "control"
"""Name of the rows with a structure image."""

STRUCTURE_ROWS = (CONTROL,)
"""Names of the rows that belong to every estimate of a model. Guidance doesn't weigh them: they are
no condition that an estimate lacks, as one without the source image or without the text does."""

_TRIMMED = 0.005
"""Share of the pixels at each end of the depths that may saturate. A renderer's stray points before
the camera would otherwise leave all else in one shade."""


def pack_structure(
    image01: Float[Tensor, "n 1 H W"], *, cell_size: int
) -> Float[Tensor, "n {cell_size**2} H//{cell_size} W//{cell_size}"]:
    """Move the pixels of each cell to channels, row by row; edges are multiples of the cell's."""
    return pixel_unshuffle(image01, cell_size)


def unpack_structure(
    packed: Float[Tensor, "n {cell_size**2} h w"], *, cell_size: int
) -> Float[Tensor, "n 1 {cell_size}*h {cell_size}*w"]:
    """The structure image of what `pack_structure` returned."""
    return pixel_shuffle(packed, cell_size)


def depth_structure(depth: Float[Tensor, "h w"]) -> Float[Tensor, "1 h w"]:
    """Inverse depth of a view between its smallest and largest value: near is 1, far is 0.

    This is the form of MiDaS's estimates (Ranftl et al. 2020), on which ControlNets for depth were
    trained. The nearest and the farthest half percent of the pixels may saturate. Depths that are
    not positive, or not numbers, count as infinitely far. If there are no two depths, the image is
    0 everywhere.

    Args:
        depth: Distances from the camera, in any unit; infinity is allowed.
    """
    inverse = torch.where(depth > 0, depth.reciprocal(), 0.0).float()
    # A denormal's reciprocal is infinite.
    inverse = inverse.clamp(max=torch.finfo(torch.float32).max / 4)
    ordered = inverse.flatten().sort().values
    last = len(ordered) - 1
    low, high = ordered[round(_TRIMMED * last)], ordered[last - round(_TRIMMED * last)]
    if not bool(high > low):
        return torch.zeros_like(inverse)[None]
    return ((inverse - low) / (high - low)).clamp(0, 1)[None]
