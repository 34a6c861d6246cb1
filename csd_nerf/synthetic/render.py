"""A batched ray caster for `Scenes`: colour, depth, and the object seen by each pixel.

Frames: world z up; camera axes as in OpenGL and nerfstudio (x right, y up, looking along -z).
Depth is the distance along the ray in world units (infinite in the sky).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd_nerf.synthetic.scenes import COLOURS, FLOORS, SHAPES, SKIES, Scenes

FLOOR, SKY = len(SHAPES), len(SHAPES) + 1
"""Labels of pixels that see no object; objects are labelled by their slot 0 to 3."""

_CUBE_HALF, _CYLINDER_RADIUS, _CONE_RADIUS, _HEIGHT = 0.85, 0.75, 0.95, 2.0
_MARGIN = 1e-3
"""Hits nearer than this along a ray are the surface that the ray starts on."""
_HAZE_DISTANCE = 30.0
"""World units over which the floor fades into the horizon, which keeps far patterns from aliasing."""


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras with square pixels and the principal point in the middle.

    Attributes:
        camera_to_world: Rotation and position, OpenGL axes.
        focal: Focal length in units of the image's longer edge.
    """

    camera_to_world: Float[Tensor, "s 3 4"]
    focal: Float[Tensor, "s"]


@dataclass(frozen=True)
class Rendering:
    """What the cameras see.

    Attributes:
        image01: Colours, averaged over each pixel.
        depth: Distance along the ray through the pixel's centre; infinite in the sky.
        label: Object slot, `FLOOR` or `SKY`, at the pixel's centre.
    """

    image01: Float[Tensor, "s 3 h w"]
    depth: Float[Tensor, "s h w"]
    label: Int[Tensor, "s h w"]


def look_at(eye: Float[Tensor, "s 3"], target: Float[Tensor, "s 3"]) -> Float[Tensor, "s 3 4"]:
    """Camera-to-world matrices of upright cameras (OpenGL axes)."""
    backward = torch.nn.functional.normalize(eye - target, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(eye)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, backward), dim=-1)
    return torch.stack([right, torch.linalg.cross(backward, right), backward, eye], dim=-1)


def draw_cameras(seeds: list[int]) -> Cameras:
    """One random camera a seed, looking at the scene's middle from outside the objects."""
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
    """Cameras on a sphere around the scene's middle; angles in radians."""
    eye = _on_sphere(azimuth, elevation, torch.full_like(azimuth, radius))
    target = torch.tensor([0.0, 0.0, target_height]).expand_as(eye)
    return Cameras(look_at(eye, target), torch.full_like(azimuth, focal))


def _on_sphere(azimuth: Tensor, elevation: Tensor, radius: Tensor) -> Tensor:
    flat = radius * elevation.cos()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), radius * elevation.sin()], -1)


