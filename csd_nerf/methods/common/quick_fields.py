"""What is slow on a CPU in nerfstudio's fields: hash grids, by compiled loops, and contraction.

Their torch code takes more than half of a training step. Features are the same to rounding,
contracted points to the last bit. Importing this module imports numba.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.utils.math import Gaussians
from torch import Tensor
from torch.autograd.function import once_differentiable

from csd_nerf.methods.common.loops import compiled, in_threads

_FACTORS = (1, 2654435761, 805459861)
"""Of the hash of Instant-NGP (Müller et al. 2022, Eq. 4)."""


def speed_up_fields(module: torch.nn.Module) -> None:
    """Let all of nerfstudio's hash grids and contractions in a module be the quick ones here."""
    for part in module.modules():
        if type(part) is HashEncoding:
            part.__class__ = CompiledHashEncoding
        elif type(part) is SceneContraction and part.order == math.inf:
            part.__class__ = CubeContraction


class CubeContraction(SceneContraction):
    """A contraction by the largest coordinate, without torch's norm, which takes 30 times as long.

    It is Mip-NeRF 360's (Barron et al. 2022, Eq. 10) with another norm, as nerfacto has it.
    """

    def forward(self, positions: Any) -> Any:
        """Contract points to the cube from -2 to 2; those in the cube from -1 to 1 stay."""
        if isinstance(positions, Gaussians):
            return super().forward(positions)
        size = positions.abs().amax(-1, keepdim=True)
        return torch.where(size < 1, positions, (2 - 1 / size) * (positions / size))


class CompiledHashEncoding(HashEncoding):
    """A hash grid whose torch code is replaced on the CPU."""

    def pytorch_fwd(self, in_tensor: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points d"]:
        """Features of points in [0, 1], level by level."""
        if in_tensor.device.type != "cpu":
            return super().pytorch_fwd(in_tensor)
        table = self.hash_table.view(self.num_levels, self.hash_table_size, -1)
        scales = self.scalings.to(in_tensor)
        found: Any = _Features.apply(in_tensor.reshape(-1, 3), scales, table)
        return found.view(*in_tensor.shape[:-1], self.get_out_dim())


class _Features(torch.autograd.Function):
    """Features of points, with gradients by points and table."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Float[Tensor, "n 3"],
        scales: Float[Tensor, "levels"],
        table: Float[Tensor, "levels entries f"],
    ) -> Float[Tensor, "n d"]:
        """Interpolate the table's entries at the corners of each point's cells."""
        features = table.new_zeros(len(points), len(table), table.shape[2])
        in_threads(read_entries, len(points), points, scales, table, features)
        ctx.save_for_backward(points, scales, table)
        return features.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        """The gradients by the points and by the table, if wanted."""
        points, scales, table = ctx.saved_tensors
        given = gradients[0].reshape(len(points), len(table), table.shape[2])
        to_points = to_table = None
        if ctx.needs_input_grad[0]:
            to_points = torch.zeros_like(points)
            in_threads(add_to_points, len(points), points, scales, table, given, to_points)
        if ctx.needs_input_grad[2]:
            to_table = torch.zeros_like(table)
            in_threads(add_to_entries, len(table), points, scales, given, to_table)
        return to_points, None, to_table


@compiled
@no_type_check
def _cell(point, scale, hashes, shares):
    """Fill in, by axis and side of a point's cell, the hash and the share in the weight."""
    one = shares.dtype.type(1)
    for axis in range(3):
        scaled = point[axis] * scale
        low = math.floor(scaled)
        high = low + 1 if scaled > low else low
        hashes[axis, 0] = np.int64(low) * _FACTORS[axis]
        hashes[axis, 1] = np.int64(high) * _FACTORS[axis]
        shares[axis, 1] = scaled - shares.dtype.type(low)
        shares[axis, 0] = one - shares[axis, 1]


@compiled
@no_type_check
def read_entries(begin, end, points, scales, table, features):
    """Fill features, shape (n, levels, f), of some points from a table (levels, entries, f).

    The number of entries is a power of two.
    """
    levels, entries, size = table.shape
    hashes, shares = np.empty((3, 2), np.int64), np.empty((3, 2), points.dtype)
    for number in range(begin, end):
        for level in range(levels):
            _cell(points[number], scales[level], hashes, shares)
            for corner in range(8):
                i, j, k = corner & 1, corner >> 1 & 1, corner >> 2
                entry = (hashes[0, i] ^ hashes[1, j] ^ hashes[2, k]) & (entries - 1)
                weight = shares[0, i] * shares[1, j] * shares[2, k]
                for f in range(size):
                    features[number, level, f] += weight * table[level, entry, f]


@compiled
@no_type_check
def add_to_points(begin, end, points, scales, table, gradient, found):
    """Add the gradients by the features to those by some points."""
    levels, entries, size = table.shape
    hashes, shares = np.empty((3, 2), np.int64), np.empty((3, 2), points.dtype)
    for number in range(begin, end):
        for level in range(levels):
            _cell(points[number], scales[level], hashes, shares)
            for corner in range(8):
                i, j, k = corner & 1, corner >> 1 & 1, corner >> 2
                entry = (hashes[0, i] ^ hashes[1, j] ^ hashes[2, k]) & (entries - 1)
                worth = points.dtype.type(0)
                for f in range(size):
                    worth += table[level, entry, f] * gradient[number, level, f]
                worth *= scales[level]
                found[number, 0] += (2 * i - 1) * shares[1, j] * shares[2, k] * worth
                found[number, 1] += (2 * j - 1) * shares[0, i] * shares[2, k] * worth
                found[number, 2] += (2 * k - 1) * shares[0, i] * shares[1, j] * worth


@compiled
@no_type_check
def add_to_entries(begin, end, points, scales, gradient, found):
    """Add the gradients by the features to those by some levels of the table."""
    entries, size = found.shape[1:]
    hashes, shares = np.empty((3, 2), np.int64), np.empty((3, 2), points.dtype)
    for level in range(begin, end):
        for number in range(len(points)):
            _cell(points[number], scales[level], hashes, shares)
            for corner in range(8):
                i, j, k = corner & 1, corner >> 1 & 1, corner >> 2
                entry = (hashes[0, i] ^ hashes[1, j] ^ hashes[2, k]) & (entries - 1)
                weight = shares[0, i] * shares[1, j] * shares[2, k]
                for f in range(size):
                    found[level, entry, f] += weight * gradient[number, level, f]
