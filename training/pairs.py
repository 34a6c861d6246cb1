"""Pairs of a source image and its true edit, as a prior is trained and judged on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.synthetic.cameras import draw_cameras
from csd_nerf.synthetic.choices import Choice, all_choices
from csd_nerf.synthetic.edits import Edit, Kind, edits_of, render_edit
from csd_nerf.synthetic.render import Rendering, render
from csd_nerf.synthetic.scenes import Scenes, draw_scenes
from training.collages import draw_collages

SCENE_KINDS: dict[Kind, float] = {"recolour": 0.7, "floor": 0.12, "sky": 0.06, "weather": 0.12}
"""How often an edit of the scene itself is of each kind; recolouring is the hardest to learn, since
the object has to be found by its shape."""
CHOICE_WEIGHTS: dict[Kind, float] = {"recolour": 4.0}
"""How readily a choice is taken, relative to the others."""
COLLAGE_SHARE = 1 / 5
"""Share of the sources that are collages instead of scenes."""
LOOK_WEIGHTS = {"sketch": 3.0, "negative": 2.0, "vivid": 2.0}
"""How often a look is drawn, relative to the others; these are the hardest to learn."""


@dataclass(frozen=True)
class Pair:
    """A source, an edit, and what the edit makes of the source."""

    source01: Float[Tensor, "3 h w"]
    edited01: Float[Tensor, "3 h w"]
    edit: Edit
    asked: Edit | Choice
    """What the instruction asks for: the edit itself, or a choice of which it is one answer."""


def draw_pairs(
    seed: int, *, height: int, width: int, scene_edits: int = 2, looks: int = 1, choices: int = 3
) -> list[Pair]:
    """The pairs of one seed: one source under several edits, which share its rendering.

    A scene gets `scene_edits` changes of itself, each of what is in view, `looks` looks, and an
    answer to each of `choices` choices. A collage gets as many looks as a scene gets changes, and
    as many answers to "change look", each without preference.
    """
    choose = random.Random(seed)
    if choose.random() < COLLAGE_SHARE:
        source01 = draw_collages([seed], height=height, width=width)
        wanted: list[tuple[Edit, Edit | Choice]] = [
            (edit, edit) for edit in _draw_looks(choose, scene_edits)
        ]
        look = all_choices()["change look"]
        if choices:
            wanted += [(edit, look) for edit in choose.sample(look.edits, scene_edits)]
        return [Pair(source01[0], e.edit_image(source01)[0], e, asked) for e, asked in wanted]
    scenes, cameras = draw_scenes([seed]), draw_cameras([seed])
    rendering = render(scenes, cameras, height=height, width=width)
    chosen = [
        edit
        for _ in range(scene_edits)
        if (edit := _draw_edit(choose, lambda e: e.applies(scenes, rendering)[0])) is not None
    ]
    wanted = [(edit, edit) for edit in [*chosen, *_draw_looks(choose, looks)]]
    wanted += _draw_answers(choose, scenes, rendering, choices)

    def edited01(edit: Edit) -> Tensor:
        if edit.kind == "look":
            return edit.edit_image(rendering.image01)[0]
        return render_edit(edit, scenes, cameras, height=height, width=width)[0]

    return [Pair(rendering.image01[0], edited01(edit), edit, asked) for edit, asked in wanted]


def _draw_looks(choose: random.Random, count: int) -> list[Edit]:
    """Different looks, the hard ones more often."""
    looks = edits_of(["look"])
    rank = {e.name: choose.random() ** (1 / LOOK_WEIGHTS.get(e.name, 1.0)) for e in looks}
    return sorted(looks, key=lambda edit: rank[edit.name], reverse=True)[:count]


def _draw_answers(
    choose: random.Random, scenes: Scenes, rendering: Rendering, count: int
) -> list[tuple[Edit, Choice]]:
    """Answers to different choices, each drawn by the preferences of the view."""
    drawn: list[tuple[Edit, Choice]] = []
    choices = list(all_choices().values())
    rank = {c.name: choose.random() ** (1 / CHOICE_WEIGHTS.get(c.kind, 1.0)) for c in choices}
    for choice in sorted(choices, key=lambda c: rank[c.name], reverse=True):
        possible = choice.possible(scenes, rendering)
        if len(drawn) == count or not possible.any():
            continue
        weights = choice.preferences(rendering.label, possible)[0].tolist()
        drawn += [(edit, choice) for edit in choose.choices(choice.edits, weights)]
    return drawn


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
