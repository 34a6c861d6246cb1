"""Panoramas of procedural scenes, whose true edit is known at every pixel.

The camera stands in the middle of a scene whose four objects are moved out to a ring around it, so
that every part of the panorama has something to show. A strip is a cylindrical projection; a
wrapped panorama is equirectangular: the full sphere, its left edge next to its right one.
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
"""Pixels of a strip an angle of 1 radian, and a slope of 1, in units of the strip's height; a
square as high as two thirds of it then sees as much as the views that the bundled prior knows."""
RING = (2.4, 3.4)
"""World units between the camera and an object's middle."""
EYE_HEIGHT = (1.0, 1.6)
HORIZON = (0.3, 0.45)
"""Where a strip's horizon lies, as a fraction of its height from the top."""
SUPERSAMPLE = 2
"""Rays along each edge of a pixel."""


@dataclass(frozen=True)
class Panorama:
    """One scene and the rays through a panorama's pixels.

    Attributes:
        scenes: A batch of one.
        origin: The camera's place.
        direction: Unit vectors of `SUPERSAMPLE` squared rays a pixel, row by row.
        height: Pixels.
        width: Pixels.
    """

    scenes: Scenes
    origin: Float[Tensor, "1 1 3"]
    direction: Float[Tensor, "1 r 3"]
    height: int
    width: int

    def render(self, scenes: Scenes) -> Rendering:
        """What the rays see of these scenes."""
        return render_rays(
            scenes,
            self.origin,
            self.direction,
            height=self.height,
            width=self.width,
            supersample=SUPERSAMPLE,
        )


def draw_panorama(seed: int, *, height: int, width: int, wrap: bool = False) -> Panorama:
    """The panorama of a seed.

    Args:
        seed: Decides scene, camera and heading.
        height: Pixels.
        width: Pixels.
        wrap: Equirectangular instead of cylindrical.

    Raises:
        ValueError: If a strip would go round more than once, or a sphere is not 2:1.
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
    """The panorama as it is, or its true edit."""
    if edit is None:
        return panorama.render(panorama.scenes).image01
    return edit.edit_image(panorama.render(edit.edit_scenes(panorama.scenes)).image01)


def find_panorama(
    edit: Edit, split: Split, *, skip: int, height: int, width: int, wrap: bool = False
) -> Panorama:
    """The first panorama of a split, after `skip` seeds, in which the edit changes something."""
    for seed in SPLIT_SEEDS[split][skip : skip + 400]:
        panorama = draw_panorama(seed, height=height, width=width, wrap=wrap)
        if all(edit.applies(panorama.scenes, panorama.render(panorama.scenes))):
            return panorama
    raise ValueError(f"No panorama of {split} from {skip} on shows what {edit.name!r} names.")


def _between(bounds: tuple[float, float], draw: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _strip_rays(rows: int, columns: int, *, horizon: float) -> Float[Tensor, "r 3"]:
    """Equal angles from column to column, equal slopes from row to row; +x in the middle."""
    focal = FOCAL * rows
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    azimuth = (columns / 2 - x) / focal
    slope = (horizon * rows - y) / focal
    rays = torch.stack([azimuth.cos(), azimuth.sin(), slope], dim=-1)
    return torch.nn.functional.normalize(rays, dim=-1).flatten(0, 1)


def _sphere_rays(rows: int, columns: int) -> Float[Tensor, "r 3"]:
    """Equal angles along both axes: the zenith above the first row, +x in the middle."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    azimuth = 2 * math.pi * (0.5 - x / columns)
    elevation = math.pi * (0.5 - y / rows)
    flat = elevation.cos()
    rays = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=-1)
    return rays.flatten(0, 1)


def _turned(rays: Float[Tensor, "r 3"], heading: float) -> Float[Tensor, "r 3"]:
    """Rays turned about the vertical, in radians."""
    cos, sin = math.cos(heading), math.sin(heading)
    return rays @ rays.new_tensor([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
