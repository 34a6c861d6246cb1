"""When the editing rounds come and which views they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepPlan:
    """The global steps of one run; steps count on from a loaded checkpoint.

    Attributes:
        first_edit: The step before which the first round comes and the editing stage begins.
        end: The step after the last one.
    """

    first_edit: int
    end: int

    def round_is_due(self, step: int, *, edit_every: int) -> bool:
        """Whether a round comes before this step: at once, then after every `edit_every`."""
        return step >= self.first_edit and (step - self.first_edit) % edit_every == 0


def plan_steps(
    *, start: int, first_edit: int | None, is_stock: bool, source_steps: int, edit_steps: int
) -> StepPlan:
    """Plan a fresh run, one on top of a finished source, or a resumed one.

    Args:
        start: The first step of this run: 0, or the one after the loaded checkpoint's.
        first_edit: Where editing began, as the loaded checkpoint tells; None before that.
        is_stock: Whether the checkpoint is nerfacto's own: its scene counts as trained.
        source_steps: Steps of the source stage, those of a loaded checkpoint of ours included.
        edit_steps: Steps of the editing stage, likewise.
    """
    if first_edit is None:
        first_edit = start if is_stock else max(start, source_steps)
    return StepPlan(first_edit=first_edit, end=first_edit + edit_steps)


def draw_views(
    waiting: Sequence[int], *, count: int, total: int, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Draw the views of the next round, without replacement.

    No view comes a second time before all have had their turn: when fewer than `count` still
    wait, all of them are taken, and the rest comes from a new order of all views.

    Args:
        waiting: Views that have not had their turn yet, in the order they are going to.
        count: Views a round; all of them where there are fewer.
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
