"""Instructions with several right answers, such as "change the floor".

Each answer of a `Choice` is a known edit. A model that has learnt choices must decide for one
answer in every image. Images that are edited one by one then decide differently, which is what
joint editing has to prevent. To make sure of it, the answer in a training pair is drawn with a
preference that depends on the view (`Choice.preferences`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd_nerf.synthetic import wordings
from csd_nerf.synthetic.edits import Edit, Kind, all_edits
from csd_nerf.synthetic.palette import SHAPES
from csd_nerf.synthetic.render import FLOOR, SKY, Rendering
from csd_nerf.synthetic.scenes import Scenes

PREFERENCE = 1.5
"""Strength of the preference: at equal answers the most likely is exp(3) times as likely as the
least likely."""
TURNS = 2
"""Number of times that the preference goes through all answers while the target moves from the left
edge of the image to the right."""


@dataclass(frozen=True)
class Choice:
    """An instruction with several right answers.

    Attributes:
        name: Unique name, also among the edits.
        kind: Kind of its answers.
        instructions: Wordings that are used in training.
        unseen_instruction: A wording for validation and benchmark only.
        answers: Names of the edits that are right answers.
        target: What changes: the slot of an object, `FLOOR` or `SKY`; None for the whole image.
    """

    name: str
    kind: Kind
    instructions: tuple[str, ...]
    unseen_instruction: str
    answers: tuple[str, ...]
    target: int | None = None

    @property
    def edits(self) -> list[Edit]:
        """The answers."""
        return [all_edits()[name] for name in self.answers]

    def possible(self, scenes: Scenes, rendering: Rendering) -> Bool[Tensor, "s k"]:
        """Whether each of the k answers applies to each scene; see `Edit.applies`."""
        return torch.tensor([e.applies(scenes, rendering) for e in self.edits]).T

    def preferences(
        self, label: Int[Tensor, "s h w"], possible: Bool[Tensor, "s k"]
    ) -> Float[Tensor, "s k"]:
        """Probability of each answer in each view, which a model is to learn.

        p_k is proportional to exp(PREFERENCE cos 2 pi (TURNS u - k / K)), where u is the mean
        column of the target in the image, from 0 to 1. For floor, sky and looks it is the mean
        column of all objects; without objects in view all answers are equally likely.

        Args:
            label: What each pixel shows; see `Rendering`.
            possible: From `possible`; an answer that isn't has probability 0.

        Raises:
            ValueError: If no answer is possible in a view.
        """
        if not possible.any(1).all():
            raise ValueError(
                f"Each view needs an answer of {self.name!r} that applies, got none in views "
                f"{(~possible.any(1)).nonzero()[:, 0].tolist()}; leave these views out."
            )
        painted = self.kind == "recolour"
        shown = (label == self.target if painted else label < FLOOR).double().sum(1)
        columns = (torch.arange(label.shape[2]) + 0.5) / label.shape[2]
        total = shown.sum(1)
        place = (shown * columns).sum(1) / total.clamp(min=1)
        phase = TURNS * place[:, None] - torch.arange(len(self.answers)) / len(self.answers)
        logits = PREFERENCE * (2 * math.pi * phase).cos() * (total > 0)[:, None]
        return logits.masked_fill(~possible, -torch.inf).softmax(1).float()


def _paint(shape: str) -> Choice:
    answers = tuple(f"{shape} {colour}" for colour in ("red", "green", "blue", "yellow"))
    return _choice(f"paint {shape}", "recolour", answers, SHAPES.index(shape))


def _choice(name: str, kind: Kind, answers: tuple[str, ...], target: int | None = None) -> Choice:
    words = wordings.CHOICES[name]
    return Choice(name, kind, words.seen, words.unseen, answers, target)


@lru_cache(maxsize=1)
def all_choices() -> dict[str, Choice]:
    """All choices by name."""
    floors = tuple(f"floor {name}" for name in ("grass", "sand", "water", "lava"))
    skies = tuple(f"sky {name}" for name in ("pink", "orange", "green", "purple"))
    looks = ("sepia", "blueprint", "infrared", "negative")
    choices = [
        *(_paint(shape) for shape in SHAPES),
        _choice("change floor", "floor", floors, FLOOR),
        _choice("change sky", "sky", skies, SKY),
        _choice("change look", "look", looks),
    ]
    return {choice.name: choice for choice in choices}
