"""How surfaces look in a training view: own colour, lit, or lit without colour.

As in DreamFusion (Poole et al. 2022, 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Shading = Literal["albedo", "lambertian", "textureless"]


@dataclass(frozen=True)
class Light:
    """Distant lights, one for each of m views, rays or points, and the rest from everywhere.

    Attributes:
        toward: Unit vectors towards the lights.
        ambient: Share of light without direction, in [0, 1].
    """

    toward: Float[Tensor, "m 3"]
    ambient: float


def draw_light(
    eye: Float[Tensor, "n 3"], *, spread: float, ambient: float, generator: torch.Generator
) -> Light:
    """A light near each camera: its direction plus Gaussian noise.

    Args:
        eye: The cameras' positions.
        spread: Deviation of the noise, in units of a camera's distance.
        ambient: Share of light without direction.
        generator: On the CPU.
    """
    noise = torch.randn(eye.shape, generator=generator).to(eye)
    toward = torch.nn.functional.normalize(eye, dim=-1) + spread * noise
    return Light(torch.nn.functional.normalize(toward, dim=-1), ambient)


def draw_shading(shares: tuple[float, float, float], *, generator: torch.Generator) -> Shading:
    """Albedo, lambertian or textureless, with these probabilities."""
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
    """Colours of Lambertian surfaces: albedo (ambient + (1 - ambient) max(n . l, 0)).

    Textureless surfaces are white; albedo is neither lit nor shaded.
    """
    if shading == "albedo":
        return albedo
    facing = (normal * light.toward).sum(-1, keepdim=True).clamp(min=0)
    lit = light.ambient + (1 - light.ambient) * facing
    return lit.expand_as(albedo) if shading == "textureless" else albedo * lit
