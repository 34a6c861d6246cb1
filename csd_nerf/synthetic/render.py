"""A batched ray caster for `Scenes`: renders colours, depth and labels.

Depth is the distance along the ray in world units, infinite in the sky.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd_nerf.synthetic.cameras import Cameras, pixel_rays
from csd_nerf.synthetic.materials import floor_colour, object_colour, sky_colour
from csd_nerf.synthetic.palette import SHAPES
from csd_nerf.synthetic.scenes import Scenes
from csd_nerf.synthetic.shapes import MARGIN, intersect, outward_normal

FLOOR, SKY = len(SHAPES), len(SHAPES) + 1
"""Labels of pixels without object; objects are labelled by their slot, 0 to 3."""

_HAZE_DISTANCE = 30.0
"""Distance in world units over which the floor fades by 1/e, so that far patterns don't alias."""
_SNOW = (0.95, 0.96, 0.98)
_FOG = (0.80, 0.82, 0.84)


@dataclass(frozen=True)
class Rendering:
    """Rendered views.

    Attributes:
        image01: Colours, averaged over each pixel.
        depth: Distance along one ray of each pixel; infinite in the sky. If `supersample` is odd,
            the ray passes through the pixel's centre; if even, it is the next ray to the right
            and below (for 2, a quarter of a pixel away in both directions).
        label: Object slot, `FLOOR` or `SKY`, on the same ray.
    """

    image01: Float[Tensor, "s 3 h w"]
    depth: Float[Tensor, "s h w"]
    label: Int[Tensor, "s h w"]


def render(
    scenes: Scenes, cameras: Cameras, *, height: int, width: int, supersample: int = 2
) -> Rendering:
    """Render each scene from its camera.

    Args:
        scenes: s scenes.
        cameras: One camera per scene, above the floor and outside of the objects.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        supersample: Number of rays along each edge of a pixel; colours are averaged over all.
    """
    origin, direction = pixel_rays(cameras, height=height * supersample, width=width * supersample)
    return render_rays(
        scenes, origin, direction, height=height, width=width, supersample=supersample
    )


def render_rays(
    scenes: Scenes,
    origin: Float[Tensor, "s 1 3"],
    direction: Float[Tensor, "s r 3"],
    *,
    height: int,
    width: int,
    supersample: int,
) -> Rendering:
    """Render given rays, which may come from any projection.

    Args:
        scenes: s scenes.
        origin: Start of the rays of each scene.
        direction: Unit vectors, row by row: `height * supersample` rows of
            `width * supersample` rays.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        supersample: Number of rays along each edge of a pixel; colours are averaged over all.
    """
    depth, label = _nearest(scenes, origin, direction)
    colour = _shade(scenes, origin, direction, depth, label)
    shape = (len(scenes), height, supersample, width, supersample)
    middle = (slice(None), slice(None), supersample // 2, slice(None), supersample // 2)
    return Rendering(
        image01=colour.reshape(*shape, 3).mean(dim=(2, 4)).movedim(-1, 1).clamp(0, 1),
        depth=depth.reshape(shape)[middle],
        label=label.reshape(shape)[middle],
    )


def _slots(scenes: Scenes) -> list[int]:
    """The object slots that any scene of the batch uses."""
    return scenes.present.any(dim=0).nonzero().flatten().tolist()


def _to_object(
    scenes: Scenes,
    slot: int,
    origin: Float[Tensor, "s #r 3"],
    direction: Float[Tensor, "s #r 3"],
) -> tuple[Float[Tensor, "s #r 3"], Float[Tensor, "s #r 3"]]:
    """Transform rays to the frame of one object, where it has size 1 and stands at the origin.

    Directions are scaled too, so that distances along a ray are still in world units.
    """
    cos, sin = scenes.yaw[:, slot].cos(), scenes.yaw[:, slot].sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).view(-1, 3, 3)
    scaled = rotation / scenes.size[:, slot, None, None]
    foot = torch.nn.functional.pad(scenes.position[:, slot], (0, 1))[:, None]
    return (origin - foot) @ scaled, direction @ scaled


def _to_world(vector: Float[Tensor, "s r 3"], yaw: Float[Tensor, "s"]) -> Float[Tensor, "s r 3"]:
    """Rotate directions from an object's frame to the world's; lengths don't change."""
    cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
    x, y, z = vector.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)


