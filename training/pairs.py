"""Pairs of a source image and its true edit, as a prior is trained and judged on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.synthetic.cameras import draw_cameras
from csd_nerf.synthetic.edits import Edit, Kind, edits_of, render_edit
from csd_nerf.synthetic.render import render
from csd_nerf.synthetic.scenes import draw_scenes
from training.collages import draw_collages

SCENE_KINDS: dict[Kind, float] = {"recolour": 0.5, "floor": 0.2, "sky": 0.12, "weather": 0.18}
"""How often an edit of the scene itself is of each kind; recolouring is the hardest to learn."""
COLLAGE_SHARE = 1 / 3
"""Share of the sources that are collages instead of scenes."""


@dataclass(frozen=True)
class Pair:
    """A source, an edit, and what the edit makes of the source."""

    source01: Float[Tensor, "3 h w"]
    edited01: Float[Tensor, "3 h w"]
    edit: Edit


def draw_pairs(
    seed: int, *, height: int, width: int, scene_edits: int = 2, looks: int = 1
) -> list[Pair]:
    """The pairs of one seed: one source under several edits, which shares its rendering.

    A scene gets `scene_edits` changes of itself, each of what is in view, and `looks` looks; a
    collage gets as many looks as a scene gets changes.
    """
    choose = random.Random(seed)
    if choose.random() < COLLAGE_SHARE:
        source01 = draw_collages([seed], height=height, width=width)
        chosen = choose.sample(edits_of(["look"]), scene_edits)
        return [Pair(source01[0], edit.edit_image(source01)[0], edit) for edit in chosen]
    scenes, cameras = draw_scenes([seed]), draw_cameras([seed])
    rendering = render(scenes, cameras, height=height, width=width)
    chosen = [
        edit
        for _ in range(scene_edits)
        if (edit := _draw_edit(choose, lambda e: e.applies(scenes, rendering)[0])) is not None
    ]
    size = {"height": height, "width": width}
    edited = [render_edit(edit, scenes, cameras, **size)[0] for edit in chosen]
    chosen_looks = choose.sample(edits_of(["look"]), looks)
    edited += [edit.edit_image(rendering.image01)[0] for edit in chosen_looks]
    source = rendering.image01[0]
    return [Pair(source, image, e) for image, e in zip(edited, chosen + chosen_looks, strict=True)]


def _draw_edit(choose: random.Random, applies: Callable[[Edit], bool]) -> Edit | None:
    """A random edit of the scene that changes something in view; None where there is none."""
    kinds = list(SCENE_KINDS)
    for kind in sorted(kinds, key=lambda k: choose.random() ** (1 / SCENE_KINDS[k]), reverse=True):
        fitting = [edit for edit in edits_of([kind]) if applies(edit)]
        if fitting:
            return choose.choice(fitting)
    return None


def stack_pairs(pairs: Sequence[Pair]) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]]:
    """Sources and edits of pairs of one size."""
    return torch.stack([p.source01 for p in pairs]), torch.stack([p.edited01 for p in pairs])
