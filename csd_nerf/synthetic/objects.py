"""Single objects on a plain background, on which the bundled text-to-image prior is trained.

An object is one of the four shapes in one of the colours, centred at the origin and not rotated. So
its true silhouette and colour are known for every camera. Captions name colour and shape.

Frames: world z is up; the front is at negative y. Azimuth is counted from the front towards
positive x, elevation from the horizon upwards, both in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd_nerf.synthetic.cameras import Cameras, look_at, pixel_rays
from csd_nerf.synthetic.palette import COLOURS, SHAPES
from csd_nerf.synthetic.shapes import CUBE_HALF, intersect, outward_normal
from csd_nerf.synthetic.wordings import SYNONYMS, captions

SIZE = 0.55
"""Mean scale of the objects; the radius of a sphere, in world units."""
_CENTRE = {"sphere": 1.0, "cube": CUBE_HALF, "cylinder": 1.0, "cone": 0.8}
"""Height in each shape's own frame of the point that is put at the origin."""


@dataclass(frozen=True)
class Objects:
    """A batch of s objects with their light and background.

    Attributes:
        shape: Index into `SHAPES`.
        colour01: RGB of the surface.
        size: Scale; 1 gives a sphere of radius 1.
        light: Unit vector towards the light.
        ambient: Share of ambient light; 1 shows the surface's colour without shading.
        background01: RGB of the background at the bottom and at the top of the picture.
    """

    shape: Int[Tensor, "s"]
    colour01: Float[Tensor, "s 3"]
    size: Float[Tensor, "s"]
    light: Float[Tensor, "s 3"]
    ambient: Float[Tensor, "s"]
    background01: Float[Tensor, "s 2 3"]


@dataclass(frozen=True)
class ObjectViews:
    """Rendered objects.

    Attributes:
        image01: Colours, averaged over each pixel.
        coverage: Share of each pixel that the object covers, in [0, 1].
    """

    image01: Float[Tensor, "s 3 h w"]
    coverage: Float[Tensor, "s h w"]


def orbit(
    azimuth: Float[Tensor, "s"], elevation: Float[Tensor, "s"], *, radius: float | Tensor
) -> Float[Tensor, "s 3"]:
    """Positions on a sphere around the origin; the module's docstring defines the angles."""
    flat = elevation.cos()
    toward = [flat * azimuth.sin(), -flat * azimuth.cos(), elevation.sin()]
    return torch.stack(toward, dim=-1) * torch.as_tensor(radius).reshape(-1, 1)


def find_object(caption: str) -> tuple[str, str]:
    """Find the shape and the colour that a caption names.

    Raises:
        ValueError: If it doesn't name exactly one known shape and one known colour.
    """
    words = caption.lower().replace(",", " ").split()
    shapes = [shape for shape, names in SYNONYMS.items() if set(names) & set(words)]
    colours = [colour for colour in COLOURS if colour in words]
    if len(shapes) != 1 or len(colours) != 1:
        raise ValueError(
            f"A synthetic object needs one shape of {', '.join(SHAPES)} and one colour of "
            f'{", ".join(COLOURS)}, got {caption!r}; say for instance "a red cube".'
        )
    return shapes[0], colours[0]


def true_object(caption: str, *, views: int = 1) -> Objects:
    """The object of a caption, without shading on white, repeated for `views` cameras."""
    shape, colour = find_object(caption)
    return Objects(
        shape=torch.full((views,), SHAPES.index(shape)),
        colour01=torch.tensor(COLOURS[colour]).expand(views, 3),
        size=torch.full((views,), SIZE),
        light=torch.tensor([0.0, 0.0, 1.0]).expand(views, 3),
        ambient=torch.ones(views),
        background01=torch.ones(views, 2, 3),
    )


