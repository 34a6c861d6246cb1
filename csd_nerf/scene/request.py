"""What is asked of the editing stage at one training step."""

from __future__ import annotations

from dataclasses import dataclass

from csd_nerf.core.settings import EditSettings


@dataclass(frozen=True)
class EditRequest:
    """What is wanted at one training step."""

    prompt: str
    negative_prompt: str
    settings: EditSettings
    edit_now: bool = False
    paused: bool = False
    reset: bool = False
