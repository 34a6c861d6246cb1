"""Sets of images that show one world, with an instruction that has several right answers.

A set is given by its medium, its position and its split. It is chosen so that images which are
edited one by one disagree: a model that has learnt `Choice.preferences` prefers different answers
in different images. The images of a panorama are its tiles: squares of the prior's window would
leave the horizon to chance, so a tile is one window wide and as high as the strip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.synthetic.cameras import Cameras, orbit_cameras
from csd_nerf.synthetic.choices import Choice, all_choices
from csd_nerf.synthetic.edits import Edit, Kind
from csd_nerf.synthetic.panoramas import Panorama, draw_panorama
from csd_nerf.synthetic.render import Rendering, render
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Scenes, Split, draw_scenes
from csd_nerf.synthetic.videos import draw_video

Medium = Literal["views", "video", "panorama"]
MEDIA: tuple[Medium, ...] = get_args(Medium)
IMAGES = 6
"""Number of views, frames or tiles in a set."""
SIZE = 64
"""Height and width of views and frames, and width of a panorama's tile, in pixels."""
STRIP_HEIGHT = 96
"""Height of a panorama in pixels."""
ARC, ELEVATION = 70.0, (12.0, 22.0)
"""Degrees over which the cameras of views are spread, and their lowest and highest elevation."""
LEAST_ANSWERS = 3
"""Smallest number of answers that are possible in all images of a set."""
LEAST_PAINTED = 0.05
"""Smallest share of every image that an object to be painted covers."""
SEEDS_APART = 1000
"""Number of seeds that are searched for a set; each set has seeds of its own."""
_KINDS: dict[Medium, tuple[Kind, ...]] = {
    "views": ("recolour", "floor", "sky", "look"),
    "video": ("recolour", "floor", "sky", "look"),
    # No object is in view in all tiles of a panorama.
    "panorama": ("floor", "sky", "look"),
}


@dataclass(frozen=True)
class ChoiceSet:
    """Images with an instruction, and the true results of all its answers.

    A panorama's n images are the tiles of one strip, from left to right.

    Attributes:
        name: Unique among the sets.
        medium: Where the images come from.
        choice: The instruction with several right answers.
        answers: The answers that are possible in all images.
        source: The images, as the methods get them.
        truths01: The true result of each answer.
        region: Where an answer changes the image: the choice's target, or everything.
        preferences: Probability of each answer in each image; see `Choice.preferences`.
    """

    name: str
    medium: Medium
    choice: Choice
    answers: tuple[str, ...]
    source: UInt8[Tensor, "n h w 3"]
    truths01: Float[Tensor, "k n 3 h w"]
    region: Bool[Tensor, "n h w"]
    preferences: Float[Tensor, "n k"]

    @property
    def edit(self) -> Choice:
        """The choice, under the name that all inputs of the benchmark have for what is asked."""
        return self.choice

    @property
    def source01(self) -> Float[Tensor, "n 3 h w"]:
        """The source in [0, 1]."""
        return to_01(self.source)


@dataclass(frozen=True)
class _Views:
    """One camera for each image; `scenes` holds the scene at the time of each."""

    scenes: Scenes
    cameras: Cameras

    def render(self, edit: Edit | None = None, *, size: int = SIZE) -> Rendering:
        scenes = self.scenes if edit is None else edit.edit_scenes(self.scenes)
        return render(scenes, self.cameras, height=size, width=size)


@dataclass(frozen=True)
class _Tiles:
    """The tiles of a panorama; `scenes` holds its scene once for each tile."""

    panorama: Panorama
    scenes: Scenes

    def render(self, edit: Edit | None = None, *, size: int = SIZE) -> Rendering:
        del size  # The size of a strip belongs to the panorama.
        scenes = self.panorama.scenes
        whole = self.panorama.render(scenes if edit is None else edit.edit_scenes(scenes))
        return Rendering(
            cut_tiles(whole.image01), cut_tiles(whole.depth[:, None])[:, 0], _cut(whole.label)
        )


