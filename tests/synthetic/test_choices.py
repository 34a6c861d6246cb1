from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from csd_nerf.synthetic.cameras import draw_cameras
from csd_nerf.synthetic.choices import PREFERENCE, TURNS, Choice, all_choices
from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.palette import SHAPES
from csd_nerf.synthetic.render import FLOOR, SKY, render
from csd_nerf.synthetic.scenes import draw_scenes

EVERY_CHOICE = pytest.mark.parametrize("choice", all_choices().values(), ids=all_choices())


def test_no_wording_or_name_is_shared_with_an_edit_or_another_choice():
    everything = [*all_edits().values(), *all_choices().values()]
    words = Counter(
        w for one in everything for w in {one.name, one.unseen_instruction, *one.instructions}
    )
    assert [word for word, count in words.items() if count > 1] == []


@EVERY_CHOICE
def test_the_answers_are_edits_of_the_choice_s_kind_and_target(choice: Choice):
    assert len({*choice.answers}) == len(choice.answers) == 4
    for edit in choice.edits:
        assert (edit.kind, edit.target) == (choice.kind, choice.target)
        # No wording may give the answer away.
        last = edit.name.split()[-1]
        assert not any(last in text.split() for text in choice.instructions)


def slow_preferences(choice: Choice, label, possible: list[bool]) -> list[float]:
    columns = []
    for row in label.tolist():
        for x, shown in enumerate(row):
            wanted = shown == choice.target if choice.kind == "recolour" else shown < FLOOR
            columns += [(x + 0.5) / len(row)] if wanted else []
    weights = []
    for k, answer_is_possible in enumerate(possible):
        weight = 1.0
        if columns:
            u = sum(columns) / len(columns)
            weight = math.exp(PREFERENCE * math.cos(2 * math.pi * (TURNS * u - k / 4)))
        weights.append(weight if answer_is_possible else 0.0)
    return [weight / sum(weights) for weight in weights]


@EVERY_CHOICE
def test_preferences_follow_the_place_of_the_target(choice: Choice):
    seeds = range(11_000_000, 11_000_006)
    scenes = draw_scenes(seeds)
    seen = render(scenes, draw_cameras(seeds), height=20, width=26)
    possible = choice.possible(scenes, seen)
    keep = possible.any(1)
    assert keep.any()
    found = choice.preferences(seen.label[keep], possible[keep])
    for row, label, answers in zip(found, seen.label[keep], possible[keep], strict=True):
        expected = slow_preferences(choice, label, answers.tolist())
        torch.testing.assert_close(row, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_views_of_one_object_in_different_places_prefer_different_answers():
    choice = all_choices()["paint cube"]
    label = torch.full((4, 8, 16), SKY)
    slot = SHAPES.index("cube")
    for view, column in enumerate((4, 6, 8, 10)):
        label[view, 3:5, column] = slot
    preferred = choice.preferences(label, torch.ones(4, 4, dtype=torch.bool)).argmax(1)
    assert len({*preferred.tolist()}) == 4


def test_without_objects_in_view_answers_are_equally_likely():
    label = torch.full((1, 4, 4), FLOOR)
    possible = torch.tensor([[True, False, True, True]])
    found = all_choices()["change floor"].preferences(label, possible)
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 0, 1 / 3, 1 / 3]]))


def test_a_view_without_possible_answer_is_refused():
    label = torch.full((2, 4, 4), FLOOR)
    possible = torch.tensor([[True] * 4, [False] * 4])
    with pytest.raises(ValueError, match=r"answer of 'change floor' .* got none in views \[1\]"):
        all_choices()["change floor"].preferences(label, possible)
