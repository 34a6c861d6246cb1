from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
import torch

from csd_nerf.synthetic.palette import COLOURS, FLOORS, SKIES, TEXTURES
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Scenes, draw_scenes


def same(one: Scenes, other: Scenes) -> bool:
    names = [field.name for field in dataclasses.fields(Scenes)]
    return all(getattr(one, name).equal(getattr(other, name)) for name in names)


def test_a_scene_depends_on_its_own_seed_only():
    scenes = draw_scenes([5, 6, 7])
    for index, seed in enumerate([5, 6, 7]):
        assert same(scenes[index], draw_scenes([seed]))
    assert not same(scenes[0], scenes[1])


@pytest.mark.parametrize(("one", "other"), combinations(SPLIT_SEEDS, 2))
def test_splits_share_no_seed(one, other):
    assert not range(
        max(SPLIT_SEEDS[one].start, SPLIT_SEEDS[other].start),
        min(SPLIT_SEEDS[one].stop, SPLIT_SEEDS[other].stop),
    )


def test_parameters_are_what_they_say():
    scenes = draw_scenes(range(300))
    count = scenes.present.sum(dim=1)
    assert {*count.tolist()} == {1, 2, 3}
    torch.testing.assert_close(scenes.sun.norm(dim=-1), torch.ones(300))
    assert (scenes.sun[:, 2] > 0.4).all(), "The sun must be up."
    for name, values in {
        "colour": COLOURS,
        "texture": TEXTURES,
        "floor": FLOORS,
        "sky": SKIES,
    }.items():
        assert {*getattr(scenes, name).flatten().tolist()} == {*range(len(values))}
    for name in ("fog", "snow"):
        assert not getattr(scenes, name).any(), "Weather comes by edits."
    centres = scenes.position[count > 1]
    apart = torch.cdist(centres, centres) + 9 * torch.eye(4)
    assert apart.min() > 0.9


def test_slices_repeats_and_concatenation():
    scenes = draw_scenes([1, 2, 3])
    assert len(scenes) == 3
    assert same(Scenes.cat([scenes[0], scenes[1:]]), scenes)
    repeated = scenes.repeat(2)
    assert len(repeated) == 6
    assert same(repeated[3], scenes[1])
