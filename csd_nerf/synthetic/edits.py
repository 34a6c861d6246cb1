"""Known edits: for each, its instructions and the exact change.

An edit changes either the scene (recolouring, floor, sky, weather) or the rendered image (looks).
One wording of each edit is never used in training, so that benchmarks can use unseen instructions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.hints import did_you_mean
from csd_nerf.synthetic import wordings
from csd_nerf.synthetic.cameras import Cameras
from csd_nerf.synthetic.looks import LOOKS
from csd_nerf.synthetic.palette import COLOURS, FLOORS, SHAPES, SKIES
from csd_nerf.synthetic.render import FLOOR, SKY, Rendering, render
from csd_nerf.synthetic.scenes import Scenes

Kind = Literal["recolour", "floor", "sky", "weather", "look"]

FOG_EXTINCTION = 0.22
MIN_SHARE = 0.03
"""An edit applies only if its target covers more than this share of the image."""


@dataclass(frozen=True)
class Edit:
    """One edit.

    Attributes:
        name: Unique name, which the command line accepts.
        kind: Kind of the edit.
        instructions: Wordings that are used in training.
        unseen_instruction: A wording for validation and benchmark only.
        target: What must be in view: the slot of an object, `FLOOR` or `SKY`; None for nothing.
        changes: Names of fields of `Scenes` with their new values (for the kind recolour, the
            value of the target object).
    """

    name: str
    kind: Kind
    instructions: tuple[str, ...]
    unseen_instruction: str
    target: int | None = None
    changes: tuple[tuple[str, float | int], ...] = ()

    def wording(self, asked: str) -> str:
        """The instruction for a model: `asked`, or the first wording if that is the name."""
        return self.instructions[0] if _plain(asked) == self.name else asked

    def edit_scenes(self, scenes: Scenes) -> Scenes:
        """The scenes after the edit; a look doesn't change them."""
        fresh = {}
        for field, value in self.changes:
            values = getattr(scenes, field).clone()
            if self.kind == "recolour":
                values[:, self.target] = value
            else:
                values[:] = value
            fresh[field] = values
        return dataclasses.replace(scenes, **fresh)

    def edit_image(self, image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The image after the edit; only a look changes it."""
        return LOOKS[self.name](image01) if self.kind == "look" else image01

    def applies(self, scenes: Scenes, rendering: Rendering) -> list[bool]:
        """Whether, in each scene, the edit's target is in view and the edit changes the scene."""
        flags = torch.ones(len(scenes), dtype=torch.bool)
        if self.target is not None:
            flags &= (rendering.label == self.target).float().mean(dim=(1, 2)) > MIN_SHARE
        for field, value in self.changes:
            now = getattr(scenes, field)
            flags &= (now[:, self.target] if self.kind == "recolour" else now) != value
        return flags.tolist()


def render_edit(
    edit: Edit, scenes: Scenes, cameras: Cameras, *, height: int, width: int
) -> Float[Tensor, "s 3 h w"]:
    """Render the true edit of each scene from its camera."""
    edited = render(edit.edit_scenes(scenes), cameras, height=height, width=width)
    return edit.edit_image(edited.image01)


def _recolour(shape: str, colour: str) -> Edit:
    words = wordings.recolouring(shape, colour)
    changes = (("colour", list(COLOURS).index(colour)),)
    slot = SHAPES.index(shape)
    return Edit(f"{shape} {colour}", "recolour", words.seen, words.unseen, slot, changes)


def _floor(name: str) -> Edit:
    words = wordings.floor(name)
    changes = (("floor", list(FLOORS).index(name)),)
    return Edit(f"floor {name}", "floor", words.seen, words.unseen, FLOOR, changes)


def _sky(name: str) -> Edit:
    words = wordings.sky(name)
    changes = (("sky", list(SKIES).index(name)),)
    return Edit(f"sky {name}", "sky", words.seen, words.unseen, SKY, changes)


def _weather(name: str, field: str, value: float) -> Edit:
    words = wordings.WEATHER[name]
    return Edit(name, "weather", words.seen, words.unseen, changes=((field, value),))


def _look(name: str) -> Edit:
    words = wordings.LOOKS[name]
    return Edit(name, "look", words.seen, words.unseen)


@lru_cache(maxsize=1)
def all_edits() -> dict[str, Edit]:
    """All edits by name."""
    edits = [_recolour(shape, colour) for shape in SHAPES for colour in COLOURS]
    edits += [_floor(name) for name in FLOORS]
    edits += [_sky(name) for name in SKIES]
    edits += [_weather("fog", "fog", FOG_EXTINCTION), _weather("snow", "snow", 1.0)]
    edits += [_look(name) for name in LOOKS]
    return {edit.name: edit for edit in edits}


def find_edit(text: str) -> Edit:
    """Find an edit by its name or any of its wordings; case is ignored.

    Raises:
        ValueError: If there is no such edit; the message names a similar one.
    """
    if edit := _by_wording().get(_plain(text)):
        return edit
    names = [word for edit in all_edits().values() for word in (edit.name, *edit.instructions)]
    raise ValueError(
        f"An edit must be one whose true result is known, by name or wording, got {text!r}"
        f"{did_you_mean(text, names)} csd-nerf edits lists all."
    )


@lru_cache(maxsize=1)
def _by_wording() -> dict[str, Edit]:
    """All edits by name and by each wording."""
    return {
        _plain(text): edit
        for edit in all_edits().values()
        for text in (edit.name, edit.unseen_instruction, *edit.instructions)
    }


def _plain(text: str) -> str:
    """The text in lower case, with single spaces between words."""
    return " ".join(text.lower().split())


def edits_of(kinds: Sequence[Kind]) -> list[Edit]:
    """All edits of these kinds."""
    return [edit for edit in all_edits().values() if edit.kind in kinds]
