"""Decides when the editing stage begins, when rounds are due, and which views they edit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rounds:
    """How often how many views are edited."""

    every: int
    """Training steps between two rounds."""
    views: int
    """Views per round."""


PAPER_ROUNDS = Rounds(every=2000, views=16)
"""CSD, Appendix B.3."""
IN2N_ROUNDS = Rounds(every=10, views=1)
"""Instruct-NeRF2NeRF (Haque et al. 2023), as CSD's Appendix B.3 quotes it: `edit_rate` and
`edit_count` of github.com/ayaanzhaque/instruct-nerf2nerf at 2c0d385."""


@dataclass(frozen=True)
class StepPlan:
    """The training steps of one run; their numbers continue those of a loaded checkpoint.

    Attributes:
        first_edit: The first step of the editing stage; the first round is done before it.
        end: The number after the last step's.
    """

    first_edit: int
    end: int

    def round_is_due(self, step: int, *, edit_every: int) -> bool:
        """Whether a round is due before this step: before `first_edit`, then periodically."""
        return step >= self.first_edit and (step - self.first_edit) % edit_every == 0


def plan_steps(
    *,
    first_step: int,
    first_edit: int | None,
    source_is_trained: bool,
    source_steps: int,
    edit_steps: int,
) -> StepPlan:
    """Plan a new run, a run that edits a trained scene, or a resumed run.

    Args:
        first_step: The first step of this run: 0, or the one after the loaded checkpoint's.
        first_edit: The first step of the editing stage according to the loaded checkpoint; None if
            editing had not begun.
        source_is_trained: Whether the loaded scene can be edited without further training.
        source_steps: Steps of training before editing, including those of the loaded checkpoint.
        edit_steps: Steps of the editing stage, including those of the loaded checkpoint.
    """
    if first_edit is None:
        first_edit = first_step if source_is_trained else max(first_step, source_steps)
    return StepPlan(first_edit=first_edit, end=first_edit + edit_steps)


def draw_views(
    waiting: Sequence[int],
    *,
    count: int,
    total: int,
    generator: torch.Generator,
    among: Collection[int] | None = None,
) -> tuple[list[int], list[int]]:
    """Draw the views of the next round, without replacement.

    Every view is drawn once before any is drawn again. If fewer than `count` views are waiting,
    all of them are drawn, and the others come from a new random order of all views.

    Args:
        waiting: Views that have not been drawn in the current order, in this order.
        count: Views per round; at most `total` are drawn.
        total: Number of views.
        generator: Source of new orders, on the CPU.
        among: The views that may be drawn; None means all. Others lose their turn in the order when
            it comes to them, and the next ones are drawn in their place.

    Returns:
        The views of the round, and the views that wait after it.
    """
    able = range(total) if among is None else among
    count = min(count, len(able))
    chosen, left = _take(waiting, count, able)
    if len(chosen) < count:
        order: list[int] = torch.randperm(total, generator=generator).tolist()
        others = [view for view in order if view not in chosen]
        fresh, after = _take(others, count - len(chosen), able)
        # Views of the old order that were drawn just now have their turn in the new one too.
        left = [view for view in order if view in {*after, *chosen}]
        chosen += fresh
    return chosen, left


def _take(order: Sequence[int], count: int, able: Collection[int]) -> tuple[list[int], list[int]]:
    """The first views that may be drawn, and those after the last of them."""
    chosen: list[int] = []
    for place, view in enumerate(order):
        if len(chosen) == count:
            return chosen, list(order[place:])
        if view in able:
            chosen.append(view)
    return chosen, []
