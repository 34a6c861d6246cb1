"""Images with the statistics of photographs: textured shapes that occlude one another.

Dead leaves (Lee, Mumford and Huang 2001): discs and boxes with sizes from a power law cover one
another, which gives the edges and the 1/f spectrum of natural images; each has a colour of its
own, a gradient and noise. A prior that has seen looks applied to these carries them to photographs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

LEAVES = 48


def draw_collages(seeds: Sequence[int], *, height: int, width: int) -> Float[Tensor, "n 3 h w"]:
    """One collage a seed."""
    rows = [_collage(torch.Generator().manual_seed(int(s)), height, width) for s in seeds]
    return torch.stack(rows)


def _spectral_noise(generator: torch.Generator, height: int, width: int) -> Tensor:
    """RGB noise with an amplitude spectrum of f^-1.4, zero mean, unit variance, mostly grey."""
    fy = torch.fft.fftfreq(height)[:, None] * height
    fx = torch.fft.rfftfreq(width)[None] * width
    amplitude = (fy.square() + fx.square() + 1).pow(-0.7)
    white = torch.randn(3, height, width, generator=generator)
    mixed = 0.25 * white + 0.8 * white[:1]
    noise = torch.fft.irfft2(torch.fft.rfft2(mixed) * amplitude, s=(height, width))
    return (noise - noise.mean()) / noise.std()


def _collage(generator: torch.Generator, height: int, width: int) -> Float[Tensor, "3 h w"]:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    edge = max(height, width)
    y, x = torch.meshgrid(torch.arange(height) / edge, torch.arange(width) / edge, indexing="ij")
    # Radii with density r^-3 between the bounds: the law that makes the image scale-invariant.
    radius = (uniform(1 / 0.8**2, 1 / 0.06**2, LEAVES)).rsqrt()[:, None, None]
    dx = x - uniform(-0.1, 1.1, LEAVES)[:, None, None]
    dy = y - uniform(-0.1, 1.1, LEAVES)[:, None, None]
    angle = uniform(0.0, torch.pi, LEAVES)[:, None, None]
    u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    v = v * uniform(0.5, 2.5, LEAVES)[:, None, None]
    box = (torch.rand(LEAVES, generator=generator) < 0.5)[:, None, None]
    distance = torch.where(box, torch.maximum(u.abs(), v.abs()), (u.square() + v.square()).sqrt())
    # Edges one pixel wide: the cover falls from 1 to 0 across the outline.
    cover = ((radius - distance) * edge + 0.5).clamp(0, 1)

    grey = uniform(0.03, 0.97, LEAVES, 1)
    colour = (grey + uniform(-0.45, 0.45, LEAVES, 3) * uniform(0.1, 1.0, LEAVES, 1)).clamp(0, 1)
    slope = uniform(-0.35, 0.35, LEAVES)[:, None, None] * (u / radius.clamp(min=0.1))
    gain = uniform(0.0, 0.08, LEAVES)
    noise = _spectral_noise(generator, height, width)
    canvas = uniform(0.1, 0.9, 1, 1, 1) + uniform(-0.15, 0.15, 3, 1, 1) + 0.1 * noise
    for k in range(LEAVES):
        leaf = colour[k][:, None, None] + slope[k] + gain[k] * noise.roll(k * 7, dims=-1)
        canvas = torch.lerp(canvas, leaf, cover[k])
    shade = uniform(0.55, 1.2, 1) + 0.08 * noise[:1]
    return (canvas * shade).clamp(0, 1)
