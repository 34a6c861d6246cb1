from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csd_nerf.scene.plan import draw_views, plan_steps


@given(total=st.integers(1, 40), count=st.integers(1, 20), seed=st.integers(0, 1000))
def test_no_view_comes_again_before_all_have_had_their_turn(total, count, seed):
    waiting: list[int] = []
    turns = [0] * total
    for index in range(12):
        generator = torch.Generator().manual_seed(seed + index)
        views, waiting = draw_views(waiting, count=count, total=total, generator=generator)
        assert len(set(views)) == len(views) == min(count, total)
        for view in views:
            turns[view] += 1
        assert max(turns) - min(turns) <= 1


def test_orders_differ_between_cycles():
    first, _ = draw_views([], count=30, total=30, generator=torch.Generator().manual_seed(0))
    second, _ = draw_views([], count=30, total=30, generator=torch.Generator().manual_seed(1))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(30))


@pytest.mark.parametrize(
    ("first_step", "first_edit", "source_is_trained", "expected"),
    [
        (0, None, False, (100, 150)),  # fresh
        (700, None, True, (700, 750)),  # on top of a nerfacto run
        (40, None, False, (100, 150)),  # resumed in the source stage
        (120, 100, False, (100, 150)),  # resumed while editing
        (300, None, False, (300, 350)),  # a source trained for longer than is asked now
    ],
)
def test_plans(first_step, first_edit, source_is_trained, expected):
    plan = plan_steps(
        first_step=first_step,
        first_edit=first_edit,
        source_is_trained=source_is_trained,
        source_steps=100,
        edit_steps=50,
    )
    assert (plan.first_edit, plan.end) == expected


def test_rounds_come_at_once_and_then_regularly():
    plan = plan_steps(
        first_step=0, first_edit=None, source_is_trained=False, source_steps=5, edit_steps=9
    )
    due = [step for step in range(plan.end) if plan.round_is_due(step, edit_every=4)]
    assert due == [5, 9, 13]