def draw_views(
    count: int, generator: torch.Generator
) -> tuple[Objects, Cameras, list[str], Float[Tensor, "s"], Float[Tensor, "s"]]:
    """Draw random objects with random cameras.

    Returns:
        Objects, cameras, captions, and the cameras' azimuths and elevations.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    colour = torch.randint(len(COLOURS), (count,), generator=generator)
    azimuth = uniform(-torch.pi, torch.pi, count)
    # Uniform over the part of the sphere from 10 degrees below the horizon to the zenith.
    elevation = torch.asin(uniform(-0.17, 1.0, count))
    eye = orbit(azimuth, elevation, radius=uniform(2.3, 2.7, count))
    cameras = Cameras(look_at(eye, uniform(-0.08, 0.08, count, 3)), uniform(1.0, 1.35, count))
    base = torch.tensor(list(COLOURS.values()))[colour]
    toward = torch.nn.functional.normalize(eye, dim=-1)
    light = toward + 0.9 * torch.randn(count, 3, generator=generator)
    flat = uniform(0.0, 1.0, count) < 0.3
    objects = Objects(
        shape=shape,
        colour01=(base + uniform(-0.05, 0.05, count, 3)).clamp(0, 1),
        size=uniform(0.85, 1.15, count) * SIZE,
        light=torch.nn.functional.normalize(light, dim=-1),
        ambient=torch.where(flat, 1.0, uniform(0.35, 0.8, count)),
        background01=_draw_backgrounds(base, generator),
    )
    words = []
    for s, c in zip(shape.tolist(), colour.tolist(), strict=True):
        said = captions(SHAPES[s], list(COLOURS)[c])
        words.append(said[int(torch.randint(len(said), (), generator=generator))])
    return objects, cameras, words, azimuth, elevation


def _draw_backgrounds(
    colour01: Float[Tensor, "s 3"], generator: torch.Generator
) -> Float[Tensor, "s 2 3"]:
    """Draw vertical gradients that differ from the object's colour."""
    count = len(colour01)
    grey = torch.rand(count, 8, 1, generator=generator)
    tint = 0.3 * (torch.rand(count, 8, 3, generator=generator) - 0.5)
    candidates = (grey + tint).clamp(0, 1)
    # The first of eight candidates that differs enough from the object, or the one that differs
    # most.
    far = (candidates - colour01[:, None]).norm(dim=-1)
    choice = torch.where(far > 0.45, 10.0 - torch.arange(8), far).argmax(1)
    chosen = candidates[torch.arange(count), choice]
    fall = 0.25 * (torch.rand(count, 1, generator=generator) - 0.5)
    return torch.stack([chosen - fall, chosen + fall], dim=1).clamp(0, 1)


def render_objects(
    objects: Objects, cameras: Cameras, *, size: int, supersample: int = 3
) -> ObjectViews:
    """Render each object from its camera by ray casting; Lambertian, without shadows."""
    edge = size * supersample
    origin, direction = pixel_rays(cameras, height=edge, width=edge)
    depth, normal = _nearest(objects, origin, direction)
    hit = depth.isfinite()
    facing = (normal * objects.light[:, None]).sum(-1).clamp(min=0)
    ambient = objects.ambient[:, None]
    lit = objects.colour01[:, None] * (ambient + (1 - ambient) * facing)[..., None]
    up = torch.linspace(1, 0, edge).repeat_interleave(edge)[None, :, None]
    behind = torch.lerp(objects.background01[:, :1], objects.background01[:, 1:], up)
    colour = torch.where(hit[..., None], lit, behind)
    shape = (len(objects.shape), size, supersample, size, supersample)
    return ObjectViews(
        image01=colour.reshape(*shape, 3).mean(dim=(2, 4)).movedim(-1, 1).clamp(0, 1),
        coverage=hit.float().reshape(shape).mean(dim=(2, 4)),
    )


def _nearest(
    objects: Objects, origin: Float[Tensor, "s 1 3"], direction: Float[Tensor, "s r 3"]
) -> tuple[Float[Tensor, "s r"], Float[Tensor, "s r 3"]]:
    """Distance along each ray to the object (infinite if missed), and unit normal there."""
    depth = torch.full(direction.shape[:2], torch.inf)
    normal = torch.zeros_like(direction)
    for slot, name in enumerate(SHAPES):
        here: Bool[Tensor, "s"] = objects.shape == slot
        if not here.any():
            continue
        scale = objects.size[here, None, None]
        lifted = origin[here] / scale + torch.tensor([0.0, 0.0, _CENTRE[name]])
        hit = intersect(slot, lifted, direction[here] / scale)
        at = torch.where(hit.isfinite(), hit, 0.0)
        point = lifted + at[..., None] * direction[here] / scale
        depth[here] = hit
        normal[here] = torch.nn.functional.normalize(_normal(slot, point), dim=-1)
    return depth, normal


def _normal(slot: int, point: Float[Tensor, "s r 3"]) -> Float[Tensor, "s r 3"]:
    """Outward normals, including those of the bottom discs of cylinder and cone."""
    down = (point[..., 2] < 1e-3) & torch.tensor(SHAPES[slot] in ("cylinder", "cone"))
    below = torch.tensor([0.0, 0.0, -1.0])
    return torch.where(down[..., None], below, outward_normal(slot, point))
