"""Which step begins editing, when rounds are due, and which views they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepPlan:
    """The training steps of one run, counted on from a loaded checkpoint.

    Attributes:
        first_edit: The first step of the editing stage; the first round comes before it.
        end: The step after the last one.
    """

    first_edit: int
    end: int

    def round_is_due(self, step: int, *, edit_every: int) -> bool:
        """Whether a round comes before this step: the first one does, and then every n-th."""
        return step >= self.first_edit and (step - self.first_edit) % edit_every == 0


def plan_steps(
    *,
    first_step: int,
    first_edit: int | None,
    source_is_trained: bool,
    source_steps: int,
    edit_steps: int,
) -> StepPlan:
    """Plan a fresh run, one that edits a trained scene, or a resumed one.

    Args:
        first_step: The first step of this run: 0, or the one after the loaded checkpoint's.
        first_edit: Where editing began according to the loaded checkpoint; None if it had not.
        source_is_trained: Whether the loaded scene needs no training before it is edited.
        source_steps: Steps of the source stage, including those of the loaded checkpoint.
        edit_steps: Steps of the editing stage, likewise.
    """
    if first_edit is None:
        first_edit = first_step if source_is_trained else max(first_step, source_steps)
    return StepPlan(first_edit=first_edit, end=first_edit + edit_steps)


def draw_views(
    waiting: Sequence[int], *, count: int, total: int, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Draw the views of the next round, without replacement.

    Every view has its turn before any has a second one. If fewer than `count` are waiting, all of
    these are taken, and the rest comes from a new random order of all views.

    Args:
        waiting: Views that have not had their turn yet, in the order in which they come.
        count: Views a round; if there are fewer, all of them.
        total: Number of views.
        generator: Draws the new order; on the CPU.

    Returns:
        The views of the round, and those that wait after it.
    """
    count = min(count, total)
    chosen, left = list(waiting[:count]), list(waiting[count:])
    if len(chosen) < count:
        order: list[int] = torch.randperm(total, generator=generator).tolist()
        fresh = [view for view in order if view not in chosen][: count - len(chosen)]
        left = [view for view in order if view not in fresh]
        chosen += fresh
    return chosen, left
