"""The user's requests to the editing stage, and what the stage tells the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.settings import EditSettings


@dataclass(frozen=True)
class EditRequest:
    """The user's request at one training step.

    Attributes:
        prompt: The instruction.
        negative_prompt: Replaces the empty text.
        source_prompt: Description of the photographs, for the residual dds.
        settings: Options of the optimisation of the views.
        region: Where the instruction applies, as `--pipeline.region` has it; empty is everywhere.
        views: Views of a round; None takes the options'.
        seed: Seed of the rounds' randomness; None takes the options'.
        chain: A new prompt edits what the scene shows when its first round begins, not the
            photographs.
        edit_now: Do an editing round before this step, even if none is due.
        paused: Put rounds that are due off until this is False again; several become one.
        return_to: Make the scene what it was at the end of this round, just before the next one; -1
            makes it the unedited scene, with its photographs. None leaves it as it is.
        preview: A camera of the scene's own kind. What it sees is edited alone and shown; nothing
            of the scene or of the stage changes.
        save: Save the scene before this step.
    """

    prompt: str
    negative_prompt: str
    source_prompt: str
    settings: EditSettings
    region: str = ""
    views: int | None = None
    seed: int | None = None
    chain: bool = False
    edit_now: bool = False
    paused: bool = False
    return_to: int | None = None
    preview: Any = None
    save: bool = False


@dataclass(frozen=True)
class Progress:
    """What the stage is doing, for a status line and a bar.

    Attributes:
        text: Such as "source 300/900", "round 2: iteration 12/30", "next round in 1,200 steps",
            "paused", or what failed, in words.
        share: How much of it is done, from 0 to 1; None where that has no meaning.
        seconds_left: Estimate of the time that it takes from now on; None if it isn't known.
    """

    text: str
    share: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class PastRound:
    """A round of the history.

    Attributes:
        index: Number of the round, counted from 0.
        step: The training step that followed it.
        prompt: Its instruction.
        region: Where it applied; empty is everywhere.
        views: Number of views that it edited.
        seconds: How long it took.
    """

    index: int
    step: int
    prompt: str
    region: str
    views: int
    seconds: float


@runtime_checkable
class Controls(Protocol):
    """Source of the user's requests to the editing stage.

    All methods are called from the thread that trains. A class that derives from this one needs
    `read` alone: the others then do nothing.
    """

    def read(self, *, editing: bool) -> EditRequest:
        """Read the request of this training step; called once before every step.

        A press of a button (`edit_now`, `return_to`, `preview`, `save`) must appear in one request
        only.

        Args:
            editing: Whether the editing stage has begun. Before that, `edit_now` must be False and
                `return_to` None, and a press of their buttons is kept until the stage begins.
        """
        ...

    def show_progress(self, progress: Progress) -> None:
        """Show what the stage is doing; called up to a few times a second, so it must be quick."""

    def show_history(self, rounds: Sequence[PastRound]) -> None:
        """Show the rounds that `return_to` can name, oldest first; the last is the present one.

        Called after every change, also when a run is resumed.
        """

    def show_preview(
        self, before01: Float[Tensor, "3 h w"], after01: Float[Tensor, "3 h w"]
    ) -> None:
        """Show what a preview's camera saw, and its edit, both in [0, 1]."""


@dataclass(frozen=True)
class FixedControls(Controls):
    """Controls that return the same request at every step, and show nothing."""

    request: EditRequest

    def read(self, *, editing: bool) -> EditRequest:
        """Return the request."""
        del editing
        return self.request
