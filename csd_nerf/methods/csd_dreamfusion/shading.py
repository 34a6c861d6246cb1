"""Shading of surfaces as in DreamFusion (Poole et al. 2022, 3.1).

albedo: the colour without light. lambertian: the colour, lit. textureless: white, lit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Shading = Literal["albedo", "lambertian", "textureless"]


@dataclass(frozen=True)
class Light:
    """Distant lights, one for each of m views, rays or points, and ambient light.

    Attributes:
        toward: Unit vectors towards the lights.
        ambient: Share of ambient light, in [0, 1].
    """

    toward: Float[Tensor, "m 3"]
    ambient: float


def draw_light(
    eye: Float[Tensor, "n 3"], *, spread: float, ambient: float, generator: torch.Generator
) -> Light:
    """Draw a light for each camera, in the camera's direction plus Gaussian noise.

    Args:
        eye: Positions of the cameras.
        spread: Standard deviation of the noise that is added to the unit vector to the camera.
        ambient: Share of ambient light, in [0, 1].
        generator: Source of randomness, on the CPU.
    """
    noise = torch.randn(eye.shape, generator=generator).to(eye)
    toward = torch.nn.functional.normalize(eye, dim=-1) + spread * noise
    return Light(torch.nn.functional.normalize(toward, dim=-1), ambient)


def draw_shading(shares: tuple[float, float, float], *, generator: torch.Generator) -> Shading:
    """Draw a shading; `shares` are proportional to the probabilities of the three."""
    kinds: tuple[Shading, ...] = ("albedo", "lambertian", "textureless")
    index = torch.multinomial(torch.tensor(shares), 1, generator=generator)
    return kinds[int(index)]


def shade(
    albedo: Float[Tensor, "m 3"],
    normal: Float[Tensor, "m 3"],
    *,
    light: Light,
    shading: Shading,
) -> Float[Tensor, "m 3"]:
    """Colours of Lambertian surfaces: albedo * (ambient + (1 - ambient) max(n . l, 0)).

    The shading textureless replaces albedo by white; the shading albedo returns it without light.
    """
    if shading == "albedo":
        return albedo
    facing = (normal * light.toward).sum(-1, keepdim=True).clamp(min=0)
    lit = light.ambient + (1 - light.ambient) * facing
    return lit.expand_as(albedo) if shading == "textureless" else albedo * lit


def shade_active(
    albedo: Float[Tensor, "r k 3"],
    normal: Float[Tensor, "a 3"],
    active: Bool[Tensor, "r k"],
    *,
    light: Light,
    shading: Shading,
) -> Float[Tensor, "r k 3"]:
    """Shade the active samples. The others have almost no weight and stay unlit."""
    lit = shade(albedo[active], normal, light=light, shading=shading)
    unlit = torch.ones_like(albedo) if shading == "textureless" else albedo
    return unlit.index_put((active,), lit)


def normal_outputs(
    weights: Float[Tensor, "r k"],
    normal: Float[Tensor, "a 3"],
    active: Bool[Tensor, "r k"],
    directions: Float[Tensor, "r 3"],
) -> dict[str, Tensor]:
    """Rendered normals, a grey view lit from the camera, and the orientation loss.

    The loss is that of Ref-NeRF (Verbin et al. 2022): the mean over rays of
    sum_k w_k max(n_k . d, 0)^2, which penalises visible normals that face away from the camera.
    """
    whole = normal.new_zeros(*weights.shape, 3).index_put((active,), normal)
    away = (whole * directions[:, None]).sum(-1).clamp(min=0)
    orientation = (weights.detach() * away.square()).sum(1).mean()
    mean = torch.nn.functional.normalize((weights[..., None] * whole).sum(1), dim=-1, eps=1e-4)
    accumulation = weights.sum(1, keepdim=True)
    facing = -(mean * directions).sum(-1, keepdim=True).clamp(max=0)
    grey = (0.2 + 0.7 * facing).expand(-1, 3)
    return {
        "normals": (0.5 + 0.5 * mean * accumulation.clamp(0, 1)).clamp(0, 1),
        "textureless": accumulation * grey + (1 - accumulation),
        "orientation": orientation,
    }
