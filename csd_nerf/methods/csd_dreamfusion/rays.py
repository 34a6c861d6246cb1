"""Intersections of rays with the unit sphere and with the object's surface."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BEYOND = 10.0
"""Depth of rays that meet no surface, in world units; well outside the sphere."""


def sphere_span(
    origin: Float[Tensor, "r 3"], direction: Float[Tensor, "r 3"]
) -> tuple[Bool[Tensor, "r"], Float[Tensor, "r"], Float[Tensor, "r"]]:
    """Whether each ray meets the unit sphere, and the distances at which it enters and leaves."""
    half = (origin * direction).sum(-1)
    discriminant = half.square() - origin.square().sum(-1) + 1
    root = discriminant.clamp(min=1e-8).sqrt()
    near, far = (-half - root).clamp(min=0), (-half + root).clamp(min=1e-4)
    return (discriminant > 0) & (far > near), near, torch.maximum(far, near + 1e-4)


def surface_depth(
    density: Float[Tensor, "r k"], distance: Float[Tensor, "r k"], *, threshold: float
) -> Float[Tensor, "r"]:
    """Distance at which density first reaches a threshold on each ray; `BEYOND` if it never does.

    The surface is the same for all cameras, so the depth maps of several views agree, even if the
    object is soft. (Mean or median depth by a ray's weights would depend on the camera.) Between
    samples the logarithm of the density is interpolated linearly.

    Args:
        density: Density at the samples, sorted from near to far.
        distance: Distances of the samples along the ray.
        threshold: Density of the surface.
    """
    reached = density >= threshold
    first = reached.int().argmax(1, keepdim=True)
    before = (first - 1).clamp(min=0)
    level = density.clamp(min=1e-6).log()
    low, high = level.gather(1, before), level.gather(1, first)
    share = ((math.log(threshold) - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    depth = torch.lerp(distance.gather(1, before), distance.gather(1, first), share)[:, 0]
    return torch.where(reached.any(1), depth, BEYOND)
