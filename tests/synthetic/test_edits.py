from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from csd_nerf.synthetic.cameras import draw_cameras
from csd_nerf.synthetic.edits import (
    MIN_SHARE,
    Edit,
    all_edits,
    edits_of,
    find_edit,
    render_edit,
)
from csd_nerf.synthetic.looks import LOOKS
from csd_nerf.synthetic.palette import COLOURS, FLOORS, SHAPES, SKIES
from csd_nerf.synthetic.render import FLOOR, SKY, Rendering, render
from csd_nerf.synthetic.scenes import Scenes, draw_scenes

SEEDS = list(range(11_000_000, 11_000_012))
SIZE = {"height": 24, "width": 24}
EVERY_EDIT = pytest.mark.parametrize("edit", all_edits().values(), ids=all_edits())


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return draw_scenes(SEEDS)


def see(scenes: Scenes) -> Rendering:
    """With a single ray a pixel, so that each pixel shows one thing."""
    return render(scenes, draw_cameras(SEEDS), **SIZE, supersample=1)


@pytest.fixture(scope="module")
def source(scenes) -> Rendering:
    return see(scenes)


def test_no_two_edits_share_a_wording():
    edits = all_edits().values()
    words = Counter(w for e in edits for w in {e.name, e.unseen_instruction, *e.instructions})
    assert [word for word, count in words.items() if count > 1] == []


@EVERY_EDIT
def test_the_unseen_wording_is_in_no_training_wording(edit):
    seen = {word for other in all_edits().values() for word in other.instructions}
    assert edit.unseen_instruction not in seen
    assert len({*edit.instructions}) == len(edit.instructions) >= 5


@EVERY_EDIT
def test_an_edit_is_found_by_its_name_and_by_every_wording(edit):
    for text in (edit.name, edit.unseen_instruction, *edit.instructions):
        assert find_edit(text) is edit
        assert find_edit(f"  {text.upper().replace(' ', '  ')} ") is edit


@pytest.mark.parametrize(
    ("asked", "end"),
    [("xyz", "."), ("flor wood", "; did you mean floor wood?"), ("nigth", "; did you mean night?")],
)
def test_an_unknown_edit_is_refused_with_a_similar_one(asked, end):
    with pytest.raises(ValueError, match=r"csd-nerf edits lists all\.$") as refused:
        find_edit(asked)
    assert f"got '{asked}'{end} csd-nerf" in str(refused.value)


def test_a_bare_name_is_put_into_words_and_words_stay():
    edit = find_edit("night")
    assert edit.wording("Night") == edit.instructions[0]
    assert edit.wording("turn day into night") == "turn day into night"


def test_there_is_an_edit_for_everything_that_a_scene_can_be():
    names = {kind: {e.name for e in edits_of([kind])} for kind in ("recolour", "floor", "sky")}
    assert names["recolour"] == {f"{shape} {colour}" for shape in SHAPES for colour in COLOURS}
    assert names["floor"] == {f"floor {name}" for name in FLOORS}
    assert names["sky"] == {f"sky {name}" for name in SKIES}
    assert {e.name for e in edits_of(["look"])} == {*LOOKS}
    assert len(edits_of(["weather", "look"])) == 2 + len(LOOKS)


def slow_applies(edit: Edit, scenes: Scenes, source: Rendering, index: int) -> bool:
    label = source.label[index].flatten().tolist()
    if edit.target is not None and label.count(edit.target) <= MIN_SHARE * len(label):
        return False
    words = edit.name.split()
    if edit.kind == "recolour":
        slot = SHAPES.index(words[0])
        return [*COLOURS][scenes.colour[index, slot]] != words[1]
    if edit.kind in ("floor", "sky"):
        names = FLOORS if edit.kind == "floor" else SKIES
        return [*names][getattr(scenes, edit.kind)[index]] != words[1]
    return True


@EVERY_EDIT
def test_an_edit_applies_where_what_it_names_is_in_view_and_changes(edit, scenes, source):
    expected = [slow_applies(edit, scenes, source, index) for index in range(len(SEEDS))]
    assert edit.applies(scenes, source) == expected


