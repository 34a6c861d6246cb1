"""Pinhole cameras around a scene, and the rays through their pixels.

Frames: world z up; camera axes as in OpenGL and nerfstudio (x right, y up, looking along -z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras with square pixels and the principal point in the middle.

    Attributes:
        camera_to_world: Rotation and position, OpenGL axes.
        focal: Focal length in units of the image's longer edge.
    """

    camera_to_world: Float[Tensor, "s 3 4"]
    focal: Float[Tensor, "s"]


def look_at(eye: Float[Tensor, "s 3"], target: Float[Tensor, "s 3"]) -> Float[Tensor, "s 3 4"]:
    """Camera-to-world matrices of upright cameras at `eye` that look at `target` (OpenGL axes)."""
    backward = torch.nn.functional.normalize(eye - target, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(eye)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, backward), dim=-1)
    return torch.stack([right, torch.linalg.cross(backward, right), backward, eye], dim=-1)


def draw_cameras(seeds: Sequence[int]) -> Cameras:
    """Draw one camera per seed, which looks at the scene's centre from outside the objects."""
    draws = torch.stack(
        [torch.rand(7, generator=torch.Generator().manual_seed(int(seed) + 1)) for seed in seeds]
    )
    azimuth = 2 * torch.pi * draws[:, 0]
    elevation = torch.deg2rad(6 + 34 * draws[:, 1])
    radius = 3.8 + 1.8 * draws[:, 2]
    target = torch.stack([draws[:, 3] - 0.5, draws[:, 4] - 0.5, 0.5 + 0.6 * draws[:, 5]], dim=-1)
    return Cameras(look_at(_on_sphere(azimuth, elevation, radius), target), 0.9 + 0.4 * draws[:, 6])


def orbit_cameras(
    azimuth: Float[Tensor, "s"],
    elevation: Float[Tensor, "s"],
    *,
    radius: float = 4.6,
    focal: float = 1.0,
    target_height: float = 0.7,
) -> Cameras:
    """Cameras on a sphere around the origin that look at the scene's centre; angles in radians.

    Args:
        azimuth: Angle from positive x towards positive y.
        elevation: Angle above the horizon.
        radius: Distance from the origin, in world units.
        focal: Focal length in units of the image's longer edge.
        target_height: Height of the point that the cameras look at, above the floor.
    """
    eye = _on_sphere(azimuth, elevation, torch.full_like(azimuth, radius))
    target = torch.tensor([0.0, 0.0, target_height]).expand_as(eye)
    return Cameras(look_at(eye, target), torch.full_like(azimuth, focal))


def _on_sphere(azimuth: Tensor, elevation: Tensor, radius: Tensor) -> Tensor:
    flat = radius * elevation.cos()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), radius * elevation.sin()], -1)


def pixel_rays(
    cameras: Cameras, *, height: int, width: int
) -> tuple[Float[Tensor, "s 1 3"], Float[Tensor, "s r 3"]]:
    """Origins and unit directions of the rays through the pixels' centres, row by row."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    focal = cameras.focal[:, None] * max(height, width)
    right = (x.flatten() - width / 2) / focal
    up = (height / 2 - y.flatten()) / focal
    local = torch.stack([right, up, -torch.ones_like(right)], dim=-1)
    world = local @ cameras.camera_to_world[:, :, :3].transpose(1, 2)
    return cameras.camera_to_world[:, None, :, 3], torch.nn.functional.normalize(world, dim=-1)
