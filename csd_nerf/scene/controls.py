"""The user's requests to the editing stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from csd_nerf.core.settings import EditSettings


@dataclass(frozen=True)
class EditRequest:
    """The user's request at one training step.

    Attributes:
        prompt: The instruction.
        negative_prompt: Replaces the empty text.
        source_prompt: Description of the photographs, for the residual dds.
        settings: Options of the optimisation of the views.
        edit_now: Do an editing round before this step, even if none is due.
        paused: Skip rounds that are due.
        reset: Replace all edited images by the photographs.
    """

    prompt: str
    negative_prompt: str
    source_prompt: str
    settings: EditSettings
    edit_now: bool = False
    paused: bool = False
    reset: bool = False


@runtime_checkable
class Controls(Protocol):
    """Source of the user's requests to the editing stage."""

    def read(self, *, editing: bool) -> EditRequest:
        """Read the request of this training step; called once before every step.

        A press of a button must appear in one request only.

        Args:
            editing: Whether the editing stage has begun. Before that, `edit_now` must be False, and
                a press of its button is kept until the stage begins.
        """
        ...


@dataclass(frozen=True)
class FixedControls:
    """Controls that return the same request at every step."""

    request: EditRequest

    def read(self, *, editing: bool) -> EditRequest:
        """Return the request."""
        del editing
        return self.request