def render(
    scenes: Scenes, cameras: Cameras, *, height: int, width: int, supersample: int = 2
) -> Rendering:
    """Cast rays through each pixel of each scene's camera.

    Args:
        scenes: s scenes.
        cameras: One camera a scene.
        height: Pixels.
        width: Pixels.
        supersample: Rays along each edge of a pixel that are averaged into its colour.
    """
    origin, direction = _rays(cameras, height * supersample, width * supersample)
    depth, label = _nearest(scenes, origin, direction)
    colour = _shade(scenes, origin, direction, depth, label)
    shape = (len(scenes), height, supersample, width, supersample)
    centre = (slice(None), slice(None), supersample // 2, slice(None), supersample // 2)
    return Rendering(
        image01=colour.reshape(*shape, 3).mean(dim=(2, 4)).movedim(-1, 1).clamp(0, 1),
        depth=depth.reshape(shape)[centre],
        label=label.reshape(shape)[centre],
    )


def _rays(cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Origins (s 1 3) and unit directions (s rays 3), row by row."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    focal = cameras.focal[:, None] * max(height, width)
    right = (x.flatten() - width / 2) / focal
    up = (height / 2 - y.flatten()) / focal
    local = torch.stack([right, up, -torch.ones_like(right)], dim=-1)
    world = local @ cameras.camera_to_world[:, :, :3].transpose(1, 2)
    return cameras.camera_to_world[:, None, :, 3], torch.nn.functional.normalize(world, dim=-1)


def _slots(scenes: Scenes) -> list[int]:
    """The object slots that any scene of the batch uses."""
    return scenes.present.any(dim=0).nonzero().flatten().tolist()


def _to_object(scenes: Scenes, slot: int, origin: Tensor, direction: Tensor):
    """Rays in the frame of one object, where it has size 1 and stands on z = 0 at the origin."""
    cos, sin = scenes.yaw[:, slot].cos(), scenes.yaw[:, slot].sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).view(-1, 3, 3)
    scaled = rotation / scenes.size[:, slot, None, None]
    foot = torch.nn.functional.pad(scenes.position[:, slot], (0, 1))[:, None]
    return (origin - foot) @ scaled, direction @ scaled


def _nearest(scenes: Scenes, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the first surface of each ray and that surface's label."""
    down = direction[..., 2]
    depth = torch.where(down < -1e-6, -origin[..., 2] / down.clamp(max=-1e-6), torch.inf)
    label = torch.where(depth.isinf(), SKY, FLOOR)
    for slot in _slots(scenes):
        hit = _INTERSECTIONS[slot](*_to_object(scenes, slot, origin, direction))
        nearer = (hit < depth) & scenes.present[:, slot, None]
        depth = torch.where(nearer, hit, depth)
        label = torch.where(nearer, slot, label)
    return depth, label


def _occluded(scenes: Scenes, point: Tensor, direction: Tensor) -> Bool[Tensor, "s r"]:
    """Whether any object lies on the rays."""
    blocked = torch.zeros(point.shape[:2], dtype=torch.bool)
    for slot in _slots(scenes):
        hit = _INTERSECTIONS[slot](*_to_object(scenes, slot, point, direction))
        blocked |= hit.isfinite() & scenes.present[:, slot, None]
    return blocked


def _first(*candidates: tuple[Tensor, Tensor]) -> Tensor:
    """The nearest of several (distance, valid) candidates in front of the ray's start."""
    hits = [torch.where(ok & (t > _MARGIN), t, torch.inf) for t, ok in candidates]
    return torch.stack(hits).amin(dim=0)


def _roots(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both roots of a t² + 2 half_b t + c = 0 and whether they are real."""
    discriminant = half_b.square() - a * c
    root = discriminant.clamp(min=0).sqrt()
    safe = torch.where(a.abs() < 1e-9, 1e-9, a)
    return (-half_b - root) / safe, (-half_b + root) / safe, discriminant > 0


def _sphere(o: Tensor, d: Tensor) -> Tensor:
    o = o - torch.tensor([0.0, 0.0, 1.0])
    near, far, real = _roots(d.square().sum(-1), (o * d).sum(-1), o.square().sum(-1) - 1)
    return _first((near, real), (far, real))


def _cube(o: Tensor, d: Tensor) -> Tensor:
    o = o - torch.tensor([0.0, 0.0, _CUBE_HALF])
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    one, two = (-_CUBE_HALF - o) * inverse, (_CUBE_HALF - o) * inverse
    near = torch.minimum(one, two).amax(dim=-1)
    far = torch.maximum(one, two).amin(dim=-1)
    return _first((near, near <= far), (far, near <= far))


def _disc(o: Tensor, d: Tensor, height: float, radius: float) -> tuple[Tensor, Tensor]:
    """A horizontal disc around the z axis."""
    t = (height - o[..., 2]) / torch.where(d[..., 2].abs() < 1e-9, 1e-9, d[..., 2])
    flat = o[..., :2] + t[..., None] * d[..., :2]
    return t, flat.square().sum(-1) < radius**2


def _between(o: Tensor, d: Tensor, t: Tensor) -> Tensor:
    z = o[..., 2] + t * d[..., 2]
    return (z > 0) & (z < _HEIGHT)


def _cylinder(o: Tensor, d: Tensor) -> Tensor:
    flat_o, flat_d = o[..., :2], d[..., :2]
    near, far, real = _roots(
        flat_d.square().sum(-1),
        (flat_o * flat_d).sum(-1),
        flat_o.square().sum(-1) - _CYLINDER_RADIUS**2,
    )
    sides = [(t, real & _between(o, d, t)) for t in (near, far)]
    return _first(
        *sides, _disc(o, d, 0.0, _CYLINDER_RADIUS), _disc(o, d, _HEIGHT, _CYLINDER_RADIUS)
    )


def _cone(o: Tensor, d: Tensor) -> Tensor:
    slope = (_CONE_RADIUS / _HEIGHT) ** 2
    z = o[..., 2] - _HEIGHT
    near, far, real = _roots(
        d[..., :2].square().sum(-1) - slope * d[..., 2].square(),
        (o[..., :2] * d[..., :2]).sum(-1) - slope * z * d[..., 2],
        o[..., :2].square().sum(-1) - slope * z.square(),
    )
    sides = [(t, real & _between(o, d, t)) for t in (near, far)]
    return _first(*sides, _disc(o, d, 0.0, _CONE_RADIUS))


_INTERSECTIONS = (_sphere, _cube, _cylinder, _cone)


def _object_normal(slot: int, p: Tensor) -> Tensor:
    """Outward normal, not normalised, at points of a surface in its object's frame."""
    x, y, z = p.unbind(-1)
    if slot == 0:
        return p - torch.tensor([0.0, 0.0, 1.0])
    if slot == 1:
        centred = p - torch.tensor([0.0, 0.0, _CUBE_HALF])
        return centred * (centred.abs() >= centred.abs().amax(-1, keepdim=True))
    if slot == 2:
        cap = z > _HEIGHT - 1e-3
        side = torch.stack([x, y, torch.zeros_like(z)], dim=-1)
        return torch.where(cap[..., None], torch.tensor([0.0, 0.0, 1.0]), side)
    return torch.stack([x, y, (_HEIGHT - z) * (_CONE_RADIUS / _HEIGHT) ** 2], dim=-1)


def _texture(texture: Tensor, p: Tensor) -> Tensor:
    """Brightness of the texture at points in the object's frame: 1, or darker in its pattern."""
    around = torch.atan2(p[..., 1], p[..., 0])
    stripes = (4 * around).sin() > 0
    bands = (1.6 * torch.pi * p[..., 2]).sin() > 0
    patterns = torch.stack([torch.zeros_like(bands), stripes, stripes ^ bands, bands])
    dark = patterns.gather(0, texture[None, :, None].expand(1, -1, bands.shape[-1]))[0]
    return 1 - 0.38 * dark


def _shade(
    scenes: Scenes, origin: Tensor, direction: Tensor, depth: Tensor, label: Tensor
) -> Float[Tensor, "s r 3"]:
    """Lambertian shading with a sun, its shadows and a sky that lights from above."""
    at = torch.where(depth.isfinite(), depth, 0.0)
    point = origin + at[..., None] * direction
    up = torch.tensor([0.0, 0.0, 1.0])
    normal = up.expand_as(point)
    albedo = _floor_colour(scenes, point)
    for slot in _slots(scenes):
        local, _ = _to_object(scenes, slot, point, direction)
        facing = _rotate(_object_normal(slot, local), scenes.yaw[:, slot])
        base = _table(COLOURS.values())[scenes.colour[:, slot]] + scenes.tint[:, slot]
        colour = base[:, None] * _texture(scenes.texture[:, slot], local)[..., None]
        here = (label == slot)[..., None]
        normal = torch.where(here, torch.nn.functional.normalize(facing, dim=-1), normal)
        albedo = torch.where(here, colour, albedo)
    cover = scenes.snow[:, None] * ((normal[..., 2] - 0.25) / 0.35).clamp(0, 1)
    white = torch.tensor([0.95, 0.96, 0.98]).expand_as(albedo)
    albedo = torch.lerp(albedo, white, cover[..., None])

    sun = scenes.sun[:, None].expand_as(point)
    incidence = (normal * sun).sum(-1).clamp(min=0)
    lit = ~_occluded(scenes, point + 5 * _MARGIN * normal, sun)
    strength = scenes.sun_strength[:, None]
    light = (1 - strength) * (0.95 + 0.25 * normal[..., 2]) + 1.25 * strength * incidence * lit
    sky = _sky_colour(scenes, direction)
    horizon = _sky_colour(scenes, torch.zeros_like(direction))
    haze = torch.where(label == FLOOR, torch.exp(-at / _HAZE_DISTANCE), torch.ones_like(at))
    colour = torch.lerp(horizon, albedo * light[..., None], haze[..., None])
    colour = torch.where((label == SKY)[..., None], sky, colour)
    clear = torch.exp(-scenes.fog[:, None] * depth)
    clear = torch.where(scenes.fog[:, None] > 0, clear, torch.ones_like(clear))
    return torch.lerp(torch.tensor([0.80, 0.82, 0.84]).expand_as(colour), colour, clear[..., None])


def _rotate(vector: Tensor, yaw: Tensor) -> Tensor:
    """From an object's frame to the world's."""
    cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
    x, y, z = vector.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)


def _sky_colour(scenes: Scenes, direction: Tensor) -> Tensor:
    """Gradient from the horizon to the zenith; under snow the sky is pale."""
    horizon = _table(pair[0] for pair in SKIES.values())[scenes.sky][:, None]
    zenith = _table(pair[1] for pair in SKIES.values())[scenes.sky][:, None]
    height = (direction[..., 2].clamp(0, 1) / 0.5).clamp(max=1)[..., None]
    colour = horizon + (zenith - horizon) * height
    pale = torch.tensor([0.86, 0.88, 0.91]).expand_as(colour)
    return torch.lerp(colour, pale, 0.85 * scenes.snow[:, None, None])


def _floor_colour(scenes: Scenes, point: Tensor) -> Tensor:
    first = _table(row[1] for row in FLOORS.values())[scenes.floor][:, None]
    second = _table(row[2] for row in FLOORS.values())[scenes.floor][:, None]
    xy = point[..., :2] / scenes.floor_scale[:, None, None]
    noise = value_noise(3 * xy) * 0.6 + value_noise(9 * xy) * 0.4
    planks = ((xy[..., 0] / 0.55).floor() * 0.37) % 1 * 0.8 + 0.2 * value_noise(xy * 4)
    checker = ((xy / 0.8).floor().sum(-1) % 2).abs()
    kinds = {"noise": noise, "planks": planks, "checker": checker}
    order = list(kinds)
    index = torch.tensor([order.index(row[0]) for row in FLOORS.values()])[scenes.floor]
    stacked = torch.stack([kinds[name] for name in order])
    weight = stacked.gather(0, index[None, :, None].expand(1, -1, noise.shape[-1]))[0]
    return torch.lerp(first.expand_as(point), second.expand_as(point), weight[..., None])


def value_noise(xy: Float[Tensor, "s r 2"]) -> Float[Tensor, "s r"]:
    """Smooth noise in [0, 1] with one random value a unit cell, bilinear between them."""
    cell = xy.floor()
    fraction = xy - cell
    smooth = fraction.square() * (3 - 2 * fraction)

    def corner(dx: int, dy: int) -> Tensor:
        return ((((cell[..., 0] + dx) * 127.1 + (cell[..., 1] + dy) * 311.7).sin()) * 43758.55) % 1

    low = torch.lerp(corner(0, 0), corner(1, 0), smooth[..., 0])
    high = torch.lerp(corner(0, 1), corner(1, 1), smooth[..., 0])
    return torch.lerp(low, high, smooth[..., 1])


def _table(rows) -> Float[Tensor, "k 3"]:
    return torch.tensor(list(rows))
