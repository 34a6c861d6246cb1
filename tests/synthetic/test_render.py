from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from solids import SOLIDS, march, placed

from csd_nerf.synthetic.cameras import Cameras, draw_cameras, look_at, orbit_cameras, pixel_rays
from csd_nerf.synthetic.dataset import render_views
from csd_nerf.synthetic.materials import value_noise
from csd_nerf.synthetic.render import FLOOR, SKY, render
from csd_nerf.synthetic.scenes import Scenes, draw_scenes

SEEDS = [11_000_003, 11_000_004, 11_000_005]
ONE = torch.ones(1)
one = torch.ones(1)


def one_sphere() -> Scenes:
    """A sphere of radius 0.8 at the origin under a slanting sun, on a floor of one colour."""
    scene = draw_scenes([0])
    return dataclasses.replace(
        scene,
        present=torch.tensor([[True, False, False, False]]),
        position=torch.zeros(1, 4, 2),
        size=torch.full((1, 4), 0.8),
        sun=torch.tensor([[0.6, 0.0, 0.8]]),
    )


def slow_rays(cameras: Cameras, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays through the pixel centres of the first camera, a pixel at a time."""
    matrix = cameras.camera_to_world[0].double().numpy()
    focal = float(cameras.focal[0]) * max(height, width)
    rows = []
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
            direction = matrix[:, :3] @ [x / focal, -y / focal, -1]
            rows.append(direction / np.linalg.norm(direction))
    return np.tile(matrix[:, 3], (len(rows), 1)), np.array(rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_and_labels_are_those_of_marched_rays(seed):
    scene, cameras, height, width = draw_scenes([seed]), draw_cameras([seed]), 18, 26
    origin, direction = slow_rays(cameras, height, width)
    fields = {
        slot: placed(
            SOLIDS[slot],
            scene.position[0, slot].double().numpy(),
            float(scene.size[0, slot]),
            float(scene.yaw[0, slot]),
        )
        for slot in range(4)
        if scene.present[0, slot]
    }
    depths = {slot: march(field, origin, direction) for slot, field in fields.items()}
    with np.errstate(divide="ignore"):
        floor = -origin[:, 2] / direction[:, 2]
    depths[FLOOR] = np.where(floor > 0, floor, np.inf)
    depths[SKY] = np.full(len(origin), 1e9)
    names, table = list(depths), np.stack(list(depths.values()))
    sure = ~np.isnan(table).any(axis=0)
    label = np.array(names)[np.nanargmin(table, axis=0)]
    depth = np.where(label == SKY, np.inf, np.nanmin(table, axis=0))

    seen = render(scene, cameras, height=height, width=width, supersample=1)
    actual_label = seen.label.flatten().numpy()
    # At an outline a float32 ray may fall on the other side.
    same = (actual_label == label) | ~sure
    assert same.mean() > 0.995
    assert {*label} >= {FLOOR, *fields}
    compared = same & sure
    np.testing.assert_allclose(
        seen.depth.flatten().numpy()[compared], depth[compared], rtol=1e-3, atol=1e-3
    )


def test_depth_of_odd_supersampling_is_that_of_the_pixel_centre():
    scenes, cameras = draw_scenes(SEEDS), draw_cameras(SEEDS)
    plain = render(scenes, cameras, height=12, width=16, supersample=1)
    fine = render(scenes, cameras, height=12, width=16, supersample=3)
    assert (plain.label == fine.label).float().mean() > 0.99
    same = (plain.label == fine.label) & plain.depth.isfinite()
    torch.testing.assert_close(plain.depth[same], fine.depth[same], rtol=1e-3, atol=1e-3)


def test_the_sphere_throws_the_shadow_that_the_sun_ray_says():
    scene, height, width = one_sphere(), 40, 40
    cameras = orbit_cameras(torch.tensor([0.9]), torch.tensor([0.7]))
    bare = dataclasses.replace(scene, present=torch.zeros(1, 4, dtype=torch.bool))
    size = {"height": height, "width": width, "supersample": 1}
    seen, empty = render(scene, cameras, **size), render(bare, cameras, **size)
    origin, direction = slow_rays(cameras, height, width)
    floor = seen.label.flatten().numpy() == FLOOR
    point = (origin + (-origin[:, 2] / direction[:, 2])[:, None] * direction)[floor]
    sun, centre = scene.sun[0].double().numpy(), np.array([0, 0, 0.8])
    miss = np.linalg.norm(np.cross(centre - point, sun), axis=-1) - 0.8
    ratio = (seen.image01 / empty.image01)[0].amin(0).flatten().numpy()[floor]
    clear = np.abs(miss) > 0.02
    assert 20 < (miss < 0).sum() < floor.sum() / 2
    np.testing.assert_array_equal((ratio < 0.9)[clear], (miss < 0)[clear])
    np.testing.assert_allclose(ratio[miss > 0.02], 1, atol=1e-5)


def test_lambert_by_hand_on_a_sphere_without_texture_haze_or_fog():
    """At the point of the sphere that faces the camera, colour is albedo times light."""
    scene = dataclasses.replace(
        one_sphere(),
        texture=torch.zeros(1, 4, dtype=torch.long),
        colour=torch.full((1, 4), 2),
        tint=torch.zeros(1, 4, 3),
        sun_strength=torch.tensor([0.5]),
    )
    cameras = Cameras(look_at(torch.tensor([[4.0, 0, 0.8]]), torch.tensor([[0.0, 0, 0.8]])), ONE)
    seen = render(scene, cameras, height=1, width=1, supersample=1)
    # The normal is +x: incidence 0.6 with the sun, and the horizon's share of the sky's light.
    light = 0.5 * 0.95 + 1.25 * 0.5 * 0.6
    expected = torch.tensor([0.10, 0.24, 0.82]) * light
    torch.testing.assert_close(seen.image01.flatten(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.depth.flatten(), torch.tensor([3.2]))


def test_fog_hides_what_is_far_and_snow_lies_on_what_faces_up():
    scene, cameras = draw_scenes([SEEDS[0]]), draw_cameras([SEEDS[0]])
    size = {"height": 16, "width": 16, "supersample": 1}
    clear = render(scene, cameras, **size)
    thick = render(dataclasses.replace(scene, fog=torch.tensor([0.3])), cameras, **size)
    share = torch.exp(-0.3 * clear.depth)[:, None]
    grey = torch.tensor([0.80, 0.82, 0.84])[:, None, None]
    torch.testing.assert_close(
        thick.image01, (grey + share * (clear.image01 - grey)), rtol=1e-4, atol=1e-4
    )
    snowy = render(dataclasses.replace(scene, snow=ONE), cameras, **size)
    near = (clear.label == FLOOR) & (clear.depth < 6)
    floor = snowy.image01.movedim(1, -1)[near]
    spread = (floor.amax(-1) / floor.amin(-1)).max()
    assert spread < 1.2, "Snow on the floor must be nearly colourless."
    assert render(scene, cameras, **size).image01.equal(clear.image01)


def test_a_scene_is_rendered_alike_whatever_its_neighbours():
    scenes, cameras = draw_scenes(SEEDS), draw_cameras(SEEDS)
    together = render(scenes, cameras, height=20, width=24)
    for index, seed in enumerate(SEEDS):
        alone = render(draw_scenes([seed]), draw_cameras([seed]), height=20, width=24)
        assert alone.label[0].equal(together.label[index])
        torch.testing.assert_close(alone.image01[0], together.image01[index])


def test_render_views_equals_one_call():
    cameras = orbit_cameras(torch.linspace(0, 5, 6), torch.full((6,), 0.4))
    scene = draw_scenes([SEEDS[0]])
    parts = render_views(scene, cameras, size=16)
    whole = render(scene.repeat(6), cameras, height=16, width=16)
    assert parts.label.equal(whole.label)
    torch.testing.assert_close(parts.image01, whole.image01)


def test_supersampling_converges():
    scenes, cameras = draw_scenes(SEEDS), draw_cameras(SEEDS)
    images = {
        rays: render(scenes, cameras, height=16, width=16, supersample=rays).image01
        for rays in (1, 2, 4, 12)
    }
    errors = [float((images[rays] - images[12]).square().mean()) for rays in (1, 2, 4)]
    assert errors[0] > 2.5 * errors[1] > 5 * errors[2]


def test_cameras_are_right_handed_upright_and_look_at_their_target():
    eye = torch.tensor([[3.0, -2.0, 1.5], [-1.0, 4.0, 0.3]])
    target = torch.tensor([[0.2, 0.1, 0.6], [0.0, 0.0, 0.9]])
    matrix = look_at(eye, target)
    rotation = matrix[:, :, :3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(2))
    towards = torch.nn.functional.normalize(target - eye, dim=-1)
    torch.testing.assert_close(-rotation[:, :, 2], towards)
    torch.testing.assert_close(rotation[:, 2, 0], torch.zeros(2))
    assert (rotation[:, 2, 1] > 0).all()
    torch.testing.assert_close(matrix[:, :, 3], eye)


def test_the_middle_ray_of_an_odd_image_is_the_optical_axis_and_corners_keep_the_focal_length():
    cameras = orbit_cameras(torch.tensor([1.0]), torch.tensor([0.3]), focal=1.2)
    origin, direction = pixel_rays(cameras, height=3, width=5)
    matrix = cameras.camera_to_world[0]
    torch.testing.assert_close(direction[0, 7], -matrix[:, 2])
    assert math.isclose(float(origin.norm() ** 2), 4.6**2 * 1, rel_tol=1e-5)
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(1, 15))
    corner = direction[0, 0] @ matrix[:, :3]
    torch.testing.assert_close(corner / -corner[2], torch.tensor([-2 / 6, 1 / 6, -1.0]))


def test_random_cameras_stand_above_the_floor_and_outside_the_objects():
    seeds = list(range(50))
    scenes, cameras = draw_scenes(seeds), draw_cameras(seeds)
    eye = cameras.camera_to_world[:, :, 3]
    assert (eye[:, 2] > 0.3).all()
    reach = (scenes.position.norm(dim=-1) + 1.25 * scenes.size).amax(dim=1)
    assert (eye.norm(dim=-1) > reach).all()


def test_value_noise_is_smooth_bounded_and_not_constant():
    xy = torch.rand(1, 4000, 2, generator=torch.Generator().manual_seed(0)) * 20
    noise = value_noise(xy)
    assert 0 <= noise.min() < 0.1
    assert 0.9 < noise.max() <= 1
    # The steepest slope of a cubic between 0 and 1 is 1.5 along each axis.
    nudged = value_noise(xy + 1e-3)
    assert (nudged - noise).abs().max() < 1e-3 * 2 * 1.5 + 1e-4
