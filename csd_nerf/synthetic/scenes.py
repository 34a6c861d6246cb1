"""Procedural scenes: their parameters, in batches, and their random generation.

A scene has a floor, a sky, a sun and one to three objects of different shapes, so that "the sphere"
names a single object. The world's unit is arbitrary (an object is about 1 high); z points up and
the floor is z = 0. A batch of scenes is a structure of arrays, with one row per scene.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd_nerf.synthetic.options import Split
from csd_nerf.synthetic.palette import COLOURS, FLOORS, SKIES, TEXTURES

SPLIT_SEEDS: dict[Split, range] = {
    "train": range(0, 10_000_000),
    "validation": range(10_000_000, 11_000_000),
    "benchmark": range(11_000_000, 12_000_000),
}
"""Seeds of the scenes of each split. Training, tuning and reported results each use their own."""


@dataclass(frozen=True)
class Scenes:
    """A batch of s scenes; object slot k always holds the shape `SHAPES[k]`.

    Attributes:
        present: Which of the four objects exist.
        position: Centre of each object on the floor.
        size: Scale of each object; 1 gives a sphere of radius 1.
        yaw: Rotation of each object about z, in radians.
        colour: Index into `COLOURS`.
        tint: Small RGB offset that is added to each object's colour, so that "red" varies.
        texture: Index into `TEXTURES`.
        floor: Index into `FLOORS`.
        floor_scale: Factor of the size of the floor's pattern.
        sky: Index into `SKIES`.
        sun: Unit vector towards the sun.
        sun_strength: Share of direct light; the rest is ambient.
        fog: Extinction coefficient per world unit; 0 is clear air.
        snow: Snow cover of upward-facing surfaces, from 0 to 1.
    """

    present: Bool[Tensor, "s 4"]
    position: Float[Tensor, "s 4 2"]
    size: Float[Tensor, "s 4"]
    yaw: Float[Tensor, "s 4"]
    colour: Int[Tensor, "s 4"]
    tint: Float[Tensor, "s 4 3"]
    texture: Int[Tensor, "s 4"]
    floor: Int[Tensor, "s"]
    floor_scale: Float[Tensor, "s"]
    sky: Int[Tensor, "s"]
    sun: Float[Tensor, "s 3"]
    sun_strength: Float[Tensor, "s"]
    fog: Float[Tensor, "s"]
    snow: Float[Tensor, "s"]

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.floor)

    def __getitem__(self, index: int | slice) -> Scenes:
        """The scenes of a slice, or a single scene as a batch of one."""
        rows = slice(index, index + 1) if isinstance(index, int) else index
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def repeat(self, times: int) -> Scenes:
        """Repeat each scene `times` times in a row, to render it from several cameras."""
        return Scenes(
            **{
                f.name: getattr(self, f.name).repeat_interleave(times, dim=0)
                for f in dataclasses.fields(self)
            }
        )

    @staticmethod
    def cat(parts: Sequence[Scenes]) -> Scenes:
        """Concatenate batches."""
        return Scenes(
            **{
                f.name: torch.cat([getattr(part, f.name) for part in parts])
                for f in dataclasses.fields(Scenes)
            }
        )


def draw_scenes(seeds: Sequence[int]) -> Scenes:
    """Draw one scene per seed, which depends on this seed only."""
    return Scenes.cat([_draw_scene(torch.Generator().manual_seed(int(seed))) for seed in seeds])


def _draw_scene(generator: torch.Generator) -> Scenes:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    def choice(count: int, *shape: int) -> Tensor:
        return torch.randint(count, shape, generator=generator)

    count = 1 + int(choice(3))
    present = torch.zeros(1, 4, dtype=torch.bool)
    present[0, torch.randperm(4, generator=generator)[:count]] = True
    # Objects stand on a ring in different sectors, so that they rarely touch (in 1 of 40 scenes).
    sector = torch.randperm(4, generator=generator).float()
    angle = 2 * torch.pi * (sector + uniform(-0.2, 0.2, 4)) / 4 + uniform(0.0, 2 * torch.pi, 1)
    ring = uniform(1.0, 1.5, 4) if count > 1 else uniform(0.0, 0.3, 4)
    height = uniform(0.45, 1.2, 1)
    azimuth = uniform(0.0, 2 * torch.pi, 1)
    sun = torch.stack([azimuth.cos() * height.cos(), azimuth.sin() * height.cos(), height.sin()], 1)
    return Scenes(
        present=present,
        position=(ring * torch.stack([angle.cos(), angle.sin()])).T[None],
        size=uniform(0.55, 0.8, 1, 4) * (1.0 if count > 1 else 1.35),
        yaw=uniform(0.0, 2 * torch.pi, 1, 4),
        colour=choice(len(COLOURS), 1, 4),
        tint=uniform(-0.06, 0.06, 1, 4, 3),
        texture=choice(len(TEXTURES), 1, 4) * (torch.rand(1, 4, generator=generator) < 0.5),
        floor=choice(len(FLOORS), 1),
        floor_scale=uniform(0.7, 1.6, 1),
        sky=choice(len(SKIES), 1),
        sun=sun,
        sun_strength=uniform(0.35, 0.6, 1),
        fog=torch.zeros(1),
        snow=torch.zeros(1),
    )