def _nearest(
    scenes: Scenes, origin: Float[Tensor, "s 1 3"], direction: Float[Tensor, "s r 3"]
) -> tuple[Float[Tensor, "s r"], Int[Tensor, "s r"]]:
    """Distance to the first surface of each ray and that surface's label."""
    down = direction[..., 2]
    depth = torch.where(down < -1e-6, -origin[..., 2] / down.clamp(max=-1e-6), torch.inf)
    label = torch.where(depth.isinf(), SKY, FLOOR)
    for slot in _slots(scenes):
        hit = intersect(slot, *_to_object(scenes, slot, origin, direction))
        nearer = (hit < depth) & scenes.present[:, slot, None]
        depth = torch.where(nearer, hit, depth)
        label = torch.where(nearer, slot, label)
    return depth, label


def _occluded(
    scenes: Scenes, point: Float[Tensor, "s r 3"], direction: Float[Tensor, "s r 3"]
) -> Bool[Tensor, "s r"]:
    """Whether each ray meets any object."""
    blocked = torch.zeros(point.shape[:2], dtype=torch.bool)
    for slot in _slots(scenes):
        hit = intersect(slot, *_to_object(scenes, slot, point, direction))
        blocked |= hit.isfinite() & scenes.present[:, slot, None]
    return blocked


def _shade(
    scenes: Scenes,
    origin: Float[Tensor, "s 1 3"],
    direction: Float[Tensor, "s r 3"],
    depth: Float[Tensor, "s r"],
    label: Int[Tensor, "s r"],
) -> Float[Tensor, "s r 3"]:
    """Colour of each ray: the lit surface or the sky, with haze and fog in front."""
    at = torch.where(depth.isfinite(), depth, 0.0)
    point = origin + at[..., None] * direction
    normal, albedo = _surface(scenes, point, direction, label)
    sky = sky_colour(scenes, direction)
    horizon = sky_colour(scenes, torch.zeros_like(direction))
    haze = torch.where(label == FLOOR, torch.exp(-at / _HAZE_DISTANCE), torch.ones_like(at))
    colour = torch.lerp(horizon, albedo * _light(scenes, point, normal)[..., None], haze[..., None])
    colour = torch.where((label == SKY)[..., None], sky, colour)
    clear = torch.exp(-scenes.fog[:, None] * depth)
    clear = torch.where(scenes.fog[:, None] > 0, clear, torch.ones_like(clear))
    return torch.lerp(torch.tensor(_FOG).expand_as(colour), colour, clear[..., None])


def _surface(
    scenes: Scenes,
    point: Float[Tensor, "s r 3"],
    direction: Float[Tensor, "s r 3"],
    label: Int[Tensor, "s r"],
) -> tuple[Float[Tensor, "s r 3"], Float[Tensor, "s r 3"]]:
    """Unit normal and albedo, with snow, where rays meet the floor or an object."""
    normal = torch.tensor([0.0, 0.0, 1.0]).expand_as(point)
    albedo = floor_colour(scenes, point)
    for slot in _slots(scenes):
        local, _ = _to_object(scenes, slot, point, direction)
        facing = _to_world(outward_normal(slot, local), scenes.yaw[:, slot])
        here = (label == slot)[..., None]
        normal = torch.where(here, torch.nn.functional.normalize(facing, dim=-1), normal)
        albedo = torch.where(here, object_colour(scenes, slot, local), albedo)
    cover = scenes.snow[:, None] * ((normal[..., 2] - 0.25) / 0.35).clamp(0, 1)
    white = torch.tensor(_SNOW).expand_as(albedo)
    return normal, torch.lerp(albedo, white, cover[..., None])


def _light(
    scenes: Scenes, point: Float[Tensor, "s r 3"], normal: Float[Tensor, "s r 3"]
) -> Float[Tensor, "s r"]:
    """Irradiance of a surface: the sun with shadows, and sky light from above."""
    sun = scenes.sun[:, None].expand_as(point)
    incidence = (normal * sun).sum(-1).clamp(min=0)
    lit = ~_occluded(scenes, point + 5 * MARGIN * normal, sun)
    strength = scenes.sun_strength[:, None]
    return (1 - strength) * (0.95 + 0.25 * normal[..., 2]) + 1.25 * strength * incidence * lit
