"""Colours of objects, floor and sky, before lighting."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.synthetic.palette import COLOURS, FLOORS, SKIES
from csd_nerf.synthetic.scenes import Scenes


def object_colour(
    scenes: Scenes, slot: int, point: Float[Tensor, "s r 3"]
) -> Float[Tensor, "s r 3"]:
    """Colours of one object, with tint and texture, at points in its own frame."""
    base = _table(COLOURS.values())[scenes.colour[:, slot]] + scenes.tint[:, slot]
    return base[:, None] * _texture(scenes.texture[:, slot], point)[..., None]


def _texture(texture: Int[Tensor, "s"], p: Float[Tensor, "s r 3"]) -> Float[Tensor, "s r"]:
    """Brightness of the texture at points in the object's frame: 1, or 0.62 in its dark parts."""
    around = torch.atan2(p[..., 1], p[..., 0])
    stripes = (4 * around).sin() > 0
    bands = (1.6 * torch.pi * p[..., 2]).sin() > 0
    patterns = torch.stack([torch.zeros_like(bands), stripes, stripes ^ bands, bands])
    dark = patterns.gather(0, texture[None, :, None].expand(1, -1, bands.shape[-1]))[0]
    return 1 - 0.38 * dark


def sky_colour(scenes: Scenes, direction: Float[Tensor, "s r 3"]) -> Float[Tensor, "s r 3"]:
    """Colour gradient from the horizon to the zenith; snow makes the sky pale."""
    horizon = _table(pair[0] for pair in SKIES.values())[scenes.sky][:, None]
    zenith = _table(pair[1] for pair in SKIES.values())[scenes.sky][:, None]
    height = (direction[..., 2].clamp(0, 1) / 0.5).clamp(max=1)[..., None]
    colour = horizon + (zenith - horizon) * height
    pale = torch.tensor([0.86, 0.88, 0.91]).expand_as(colour)
    return torch.lerp(colour, pale, 0.85 * scenes.snow[:, None, None])


def floor_colour(scenes: Scenes, point: Float[Tensor, "s r 3"]) -> Float[Tensor, "s r 3"]:
    """The floor's two colours, mixed by its pattern, at points in the world."""
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
    """Smooth noise in [0, 1], interpolated between random values at integer coordinates."""
    cell = xy.floor()
    fraction = xy - cell
    smooth = fraction.square() * (3 - 2 * fraction)

    def corner(dx: int, dy: int) -> Tensor:
        return ((((cell[..., 0] + dx) * 127.1 + (cell[..., 1] + dy) * 311.7).sin()) * 43758.55) % 1

    low = torch.lerp(corner(0, 0), corner(1, 0), smooth[..., 0])
    high = torch.lerp(corner(0, 1), corner(1, 1), smooth[..., 0])
    return torch.lerp(low, high, smooth[..., 1])


def _table(rows: Iterable[tuple[float, float, float]]) -> Float[Tensor, "k 3"]:
    return torch.tensor(list(rows))
