from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from csd_nerf.evaluation.cross_view import cross_view_error, ray_lengths
from csd_nerf.synthetic.dataset import render_views, view_cameras
from csd_nerf.synthetic.scenes import draw_scenes

SIZE = 24


@pytest.fixture(scope="module")
def scene():
    """Three neighbouring views of a synthetic scene, with true distances of the pixels' centres."""
    from csd_nerf.synthetic.cameras import Cameras
    from csd_nerf.synthetic.render import render

    orbit = view_cameras(40)
    cameras = Cameras(orbit.camera_to_world[:3], orbit.focal[:3])
    scenes = draw_scenes([7]).repeat(3)
    exact = render(scenes, cameras, height=SIZE, width=SIZE, supersample=1)
    smooth = render_views(draw_scenes([7]), cameras, size=SIZE)
    focal = cameras.focal * SIZE
    middle = torch.full_like(focal, SIZE / 2)
    intrinsics = torch.stack([focal, focal, middle, middle], dim=1)
    return smooth.image01, exact.depth, cameras.camera_to_world, intrinsics


def above_a_plane(*, shift: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two cameras 2 above z = 0, looking down; the second sees everything `shift` pixels left.

    At a focal length of 8 pixels a move of 1 is one of 8 / 2 pixels.
    """
    pose = torch.eye(4)[:3].repeat(2, 1, 1)
    pose[:, 2, 3] = 2.0
    pose[1, 0, 3] = shift / 4
    row = [
        [2 * math.sqrt(1 + ((x + 0.5 - 6) / 8) ** 2 + ((y + 0.5 - 4) / 8) ** 2) for x in range(12)]
        for y in range(8)
    ]
    return torch.tensor(row).repeat(2, 1, 1), pose, torch.tensor([[8.0, 8.0, 6.0, 4.0]] * 2)


def slow_error(image01, distance, camera_to_world, intrinsics, first, second, tolerance):
    """The definition, pixel by pixel in float64; errors of one direction."""
    image, away = image01.double().numpy(), distance.double().numpy()
    pose, lens = camera_to_world.double().numpy(), intrinsics.double().numpy()
    height, width = away.shape[1:]

    def bilinear(values, x, y):
        x, y = (float(np.clip(v - 0.5, 0, n - 1)) for v, n in ((x, width), (y, height)))
        left, top = min(int(x), width - 2), min(int(y), height - 2)
        a, b = x - left, y - top
        corners = [
            ((1 - a) * (1 - b), values[..., top, left]),
            (a * (1 - b), values[..., top, left + 1]),
            ((1 - a) * b, values[..., top + 1, left]),
            (a * b, values[..., top + 1, left + 1]),
        ]
        return sum(weight * value for weight, value in corners)

    errors = []
    for y in range(height):
        for x in range(width):
            if not np.isfinite(away[first, y, x]):
                continue
            fx, fy, cx, cy = lens[first]
            ray = np.array([(x + 0.5 - cx) / fx, -(y + 0.5 - cy) / fy, -1.0])
            local = ray / np.linalg.norm(ray) * away[first, y, x]
            point = pose[first, :, :3] @ local + pose[first, :, 3]
            other = np.linalg.inv(pose[second, :, :3]) @ (point - pose[second, :, 3])
            if other[2] >= 0:
                continue
            fx, fy, cx, cy = lens[second]
            u, v = cx - fx * other[0] / other[2], cy + fy * other[1] / other[2]
            if not (0 <= u <= width and 0 <= v <= height):
                continue
            with np.errstate(invalid="ignore"):
                found = bilinear(away[second], u, v)
            if abs(found - np.linalg.norm(other)) <= tolerance * np.linalg.norm(other):
                colour = bilinear(image[second], u, v)
                errors.append(np.abs(image[first, :, y, x] - colour).mean())
    return errors


def test_it_is_the_definition_by_slow_loops(scene):
    errors = [
        error
        for pair in [(0, 2), (2, 0), (1, 0), (0, 1)]
        for error in slow_error(*scene, *pair, tolerance=0.03)
    ]
    result = cross_view_error(*scene, pairs=[(0, 2), (1, 0)], tolerance=0.03)
    assert result.seen == pytest.approx(len(errors) / (4 * SIZE * SIZE), abs=2e-3)
    assert result.error == pytest.approx(np.mean(errors), rel=2e-3)
    assert 0.2 < result.seen < 0.95


def test_a_plane_by_hand():
    """Columns 3 to 11 of the first view are columns 0 to 8 of the second, 0.1 brighter there."""
    distance, pose, intrinsics = above_a_plane(shift=3)
    texture = torch.rand(3, 8, 15, generator=torch.Generator().manual_seed(0)) * 0.9
    image = torch.stack([texture[..., :12], texture[..., 3:] + 0.1])
    result = cross_view_error(image, distance, pose, intrinsics)
    assert result.error == pytest.approx(0.1, abs=1e-5)
    assert result.seen == pytest.approx(9 / 12)


def test_what_hides_a_place_from_a_view_is_not_compared():
    """Something at half the distance covers the right half of the second view."""
    distance, pose, intrinsics = above_a_plane(shift=0)
    distance[1, :, 6:] /= 2
    image = torch.zeros(2, 3, 8, 12)
    image[1, :, :, 6:] = 1
    result = cross_view_error(image, distance, pose, intrinsics)
    assert (result.error, result.seen) == (0, 0.5)


@pytest.mark.parametrize("unknown", [math.inf, math.nan, 0.0, -1.0])
def test_places_of_unknown_distance_are_not_compared(unknown):
    distance, pose, intrinsics = above_a_plane(shift=0)
    distance[0, :4] = unknown
    image = torch.zeros(2, 3, 8, 12)
    image[1, :, :4] = 1
    result = cross_view_error(image, distance, pose, intrinsics)
    assert (result.error, result.seen) == (0, 0.5)


def test_views_that_see_nothing_in_common_have_no_error():
    distance, pose, intrinsics = above_a_plane(shift=40)
    result = cross_view_error(torch.zeros(2, 3, 8, 12), distance, pose, intrinsics)
    assert math.isnan(result.error)
    assert result.seen == 0


def test_a_camera_that_looks_away_sees_nothing():
    distance, pose, intrinsics = above_a_plane(shift=0)
    pose[1, :, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    assert cross_view_error(torch.zeros(2, 3, 8, 12), distance, pose, intrinsics).seen == 0


def test_views_recoloured_on_their_own_differ_by_the_colours(scene):
    colour = torch.tensor([[0.5, 0.2, 0.1], [0.5, 0.2, 0.4], [0.8, 0.2, 0.4]])
    image = colour[:, :, None, None].expand(3, 3, SIZE, SIZE)
    assert cross_view_error(image, *scene[1:]).error == pytest.approx(0.1, abs=1e-6)
    assert cross_view_error(image, *scene[1:], pairs=[(0, 2)]).error == pytest.approx(0.2, abs=1e-6)


def test_views_of_one_scene_agree_and_independent_changes_show(scene):
    image = scene[0]
    unedited = cross_view_error(*scene)
    brightness = torch.tensor([0.0, 0.15, 0.0])[:, None, None, None]
    edited = cross_view_error((image * 0.8 + brightness), *scene[1:])
    together = cross_view_error(image * 0.8 + 0.15, *scene[1:])
    assert unedited.error < 0.03
    assert edited.error > 0.1
    assert together.error == pytest.approx(0.8 * unedited.error, rel=1e-4)


def test_the_order_of_a_pair_and_the_unit_of_length_do_not_matter(scene):
    image, distance, pose, intrinsics = scene
    pose = torch.cat([pose[..., :3], 5 * pose[..., 3:]], dim=-1)
    one = cross_view_error(*scene, pairs=[(0, 1)])
    other = cross_view_error(image, 5 * distance, pose, intrinsics, pairs=[(1, 0)])
    assert other.error == pytest.approx(one.error, rel=1e-3)
    assert other.seen == pytest.approx(one.seen, abs=2e-3)


def test_ray_lengths_by_hand():
    """At a focal length of 1 the ray to (3, 4) of the plane at 1 is as long as sqrt(26)."""
    lengths = ray_lengths(5, 4, torch.tensor([[1.0, 1.0, 0.5, 0.5], [2.0, 1.0, 0.5, 0.5]]))
    assert lengths[0, 4, 3] == pytest.approx(math.sqrt(26))
    assert lengths[0, 0, 0] == 1
    assert lengths[1, 0, 2] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "compared in pairs, got none, of 3 views"),
        ([(0, 3)], r"two different views from 0 to 2, got \(0, 3\)"),
        ([(1, 1)], r"two different views from 0 to 2, got \(1, 1\)"),
    ],
)
def test_pairs_are_checked(scene, pairs, message):
    with pytest.raises(ValueError, match=message):
        cross_view_error(*scene, pairs=pairs)