def draw_choice_set(medium: Medium, position: int, split: Split) -> ChoiceSet:
    """The set at a position; kinds of choices (paint, floor, sky, look) are repeated in turn.

    It is the first world of its `SEEDS_APART` seeds with at least `LEAST_ANSWERS` answers that are
    possible in all images, of which none is the most preferred one in more than n - 2 of the n
    images. An object to be painted covers at least `LEAST_PAINTED` of every image.

    Raises:
        ValueError: If none of the seeds has such a world.
    """
    kinds = _KINDS[medium]
    kind = kinds[position % len(kinds)]
    choices = [choice for choice in all_choices().values() if choice.kind == kind]
    turn = position // len(kinds) % len(choices)
    first = SEEDS_APART * (len(MEDIA) * position + MEDIA.index(medium))
    for seed in SPLIT_SEEDS[split][first : first + SEEDS_APART]:
        world = _draw_world(medium, seed)
        small = world.render(size=SIZE // 2)
        for choice in [*choices[turn:], *choices[:turn]]:
            if _differs(choice, world.scenes, small):
                name = f"{medium} {position:02d} {choice.name}"
                if (found := _render_set(name, medium, choice, world)) is not None:
                    return found
    raise ValueError(
        f"No {medium} of {split} at position {position} has {LEAST_ANSWERS} answers and views that "
        "differ in the one that they prefer; take fewer inputs."
    )


def cut_tiles(strip: Float[Tensor, "1 c h W"]) -> Float[Tensor, "n c h w"]:
    """Cut a strip into `IMAGES` tiles, from left to right."""
    return torch.cat(strip.chunk(IMAGES, dim=3))


def join_tiles(tiles: Float[Tensor, "n c h w"]) -> Float[Tensor, "1 c h W"]:
    """Join tiles to a strip; the inverse of `cut_tiles`."""
    return torch.cat([*tiles[:, None]], dim=3)


def _cut(label: Tensor) -> Tensor:
    return torch.cat(label.chunk(IMAGES, dim=2))


def _draw_world(medium: Medium, seed: int) -> _Views | _Tiles:
    if medium == "panorama":
        panorama = draw_panorama(seed, height=STRIP_HEIGHT, width=IMAGES * SIZE)
        return _Tiles(panorama, panorama.scenes.repeat(IMAGES))
    if medium == "video":
        video = draw_video(seed, frames=IMAGES)
        return _Views(video.scenes, video.cameras)
    turn = 2 * math.pi * float(torch.rand((), generator=torch.Generator().manual_seed(seed + 1)))
    azimuth = turn + torch.linspace(0, math.radians(ARC), IMAGES)
    low, high = map(math.radians, ELEVATION)
    cameras = orbit_cameras(azimuth, torch.linspace(low, high, IMAGES))
    return _Views(draw_scenes([seed]).repeat(IMAGES), cameras)


def _differs(choice: Choice, scenes: Scenes, rendering: Rendering) -> bool:
    """Whether a choice has enough answers, and the images differ in the one that they prefer."""
    if choice.kind == "recolour":
        covered = (rendering.label == choice.target).float().mean((1, 2))
        if not bool(scenes.present[:, choice.target].all() & (covered >= LEAST_PAINTED).all()):
            return False
    possible = choice.possible(scenes, rendering).all(0)
    if int(possible.sum()) < LEAST_ANSWERS:
        return False
    preferences = choice.preferences(rendering.label, possible.expand(IMAGES, -1))
    return int(preferences.argmax(1).bincount().max()) <= IMAGES - 2


def _render_set(
    name: str, medium: Medium, choice: Choice, world: _Views | _Tiles
) -> ChoiceSet | None:
    """The set at full size; None if it fails there where it was near a limit at half size."""
    full = world.render()
    if not _differs(choice, world.scenes, full):
        return None
    possible = choice.possible(world.scenes, full).all(0)
    preferences = choice.preferences(full.label, possible.expand(IMAGES, -1))
    edits = [edit for edit, can in zip(choice.edits, possible.tolist(), strict=True) if can]
    truths = [edit.edit_image(world.render(edit).image01) for edit in edits]
    everywhere = torch.ones_like(full.label, dtype=torch.bool)
    return ChoiceSet(
        name,
        medium,
        choice,
        tuple(edit.name for edit in edits),
        to_bytes(full.image01),
        torch.stack(truths),
        everywhere if choice.target is None else full.label == choice.target,
        preferences[:, possible],
    )
