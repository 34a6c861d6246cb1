"""The four shapes: intersections with rays, and normals.

Each shape is given in its own frame, where it has size 1 and stands on z = 0 around the z axis. A
ray's direction need not have unit length; a distance t is that of the point origin + t direction.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd_nerf.synthetic.palette import SHAPES

CUBE_HALF, CYLINDER_RADIUS, CONE_RADIUS, HEIGHT = 0.85, 0.75, 0.95, 2.0
"""Half the cube's edge, the radii of cylinder and cone, and their height; the sphere has radius
1."""
MARGIN = 1e-3
"""Hits at a smaller distance than this are ignored: they are the surface where the ray starts."""
_PARALLEL = 1e-9
"""Divisors with a smaller absolute value are set to this; the quotient is then very large."""

Hit = tuple[Float[Tensor, "s r"], Bool[Tensor, "s r"]]
"""Distances, and whether the shape is really hit there."""


def intersect(
    slot: int, origin: Float[Tensor, "s #r 3"], direction: Float[Tensor, "s #r 3"]
) -> Float[Tensor, "s r"]:
    """Distance t > `MARGIN` along rays to the surface of the shape `SHAPES[slot]`; inf if missed.

    A ray that starts inside of the shape hits its surface from within.
    """
    return _INTERSECT[SHAPES[slot]](origin, direction)


def outward_normal(slot: int, point: Float[Tensor, "s r 3"]) -> Float[Tensor, "s r 3"]:
    """Outward normals, not normalised, at visible points of the surface.

    The discs at the bottom of cylinder and cone lie on the floor and are not handled.
    """
    return _NORMAL[SHAPES[slot]](point)


def _first(*candidates: Hit) -> Float[Tensor, "s r"]:
    """The nearest valid candidate in front of the ray's start."""
    hits = [torch.where(ok & (t > MARGIN), t, torch.inf) for t, ok in candidates]
    return torch.stack(hits).amin(dim=0)


def _away_from_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < _PARALLEL, _PARALLEL, x)


def _roots(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both roots of a t² + 2 half_b t + c = 0, and whether they are real."""
    discriminant = half_b.square() - a * c
    root = discriminant.clamp(min=0).sqrt()
    safe = _away_from_zero(a)
    return (-half_b - root) / safe, (-half_b + root) / safe, discriminant > 0


def _sphere(o: Tensor, d: Tensor) -> Tensor:
    o = o - torch.tensor([0.0, 0.0, 1.0])
    near, far, real = _roots(d.square().sum(-1), (o * d).sum(-1), o.square().sum(-1) - 1)
    return _first((near, real), (far, real))


def _cube(o: Tensor, d: Tensor) -> Tensor:
    o = o - torch.tensor([0.0, 0.0, CUBE_HALF])
    inverse = 1 / _away_from_zero(d)
    one, two = (-CUBE_HALF - o) * inverse, (CUBE_HALF - o) * inverse
    near = torch.minimum(one, two).amax(dim=-1)
    far = torch.maximum(one, two).amin(dim=-1)
    return _first((near, near <= far), (far, near <= far))


def _disc(o: Tensor, d: Tensor, height: float, radius: float) -> Hit:
    """A horizontal disc around the z axis."""
    t = (height - o[..., 2]) / _away_from_zero(d[..., 2])
    flat = o[..., :2] + t[..., None] * d[..., :2]
    return t, flat.square().sum(-1) < radius**2


def _between(o: Tensor, d: Tensor, t: Tensor) -> Tensor:
    z = o[..., 2] + t * d[..., 2]
    return (z > 0) & (z < HEIGHT)


def _cylinder(o: Tensor, d: Tensor) -> Tensor:
    flat_o, flat_d = o[..., :2], d[..., :2]
    near, far, real = _roots(
        flat_d.square().sum(-1),
        (flat_o * flat_d).sum(-1),
        flat_o.square().sum(-1) - CYLINDER_RADIUS**2,
    )
    sides = [(t, real & _between(o, d, t)) for t in (near, far)]
    caps = [_disc(o, d, height, CYLINDER_RADIUS) for height in (0.0, HEIGHT)]
    return _first(*sides, *caps)


def _cone(o: Tensor, d: Tensor) -> Tensor:
    slope = (CONE_RADIUS / HEIGHT) ** 2
    z = o[..., 2] - HEIGHT
    near, far, real = _roots(
        d[..., :2].square().sum(-1) - slope * d[..., 2].square(),
        (o[..., :2] * d[..., :2]).sum(-1) - slope * z * d[..., 2],
        o[..., :2].square().sum(-1) - slope * z.square(),
    )
    sides = [(t, real & _between(o, d, t)) for t in (near, far)]
    return _first(*sides, _disc(o, d, 0.0, CONE_RADIUS))


def _sphere_normal(p: Tensor) -> Tensor:
    return p - torch.tensor([0.0, 0.0, 1.0])


def _cube_normal(p: Tensor) -> Tensor:
    centred = p - torch.tensor([0.0, 0.0, CUBE_HALF])
    return centred * (centred.abs() >= centred.abs().amax(-1, keepdim=True))


def _cylinder_normal(p: Tensor) -> Tensor:
    x, y, z = p.unbind(-1)
    cap = z > HEIGHT - 1e-3
    side = torch.stack([x, y, torch.zeros_like(z)], dim=-1)
    return torch.where(cap[..., None], torch.tensor([0.0, 0.0, 1.0]), side)


def _cone_normal(p: Tensor) -> Tensor:
    x, y, z = p.unbind(-1)
    return torch.stack([x, y, (HEIGHT - z) * (CONE_RADIUS / HEIGHT) ** 2], dim=-1)


_INTERSECT = {"sphere": _sphere, "cube": _cube, "cylinder": _cylinder, "cone": _cone}
_NORMAL = {
    "sphere": _sphere_normal,
    "cube": _cube_normal,
    "cylinder": _cylinder_normal,
    "cone": _cone_normal,
}
