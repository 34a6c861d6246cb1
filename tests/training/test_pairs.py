from __future__ import annotations

from collections import Counter
from statistics import fmean, stdev

import pytest
import torch

from csd_nerf.synthetic.cameras import draw_cameras
from csd_nerf.synthetic.choices import all_choices
from csd_nerf.synthetic.edits import render_edit
from csd_nerf.synthetic.render import render
from csd_nerf.synthetic.scenes import draw_scenes
from training.collages import draw_collages
from training.pairs import COLLAGE_SHARE, SCENE_KINDS, Pair, draw_pairs, stack_pairs

SIZE = {"height": 16, "width": 24}
SEEDS = range(120)


@pytest.fixture(scope="module")
def drawn() -> dict[int, list[Pair]]:
    return {seed: draw_pairs(seed, **SIZE) for seed in SEEDS}


def is_collage(seed: int, pairs: list[Pair]) -> bool:
    return pairs[0].source01.equal(draw_collages([seed], **SIZE)[0])


def test_pairs_are_images_that_differ(drawn):
    for pair in (pair for pairs in drawn.values() for pair in pairs):
        assert pair.source01.shape == pair.edited01.shape == (3, 16, 24)
        for image in (pair.source01, pair.edited01):
            assert 0 <= image.min() <= image.max() <= 1
        assert (pair.edited01 - pair.source01).abs().max() > 0.05


def test_the_pairs_of_a_seed_share_their_source_and_are_repeatable(drawn):
    for pairs in drawn.values():
        assert all(pair.source01.equal(pairs[0].source01) for pair in pairs)
    again = draw_pairs(7, **SIZE)
    assert [p.edit for p in again] == [p.edit for p in drawn[7]]
    assert all(a.edited01.equal(b.edited01) for a, b in zip(again, drawn[7], strict=True))


def test_the_edit_of_a_pair_applies_to_its_source_and_is_exact(drawn):
    for seed in list(SEEDS)[:20]:
        if is_collage(seed, drawn[seed]):
            for pair in drawn[seed]:
                assert pair.edited01.equal(pair.edit.edit_image(pair.source01[None])[0])
            continue
        scenes, cameras = draw_scenes([seed]), draw_cameras([seed])
        seen = render(scenes, cameras, **SIZE)
        for pair in drawn[seed]:
            assert pair.edit.applies(scenes, seen) == [True]
            assert pair.edited01.equal(render_edit(pair.edit, scenes, cameras, **SIZE)[0])


def test_what_is_asked_is_the_edit_or_a_choice_that_has_it_as_answer(drawn):
    choices = all_choices().values()
    for pair in (pair for pairs in drawn.values() for pair in pairs):
        assert pair.asked is pair.edit or (
            pair.asked in choices and pair.edit.name in pair.asked.answers
        )


def test_answers_follow_the_preferences_of_the_views(monkeypatch):
    # What is drawn is looked at, not its pictures.
    monkeypatch.setattr("training.pairs.render_edit", lambda *_, **__: torch.zeros(1, 3, 16, 24))
    choice = all_choices()["change sky"]
    expected, found = [], []
    for seed in range(200):
        scenes = draw_scenes([seed])
        seen = render(scenes, draw_cameras([seed]), **SIZE)
        answers = [p.edit.name for p in draw_pairs(seed, **SIZE) if p.asked is choice]
        if answers:
            p = choice.preferences(seen.label, choice.possible(scenes, seen))[0]
            expected.append(float(p.square().sum()))
            found.append(float(p[choice.answers.index(answers[0])]))
    # The mean probability of what was drawn is that of the preferences; by chance it is 0.25.
    error = stdev(found) / len(found) ** 0.5
    assert abs(fmean(found) - fmean(expected)) < 3 * error
    assert fmean(found) > 0.25 + 3 * error


def test_kinds_come_as_often_as_they_should(drawn):
    drawn = {seed: [p for p in pairs if p.asked is p.edit] for seed, pairs in drawn.items()}
    collages = [seed for seed, pairs in drawn.items() if is_collage(seed, pairs)]
    assert abs(len(collages) / len(SEEDS) - COLLAGE_SHARE) < 0.13
    for seed in collages:
        assert [p.edit.kind for p in drawn[seed]] == ["look", "look"]
        assert drawn[seed][0].edit != drawn[seed][1].edit
    scenes = [pairs for seed, pairs in drawn.items() if seed not in collages]
    for pairs in scenes:
        assert [pair.edit.kind for pair in pairs].count("look") == 1
        assert len(pairs) == 3
    kinds = Counter(p.edit.kind for pairs in scenes for p in pairs if p.edit.kind != "look")
    for kind, share in SCENE_KINDS.items():
        assert abs(kinds[kind] / kinds.total() - share) < 0.15, kind


def test_the_numbers_of_edits_and_choices_can_be_chosen(drawn):
    seed = next(seed for seed, pairs in drawn.items() if not is_collage(seed, pairs))
    pairs = draw_pairs(seed, **SIZE, scene_edits=1, looks=3, choices=2)
    kinds = [pair.edit.kind for pair in pairs if pair.asked is pair.edit]
    assert kinds.count("look") == 3
    assert len(kinds) == 4
    asked = [pair.asked.name for pair in pairs if pair.asked is not pair.edit]
    assert len({*asked}) == len(asked) == 2


def test_half_of_the_pairs_of_a_scene_and_of_a_collage_are_choices(drawn):
    for seed, pairs in drawn.items():
        chosen = [pair for pair in pairs if pair.asked is not pair.edit]
        assert len(chosen) == (2 if is_collage(seed, pairs) else 3)


def test_stacking_keeps_the_order(drawn):
    pairs = drawn[0] + drawn[1]
    source, edited = stack_pairs(pairs)
    assert source.shape == edited.shape == (len(pairs), 3, 16, 24)
    assert torch.equal(edited[-1], pairs[-1].edited01)
