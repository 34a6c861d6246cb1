"""What the user asks of the editing stage at a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from csd_nerf.core.settings import EditSettings


@dataclass(frozen=True)
class EditRequest:
    """What the user asks for at one training step.

    Attributes:
        prompt: The instruction.
        negative_prompt: Takes the place of the empty text.
        source_prompt: What the photographs show.
        settings: How views are edited.
        edit_now: Edit a round before this step, whether one is due or not.
        paused: Leave out rounds that are due.
        reset: Put the photographs back in place of all edited images.
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
    """Where the editing stage reads what the user wants."""

    def read(self, *, editing: bool) -> EditRequest:
        """Read the request of this training step; called once before every step.

        A button that was pressed appears in one request only.

        Args:
            editing: Whether the editing stage has begun. Before, `edit_now` is False, and a
                button pressed for it stays pressed.
        """
        ...


@dataclass(frozen=True)
class FixedControls:
    """Asks for the same at every step."""

    request: EditRequest

    def read(self, *, editing: bool) -> EditRequest:
        """Return the one request."""
        del editing
        return self.request
