"""The status of the Edit tab in words, and which of its buttons can do something now."""

from __future__ import annotations

from dataclasses import dataclass

from csd_nerf.methods.common import markup
from csd_nerf.scene.controls import PastRound, Progress

NO_ROUNDS = "No round has been done yet: there is nothing to go back to."


@dataclass(frozen=True)
class Now:
    """What the tab knows at one moment.

    Attributes:
        progress: The last progress of the stage.
        is_editing: Whether the editing stage has begun.
        edit_asked: Whether a press of the button waits to be read; so of the next three.
        waits_for: Why no training step will read it; empty if one will.
        failure: What failed last, in words.
        can_undo: Whether an earlier round is chosen.
    """

    progress: Progress = Progress("")  # noqa: RUF009
    is_editing: bool = False
    edit_asked: bool = False
    preview_asked: bool = False
    return_asked: bool = False
    save_asked: bool = False
    waits_for: str = ""
    failure: str = ""
    can_undo: bool = False

    @property
    def is_in_round(self) -> bool:
        """Whether a round is being done."""
        return self.progress.text.startswith("round ")

    @property
    def is_in_preview(self) -> bool:
        """Whether a preview is being made."""
        return self.progress.text.startswith("preview:")


def disabled(now: Now) -> dict[str, bool]:
    """Which buttons can't do anything now; `status` says why."""
    is_busy = now.is_in_round or now.is_in_preview
    stuck = bool(now.waits_for)
    return {
        "preview_button": stuck or now.preview_asked or is_busy,
        "edit_button": stuck or now.edit_asked or now.is_in_round,
        "undo_button": stuck or now.return_asked or not now.can_undo,
        "reset_button": stuck or now.return_asked or not now.is_editing,
        "save_button": stuck or now.save_asked,
    }


def status(now: Now) -> str:
    """The status as markdown: what failed, what is being done, and what waits for it."""
    lines = []
    if now.failure:
        lines.append(markup.text(now.failure, tone="error"))
    if now.waits_for:
        lines.append(markup.text(now.waits_for, tone="warning"))
    elif now.progress.text and now.progress.text not in now.failure:
        lines.append(markup.text(_sentence(now.progress), bold=True))
    if waiting := _waiting(now):
        lines.append(markup.text(waiting, tone="quiet"))
    return markup.stacked(lines)


def _sentence(progress: Progress) -> str:
    words = progress.text[:1].upper() + progress.text[1:]
    left = progress.seconds_left
    return words if left is None else f"{words}, {duration(left)} left"


def _waiting(now: Now) -> str:
    if now.waits_for:
        return ""
    asked = {
        "the edit": now.edit_asked,
        "the preview": now.preview_asked,
        "going back": now.return_asked,
        "saving": now.save_asked,
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    if not names:
        return ""
    if now.is_editing:
        return f"Next: {', '.join(names)}."
    if now.edit_asked or now.return_asked:
        return f"Next: {', '.join(names)}, when the scene has been trained on the photographs."
    return f"Next: {', '.join(names)}."


def duration(seconds: float) -> str:
    """A time in words, such as "40 s", "80 min" or "1 h 40 min"."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def round_label(past: PastRound) -> str:
    """A round in the history, in a line that no other round has."""
    where = f" in {past.region}" if past.region else ""
    return f"{past.index}: {past.prompt}{where} ({past.views} views)"
