from __future__ import annotations

import math

import pytest
import torch

from benchmarks.worlds import choices
from benchmarks.worlds.choices import MEDIA, cut_tiles, draw_choice_set, join_tiles
from csd_nerf.synthetic.choices import all_choices
from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.panoramas import draw_panorama
from csd_nerf.synthetic.render import Rendering
from csd_nerf.synthetic.scenes import SPLIT_SEEDS


@pytest.fixture(scope="module")
def sets():
    """The first sets of each medium, one of each kind."""
    return {
        medium: [draw_choice_set(medium, position, "validation") for position in range(4)]
        for medium in MEDIA
    }


def test_kinds_take_turns_and_panoramas_have_no_paint(sets):
    kinds = {medium: [given.choice.kind for given in found] for medium, found in sets.items()}
    assert kinds["views"] == kinds["video"] == ["recolour", "floor", "sky", "look"]
    assert kinds["panorama"] == ["floor", "sky", "look", "floor"]
    names = [given.name for found in sets.values() for given in found]
    assert len(set(names)) == 12
    assert names[1] == "views 01 change floor"


def test_no_answer_is_preferred_in_more_than_all_but_two_images(sets):
    for given in (given for found in sets.values() for given in found):
        tops = [max(range(len(row)), key=row.__getitem__) for row in given.preferences.tolist()]
        assert max(tops.count(k) for k in tops) <= 4
        torch.testing.assert_close(given.preferences.sum(1), torch.ones(6))
        assert (given.preferences > 0).all()


def test_the_answers_of_a_set_change_every_image_inside_the_region_most(sets):
    for given in (given for found in sets.values() for given in found):
        assert len(given.answers) >= 3
        assert set(given.answers) <= set(given.choice.answers)
        kept = [name for name in given.choice.answers if name in given.answers]
        assert list(given.answers) == kept, "Answers keep their order."
        for truth in given.truths01:
            for image, source, mask in zip(truth, given.source01, given.region, strict=True):
                changed = (image - source).abs().mean(0)
                assert float(changed[mask].mean()) > 0.05
                if given.choice.target is None:
                    assert mask.all()
                else:
                    # A sky also tints what is far away.
                    assert float(changed[~mask].mean()) < 0.2 * float(changed[mask].mean())
                    assert float(mask.float().mean()) > 0.03


def test_a_painted_object_covers_a_twentieth_of_every_image(sets):
    for medium in ("views", "video"):
        given = sets[medium][0]
        assert given.choice.name.startswith("paint ")
        assert (given.region.float().mean((1, 2)) >= 0.05).all()


def test_an_answer_is_what_its_edit_renders(sets):
    """The panorama is drawn again from the seed, which is found by its picture."""
    given = sets["panorama"][0]
    strip = join_tiles(given.source01)
    first = 1000 * 2
    for seed in SPLIT_SEEDS["validation"][first : first + 1000]:
        panorama = draw_panorama(seed, height=96, width=384)
        image = panorama.render(panorama.scenes).image01
        if (image - strip).abs().max() < 0.003:
            break
    else:
        pytest.fail("Not among the seeds of the set.")
    for name, truth in zip(given.answers, given.truths01, strict=True):
        edit = all_edits()[name]
        expected = panorama.render(edit.edit_scenes(panorama.scenes)).image01
        for column in range(6):
            part = expected[0, :, :, 64 * column : 64 * column + 64]
            torch.testing.assert_close(truth[column], part)


def test_tiles_are_joined_in_the_order_in_which_they_were_cut():
    strip = torch.arange(2 * 3 * 12.0).view(1, 2, 3, 12)
    tiles = cut_tiles(strip)
    assert tiles.shape == (6, 2, 3, 2)
    assert tiles[4].equal(strip[0, :, :, 8:10])
    assert join_tiles(tiles).equal(strip)


def test_views_lie_on_an_arc_of_seventy_degrees():
    world = choices._draw_world("views", SPLIT_SEEDS["validation"][3])
    eye = world.cameras.camera_to_world[:, :, 3].double()
    azimuth = torch.atan2(eye[:, 1], eye[:, 0])
    steps = torch.remainder(azimuth.diff() + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(steps.rad2deg(), torch.full((5,), 14.0).double(), atol=1e-3, rtol=0)


def test_a_set_depends_on_medium_position_and_split_alone(sets):
    again = draw_choice_set("video", 1, "validation")
    assert again.source.equal(sets["video"][1].source)
    assert again.truths01.equal(sets["video"][1].truths01)
    assert again.preferences.equal(sets["video"][1].preferences)
    other = draw_choice_set("video", 1, "benchmark")
    assert not other.source.equal(again.source)


def test_sets_of_equal_preferences_or_too_few_answers_are_passed_over():
    choice = all_choices()["change floor"]
    label = torch.full((6, 8, 8), 4)
    world = choices._draw_world("views", SPLIT_SEEDS["validation"][3])
    blank = Rendering(torch.zeros(6, 3, 8, 8), torch.ones(6, 8, 8), label)
    assert not choices._differs(choice, world.scenes, blank), "Without objects all views agree."
    apart = label.clone()
    for view in range(6):
        apart[view, :, view] = 0
    named = Rendering(blank.image01, blank.depth, apart)
    assert choices._differs(choice, world.scenes, named)
    sky = all_choices()["change sky"]
    assert not choices._differs(sky, world.scenes, named), "No sky is in view."
    apart[:, :4, 6:] = 5
    assert choices._differs(sky, world.scenes, named)
    apart[3, :4, 6:] = 4
    assert not choices._differs(sky, world.scenes, named), "One image shows no sky."


def test_an_object_that_is_small_in_one_image_is_not_painted():
    world = choices._draw_world("views", SPLIT_SEEDS["validation"][3])
    slot = int(world.scenes.present[0].nonzero()[0])
    paint = next(choice for choice in all_choices().values() if choice.target == slot)
    label = torch.full((6, 10, 10), 4)
    for view in range(6):
        label[view, :5, view] = slot

    def differs() -> bool:
        shown = Rendering(torch.zeros(6, 3, 10, 10), torch.ones(6, 10, 10), label)
        return choices._differs(paint, world.scenes, shown)

    assert differs(), "Five in a hundred pixels are enough."
    label[2, 4, 2] = 4
    assert not differs()


def test_no_world_is_an_error(monkeypatch):
    monkeypatch.setattr(choices, "SEEDS_APART", 2)
    monkeypatch.setattr(choices, "_differs", lambda *given: False)
    with pytest.raises(ValueError, match=r"No video of benchmark at position 5 has 3 answers"):
        draw_choice_set("video", 5, "benchmark")
