from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.looks import LOOKS
from csd_nerf.synthetic.panoramas import Panorama, draw_panorama, find_panorama, render_panorama
from csd_nerf.synthetic.render import FLOOR, SKY
from csd_nerf.synthetic.scenes import SPLIT_SEEDS

SEED = SPLIT_SEEDS["validation"][3]


def strip(seed: int) -> Panorama:
    return draw_panorama(seed, height=24, width=64)


def sphere(seed: int) -> Panorama:
    return draw_panorama(seed, height=32, width=64, wrap=True)


def turned(panorama: Panorama, angle: float) -> Panorama:
    """The same scene from the same place, looking `angle` further to the left."""
    cos, sin = math.cos(angle), math.sin(angle)
    x, y, z = panorama.direction.unbind(-1)
    turned = torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)
    return dataclasses.replace(panorama, direction=turned)


def azimuth_and_slope(panorama: Panorama) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each ray, as (rows, columns); the azimuth in radians to the left of the middle."""
    rays = panorama.direction[0].double().view(2 * panorama.height, 2 * panorama.width, 3)
    turn = torch.atan2(rays[..., 1], rays[..., 0])
    between = turn[:, panorama.width - 1 : panorama.width + 1]
    middle = torch.atan2(between.sin().mean(1), between.cos().mean(1))[:, None]
    offset = torch.remainder(turn - middle + math.pi, 2 * math.pi) - math.pi
    return offset, rays[..., 2] / rays[..., :2].norm(dim=-1)


def test_the_rays_of_a_strip_turn_to_the_right_and_fall():
    azimuth, slope = azimuth_and_slope(strip(SEED))
    step = 1 / (0.75 * 48)
    expected = torch.tensor([(63.5 - column) * step for column in range(128)]).double()
    torch.testing.assert_close(azimuth, expected.expand(48, 128), atol=1e-5, rtol=0)
    falling = slope[:-1] - slope[1:]
    torch.testing.assert_close(falling, torch.full_like(falling, step), atol=1e-5, rtol=0)
    assert 0.3 * 48 - 1 < (slope[:, 0] > 0).sum() < 0.45 * 48 + 1


def test_the_rays_of_a_sphere_see_everything_once():
    azimuth, slope = azimuth_and_slope(sphere(SEED))
    expected = torch.tensor([math.pi * (1 - 2 * (c + 0.5) / 128) for c in range(128)]).double()
    torch.testing.assert_close(azimuth, expected.expand(64, 128), atol=1e-5, rtol=0)
    elevation = torch.tensor([math.pi * (0.5 - (r + 0.5) / 64) for r in range(64)]).double()
    torch.testing.assert_close(slope.atan(), elevation[:, None].expand(64, 128), atol=1e-5, rtol=0)


def test_a_sphere_goes_round_turning_moves_pixels_across_the_seam():
    panorama = sphere(SEED)
    moved = render_panorama(turned(panorama, 2 * math.pi * 10 / 64))
    same = render_panorama(panorama).roll(10, dims=3)
    # Rounding moves a ray at an outline to the other side here and there.
    assert ((moved - same).abs().amax(1) < 1e-3).float().mean() > 0.99


def test_the_floor_is_as_far_as_the_ray_says():
    panorama = strip(SEED)
    seen = panorama.render(panorama.scenes)
    rays = panorama.direction[0].view(48, 128, 3)[1::2, 1::2]
    expected = -panorama.origin[0, 0, 2] / rays[..., 2]
    floor = seen.label[0] == FLOOR
    assert floor.float().mean() > 0.2
    torch.testing.assert_close(seen.depth[0][floor], expected[floor], rtol=1e-4, atol=1e-4)
    assert not (rays[..., 2][seen.label[0] == SKY] < -1e-6).any()


def test_a_scene_edit_changes_its_part_alone_and_a_look_is_the_look():
    panorama = strip(SEED)
    source01 = render_panorama(panorama)
    name = "floor lava"
    difference = (render_panorama(panorama, all_edits()[name]) - source01).abs().amax(1)
    label = panorama.render(panorama.scenes).label
    assert difference[label == FLOOR].mean() > 0.1
    # Pixels at an outline hold rays of both sides.
    assert (difference[label != FLOOR] < 1e-5).float().mean() > 0.9
    night = render_panorama(panorama, all_edits()["night"])
    assert night.equal(LOOKS["night"](source01))


def test_a_seed_decides_the_panorama():
    first, again = (render_panorama(strip(SEED)) for _ in range(2))
    assert first.equal(again)
    assert (first - render_panorama(strip(SEED + 1))).abs().mean() > 0.02


def test_panoramas_show_objects_floor_and_sky():
    shares = []
    for seed in SPLIT_SEEDS["validation"][:8]:
        panorama = strip(seed)
        label = panorama.render(panorama.scenes).label
        shares.append([(label < 4).float().mean(), (label == FLOOR).float().mean()])
    objects, floor = torch.tensor(shares).T
    assert objects.amin() > 0.02
    assert 0.05 < objects.mean() < 0.4
    assert floor.amin() > 0.25
    assert (objects + floor).amax() < 0.85


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 24, "width": 48 + 1, "wrap": True}, "twice as wide as high, got 49x24"),
        ({"height": 24, "width": 114}, "at most 4.71 times its height.*got 114x24.*higher"),
    ],
)
def test_sizes_that_would_show_things_twice_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        draw_panorama(SEED, **size)


def test_the_panorama_that_is_found_shows_what_the_edit_names():
    edit = all_edits()["sphere blue"]
    skip = 20
    found = find_panorama(edit, "validation", skip=skip, height=24, width=64)
    assert (found.render(found.scenes).label == 0).float().mean() > 0.03
    seeds = list(SPLIT_SEEDS["validation"][skip : skip + 40])
    drawn = [strip(seed).direction.equal(found.direction) for seed in seeds]
    assert drawn.count(True) == 1
    for seed in seeds[: drawn.index(True)]:
        passed = strip(seed)
        blue = passed.scenes.colour[0, 0] == 2
        assert blue or (passed.render(passed.scenes).label == 0).float().mean() <= 0.03


def test_an_edit_that_no_panorama_shows_is_refused(monkeypatch):
    monkeypatch.setitem(SPLIT_SEEDS, "validation", range(SEED, SEED + 3))
    nothing = dataclasses.replace(all_edits()["floor lava"], name="nothing", target=9)
    with pytest.raises(ValueError, match=r"No panorama of validation from 1 on .*'nothing'"):
        find_panorama(nothing, "validation", skip=1, height=4, width=4)
