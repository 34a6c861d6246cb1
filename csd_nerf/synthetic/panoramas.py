"""Panoramas of procedural scenes, whose true edit is known at every pixel.

The camera stands in the centre of a scene; its four objects are moved to a ring around the camera,
so that objects appear in all parts of the panorama. A strip is a cylindrical projection. A wrapped
panorama is equirectangular: it shows the full sphere, and its left and right edges meet.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.synthetic.edits import Edit
from csd_nerf.synthetic.render import Rendering, render_rays
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Scenes, Split, draw_scenes

FOCAL = 0.75
"""Focal length of a strip in units of its height: pixels per radian of azimuth, and pixels per unit
of slope. A square of two thirds of the strip's height then has the field of view of the images on
which the bundled prior was trained."""
RING = (2.4, 3.4)
"""Smallest and largest distance of an object's centre from the camera, in world units."""
EYE_HEIGHT = (1.0, 1.6)
"""Lowest and highest position of the camera, in world units."""
HORIZON = (0.3, 0.45)
"""Range of the horizon's distance from the top of a strip, as a fraction of the strip's height."""
SUPERSAMPLE = 2
"""Number of rays along each edge of a pixel."""


@dataclass(frozen=True)
class Panorama:
    """One scene and the rays through a panorama's pixels.

    Attributes:
        scenes: A batch of one scene.
        origin: Position of the camera.
        direction: Unit vectors of `SUPERSAMPLE`^2 rays per pixel, row by row.
        height: Height in pixels.
        width: Width in pixels.
    """

    scenes: Scenes
    origin: Float[Tensor, "1 1 3"]
    direction: Float[Tensor, "1 r 3"]
    height: int
    width: int

    def render(self, scenes: Scenes) -> Rendering:
        """Render these scenes along the panorama's rays."""
        return render_rays(
            scenes,
            self.origin,
            self.direction,
            height=self.height,
            width=self.width,
            supersample=SUPERSAMPLE,
        )


def draw_panorama(seed: int, *, height: int, width: int, wrap: bool = False) -> Panorama:
    """Draw the panorama of a seed.

    Args:
        seed: Seed of the scene, the camera's position and its heading.
        height: Height in pixels.
        width: Width in pixels.
        wrap: Whether the projection is equirectangular (full sphere) instead of cylindrical.

    Raises:
        ValueError: If a strip would cover more than 360 degrees, or a wrapped panorama is not twice
            as wide as high.
    """
    if wrap and width != 2 * height:
        raise ValueError(
            f"A wrapped panorama needs to be twice as wide as high, got {width}x{height} pixels."
        )
    if not wrap and width > 2 * math.pi * FOCAL * height:
        raise ValueError(
            f"A strip needs a width of at most {2 * math.pi * FOCAL:.2f} times its height, where "
            f"it has gone round once, got {width}x{height} pixels; draw it higher."
        )
    generator = torch.Generator().manual_seed(seed + 1)
    draws = torch.rand(7, generator=generator)
    scene = draw_scenes([seed])
    outwards = torch.nn.functional.normalize(scene.position, dim=-1)
    distance = _between(RING, draws[:4])[None, :, None]
    scene = dataclasses.replace(
        scene, present=torch.ones_like(scene.present), position=distance * outwards
    )
    origin = torch.stack([torch.zeros(()), torch.zeros(()), _between(EYE_HEIGHT, draws[4])])
    rows, columns = height * SUPERSAMPLE, width * SUPERSAMPLE
    if wrap:
        local = _sphere_rays(rows, columns)
    else:
        local = _strip_rays(rows, columns, horizon=float(_between(HORIZON, draws[5])))
    direction = _turned(local, 2 * math.pi * float(draws[6]))
    return Panorama(scene, origin[None, None], direction[None], height, width)


def render_panorama(panorama: Panorama, edit: Edit | None = None) -> Float[Tensor, "1 3 h w"]:
    """Render the panorama, or with an edit its true edit."""
    if edit is None:
        return panorama.render(panorama.scenes).image01
    return edit.edit_image(panorama.render(edit.edit_scenes(panorama.scenes)).image01)


def find_panorama(
    edit: Edit, split: Split, *, skip: int, height: int, width: int, wrap: bool = False
) -> Panorama:
    """The first panorama of a split, after `skip` seeds, to which the edit applies."""
    for seed in SPLIT_SEEDS[split][skip : skip + 400]:
        panorama = draw_panorama(seed, height=height, width=width, wrap=wrap)
        if all(edit.applies(panorama.scenes, panorama.render(panorama.scenes))):
            return panorama
    raise ValueError(f"No panorama of {split} from {skip} on shows what {edit.name!r} names.")


def _between(bounds: tuple[float, float], draw: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _strip_rays(rows: int, columns: int, *, horizon: float) -> Float[Tensor, "r 3"]:
    """Rays with equal steps of azimuth per column and of slope per row; the centre is +x."""
    focal = FOCAL * rows
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    azimuth = (columns / 2 - x) / focal
    slope = (horizon * rows - y) / focal
    rays = torch.stack([azimuth.cos(), azimuth.sin(), slope], dim=-1)
    return torch.nn.functional.normalize(rays, dim=-1).flatten(0, 1)


def _sphere_rays(rows: int, columns: int) -> Float[Tensor, "r 3"]:
    """Rays with equal steps of both angles; the zenith is at the top, the centre is +x."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    azimuth = 2 * math.pi * (0.5 - x / columns)
    elevation = math.pi * (0.5 - y / rows)
    flat = elevation.cos()
    rays = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=-1)
    return rays.flatten(0, 1)


def _turned(rays: Float[Tensor, "r 3"], heading: float) -> Float[Tensor, "r 3"]:
    """Rotate rays about the vertical axis by `heading` radians."""
    cos, sin = math.cos(heading), math.sin(heading)
    return rays @ rays.new_tensor([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
