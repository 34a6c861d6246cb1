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

from csd_nerf.synthetic.cameras import Cameras
from csd_nerf.synthetic.looks import LOOKS
from csd_nerf.synthetic.render import FLOOR, SKY, Rendering, render
from csd_nerf.synthetic.scenes import COLOURS, FLOORS, SHAPES, SKIES, Scenes

Kind = Literal["recolour", "floor", "sky", "weather", "look"]

SYNONYMS = {
    "sphere": ("sphere", "ball"),
    "cube": ("cube", "box"),
    "cylinder": ("cylinder",),
    "cone": ("cone",),
}
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
    words = [
        template.format(shape=word, colour=colour)
        for word in SYNONYMS[shape]
        for template in (
            "make the {shape} {colour}",
            "paint the {shape} {colour}",
            "turn the {shape} {colour}",
            "change the colour of the {shape} to {colour}",
            "the {shape} should be {colour}",
        )
    ]
    slot = SHAPES.index(shape)
    changes = (("colour", list(COLOURS).index(colour)),)
    unseen = f"colour the {shape} {colour}"
    return Edit(f"{shape} {colour}", "recolour", tuple(words), unseen, slot, changes)


def _floor(name: str) -> Edit:
    words = (
        f"make the floor {name}",
        f"turn the floor into {name}",
        f"change the ground to {name}",
        f"put it on {name}",
        f"make the ground {name}",
    )
    changes = (("floor", list(FLOORS).index(name)),)
    return Edit(f"floor {name}", "floor", words, f"replace the floor with {name}", FLOOR, changes)


def _sky(name: str) -> Edit:
    words = (
        f"make the sky {name}",
        f"turn the sky {name}",
        f"change the sky to {name}",
        f"paint the sky {name}",
        f"the sky should be {name}",
    )
    changes = (("sky", list(SKIES).index(name)),)
    return Edit(f"sky {name}", "sky", words, f"give it a {name} sky", SKY, changes)


_WEATHER = (
    Edit(
        "fog",
        "weather",
        ("add fog", "make it foggy", "fill the scene with fog", "put it in fog", "let fog come up"),
        "make it a foggy day",
        changes=(("fog", FOG_EXTINCTION),),
    ),
    Edit(
        "snow",
        "weather",
        ("make it snow", "cover it with snow", "make it snowy", "turn it into winter", "add snow"),
        "make it look like winter with snow",
        changes=(("snow", 1.0),),
    ),
)

_LOOK_WORDS: dict[str, tuple[str, ...]] = {
    "black and white": (
        "make it black and white",
        "turn it into a black and white photo",
        "make it grayscale",
        "remove the colours",
        "turn it black and white",
        "turn it into a black and white photograph",
    ),
    "sepia": (
        "make it sepia",
        "turn it into a sepia photo",
        "make it an old sepia photograph",
        "turn it into an old photograph",
        "give it a sepia tone",
        "turn it into a sepia photograph",
    ),
    "night": (
        "make it night",
        "turn it into night",
        "change it to night time",
        "make it look like night",
        "turn day into night",
        "make it a night scene",
    ),
    "sunset": (
        "make it sunset",
        "turn it into a sunset",
        "change it to sunset light",
        "put it in the evening sun",
        "make it look like sunset",
        "make it a sunset scene",
    ),
    "negative": (
        "invert the colours",
        "make it a negative",
        "turn it into a photographic negative",
        "invert it",
        "turn it into a negative",
        "make it look like a negative",
    ),
    "vivid": (
        "make it vivid",
        "make the colours vivid",
        "make it more colourful",
        "saturate the colours",
        "make it colourful",
        "give it vivid colours",
    ),
    "faded": (
        "make it faded",
        "fade the colours",
        "make it pale",
        "turn it into a faded photo",
        "wash out the colours",
        "give it pale faded colours",
    ),
    "brighter": (
        "make it brighter",
        "brighten it",
        "make it bright",
        "add more light",
        "lighten the image",
        "make the image brighter",
    ),
    "darker": (
        "make it darker",
        "darken it",
        "make it dark",
        "remove light",
        "darken the image",
        "make the image darker",
    ),
    "blueprint": (
        "make it a blueprint",
        "turn it into a blueprint",
        "turn it into a cyanotype",
        "make it look like a blueprint",
        "print it as a cyanotype",
        "make it a cyanotype blueprint",
    ),
    "infrared": (
        "make it an infrared image",
        "turn it into a thermal image",
        "show it in infrared",
        "make it look like a thermal camera",
        "turn it into infrared",
        "make it a thermal infrared picture",
    ),
    "sketch": (
        "make it a sketch",
        "turn it into a pencil drawing",
        "draw it with a pencil",
        "turn it into a sketch",
        "make it a pencil sketch",
        "make it look like a pencil sketch",
    ),
}
"""Wordings of the looks; the last of each is the unseen instruction."""


@lru_cache(maxsize=1)
def all_edits() -> dict[str, Edit]:
    """All edits by name."""
    edits = [_recolour(shape, colour) for shape in SHAPES for colour in COLOURS]
    edits += [_floor(name) for name in FLOORS]
    edits += [_sky(name) for name in SKIES]
    edits += _WEATHER
    edits += [Edit(name, "look", words[:-1], words[-1]) for name, words in _LOOK_WORDS.items()]
    return {edit.name: edit for edit in edits}


def find_edit(text: str) -> Edit:
    """Find an edit by its name or any of its wordings; case is ignored.

    Raises:
        ValueError: If there is no such edit; the message lists the names.
    """
    wanted = _plain(text)
    for edit in all_edits().values():
        if wanted in (edit.name, edit.unseen_instruction, *edit.instructions):
            return edit
    raise ValueError(
        f"An edit must be one whose true result is known, got {text!r}. Choose a name out of: "
        f"{', '.join(all_edits())}; or one of its wordings, such as 'make the sphere blue'."
    )


def _plain(text: str) -> str:
    """The text in lower case, with single spaces between words."""
    return " ".join(text.lower().split())


def edits_of(kinds: Sequence[Kind]) -> list[Edit]:
    """All edits of these kinds."""
    return [edit for edit in all_edits().values() if edit.kind in kinds]
