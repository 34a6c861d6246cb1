"""Fields of an object: density and albedo at points within the unit sphere.

Density is exp(raw + bias). The bias falls linearly with the distance from the centre, so that an
untrained field is a blob there (DreamFusion, Appendix A.2). Albedo is the colour without light.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.encodings import HashEncoding, NeRFEncoding, SHEncoding
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn

FieldKind = Literal["mlp", "hash"]
Density = Callable[[Tensor], Tensor]
"""Points (m 3) to densities (m)."""

_TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


class ResidualBlock(nn.Module):
    """x + W2 silu(W1 silu(x)), plus biases; W2 = 0 at initialisation, which gives the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Float[Tensor, "m width"]) -> Float[Tensor, "m width"]:
        """Apply the block."""
        silu = nn.functional.silu
        return x + self.second(silu(self.first(silu(x))))


def build_mlp(*, blocks: int, width: int) -> nn.Module:
    """The paper's coordinate MLP with residual blocks (CSD, Appendix C.2): points to 4 values."""
    encoding = NeRFEncoding(
        in_dim=3,
        num_frequencies=6,
        min_freq_exp=0.0,
        max_freq_exp=5.0,
        include_input=True,
        implementation="torch",
    )
    layers = [ResidualBlock(width) for _ in range(blocks)]
    first, last = nn.Linear(encoding.get_out_dim(), width), nn.Linear(width, 4)
    return nn.Sequential(encoding, first, *layers, nn.SiLU(), last)


def build_hash_grid(
    *,
    levels: int,
    max_res: int,
    log2_size: int,
    width: int,
    implementation: Literal["tcnn", "torch"],
) -> nn.Module:
    """A hash grid with a small MLP, faster than `build_mlp`: points to 4 values."""
    # Late: it imports numba.
    from csd_nerf.methods.common.quick_fields import speed_up_fields

    encoding = HashEncoding(
        num_levels=levels,
        min_res=8,
        max_res=max_res,
        log2_hashmap_size=log2_size,
        implementation=implementation,
    )
    head = MLP(
        in_dim=encoding.get_out_dim(),
        num_layers=2,
        layer_width=width,
        out_dim=4,
        activation=nn.ReLU(),
        implementation=implementation,
    )
    grid = nn.Sequential(encoding, head)
    speed_up_fields(grid)
    return grid


class ObjectField(nn.Module):
    """Density and albedo of one object, and the colour of its background."""

    def __init__(self, base: nn.Module, *, bias: float, bias_radius: float) -> None:
        """Wrap a network.

        Args:
            base: Network from points in the unit cube [0, 1]^3 to raw density and raw RGB.
            bias: Bias of the raw density at the centre.
            bias_radius: Distance from the centre at which the bias is zero.
        """
        super().__init__()
        self.base = base
        self.background_encoding = SHEncoding(levels=3, implementation="torch")
        self.background = nn.Sequential(
            nn.Linear(self.background_encoding.get_out_dim(), 16), nn.ReLU(), nn.Linear(16, 3)
        )
        self._bias, self._bias_radius = bias, bias_radius

    def forward(
        self, points: Float[Tensor, "m 3"]
    ) -> tuple[Float[Tensor, "m"], Float[Tensor, "m 3"]]:
        """Density, and albedo in [0, 1], at points within the unit sphere around the origin."""
        raw = self.base(0.5 * (points + 1)).float()
        bias = self._bias * (1 - points.norm(dim=-1) / self._bias_radius)
        return trunc_exp(raw[:, 0] + bias), raw[:, 1:].sigmoid()

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        """Density at points, without albedo."""
        return self(points)[0]

    def behind(self, direction: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """Colour in [0, 1] of the background in each ray's direction."""
        return self.background(self.background_encoding(direction)).sigmoid()


def normals(density: Density, points: Float[Tensor, "m 3"], *, step: float) -> Float[Tensor, "m 3"]:
    """Unit normals: the negative, normalised gradient of the density's logarithm.

    The gradient is computed from the values at the four corners of a small tetrahedron. So normals
    are differentiable even if the field has no second derivatives.

    Args:
        density: The field's density.
        points: Points at which to compute normals.
        step: Half the edge, in world units, of the cube that the tetrahedron's corners belong to.
            Smaller details are smoothed.
    """
    # Half precision would round the small differences away.
    with torch.autocast(points.device.type, enabled=False):
        corners = torch.tensor(_TETRAHEDRON).to(points)
        around = points[None] + step * corners[:, None]
        values = density(around.flatten(0, 1).clamp(-1, 1)).view(4, -1)
        # Logarithms, because densities differ by orders of magnitude; the direction is the same.
        gradient = torch.einsum("km,kd->md", values.clamp(min=1e-6).log(), corners)
        return -nn.functional.normalize(gradient, dim=-1, eps=1e-4)