def test_some_objects_are_out_of_view_and_some_are_not(scenes, source):
    flags = find_edit("sphere red").applies(scenes, source)
    assert {*flags} == {True, False}


def test_recolouring_multiplies_the_object_s_pixels_and_leaves_all_others(scenes, source):
    for slot, shape in enumerate(SHAPES):
        edited = see(find_edit(f"{shape} turquoise").edit_scenes(scenes))
        assert edited.label.equal(source.label)
        assert edited.depth.equal(source.depth)
        there = (source.label == slot)[:, None].expand_as(source.image01)
        assert edited.image01[~there].equal(source.image01[~there])
        palette = torch.tensor([*COLOURS.values()])
        before = palette[scenes.colour[:, slot]] + scenes.tint[:, slot]
        after = torch.tensor(COLOURS["turquoise"]) + scenes.tint[:, slot]
        expected = source.image01 * (after / before)[:, :, None, None]
        # Light is one factor on all colours, unless it burns out or a tint makes black negative.
        fair = there & (source.image01 > 0.01) & (source.image01 < 0.99)
        fair &= (before > 0.03)[:, :, None, None].expand_as(fair)
        assert fair.sum() > 100
        torch.testing.assert_close(
            edited.image01[fair], expected.clamp(0, 1)[fair], rtol=1e-3, atol=1e-4
        )


def test_a_floor_changes_the_floor_s_pixels_only(scenes, source):
    edit = find_edit("floor lava")
    edited = see(edit.edit_scenes(scenes))
    there = (source.label == FLOOR)[:, None].expand_as(source.image01)
    assert edited.label.equal(source.label)
    assert edited.image01[~there].equal(source.image01[~there])
    changed = (edited.image01 - source.image01).abs().flatten(1).amax(dim=1) > 0.02
    assert changed.tolist() == (scenes.floor != [*FLOORS].index("lava")).tolist()


def test_a_sky_changes_the_sky_and_the_haze_before_it_only(scenes, source):
    edited = see(find_edit("sky purple").edit_scenes(scenes))
    objects = (source.label < FLOOR)[:, None].expand_as(source.image01)
    assert edited.image01[objects].equal(source.image01[objects])
    change = (edited.image01 - source.image01).abs()
    haze = (1 - torch.exp(-source.depth / 30))[:, None].expand_as(change)
    assert (change <= haze + 1e-5).all()
    up = (source.label == SKY) & (scenes.sky != [*SKIES].index("purple"))[:, None, None]
    assert up.sum() > 100
    assert (change.amax(dim=1)[up] > 0.02).all()


def test_weather_changes_the_image_but_no_depth(scenes, source):
    for edit in edits_of(["weather"]):
        edited = see(edit.edit_scenes(scenes))
        assert edited.depth.equal(source.depth)
        assert (edited.image01 - source.image01).square().mean() > 1e-3


def test_a_look_leaves_the_scene_and_every_other_edit_leaves_the_image(scenes, source):
    for edit in all_edits().values():
        after = edit.edit_scenes(scenes)
        alike = all(
            getattr(after, f.name).equal(getattr(scenes, f.name))
            for f in dataclasses.fields(Scenes)
        )
        assert alike == (edit.kind == "look")
        image = edit.edit_image(source.image01)
        expected = LOOKS[edit.name](source.image01) if edit.kind == "look" else source.image01
        assert image.equal(expected)


def test_editing_does_not_touch_the_source_s_parameters(scenes):
    before = scenes.colour.clone()
    find_edit("cube red").edit_scenes(scenes)
    assert scenes.colour.equal(before)


def test_the_true_edit_of_a_look_is_the_look_of_the_rendering(scenes):
    cameras = draw_cameras(SEEDS)
    expected = LOOKS["sepia"](render(scenes, cameras, **SIZE).image01)
    assert render_edit(find_edit("sepia"), scenes, cameras, **SIZE).equal(expected)
