"""Single objects: silhouettes and colours by independent geometry, and captions."""

from __future__ import annotations

import math

import pytest
import torch

from csd_nerf.synthetic import objects, wordings
from csd_nerf.synthetic.cameras import Cameras, look_at
from csd_nerf.synthetic.palette import COLOURS, SHAPES


def camera(azimuth, elevation, *, radius=2.5, focal=1.15):
    eye = objects.orbit(torch.tensor([azimuth]), torch.tensor([elevation]), radius=radius)
    return Cameras(look_at(eye, torch.zeros(1, 3)), torch.tensor([focal]))


def test_a_sphere_covers_the_disc_that_its_tangent_cone_cuts():
    sphere = objects.true_object("a red ball")
    for azimuth, elevation in ((0.0, 0.0), (2.0, 0.5), (-1.0, 1.2)):
        seen = objects.render_objects(sphere, camera(azimuth, elevation), size=96).coverage
        sine = objects.SIZE / 2.5
        radius = 1.15 * 96 * sine / math.sqrt(1 - sine**2)
        assert float(seen.sum()) == pytest.approx(math.pi * radius**2, rel=0.01)


def test_a_cube_faces_the_front_and_shows_an_edge_half_way_to_the_side():
    cube = objects.true_object("a green box")
    front, corner = (
        objects.render_objects(cube, camera(turn, 0.0), size=96).coverage[0]
        for turn in (0.0, math.pi / 4)
    )
    half = 0.85 * objects.SIZE
    width = 2 * half / (2.5 - half) * 1.15 * 96
    assert float((front.sum(0) > 0.5).sum()) == pytest.approx(width, abs=1.5)
    assert float((corner.sum(0) > 0.5).sum()) > 1.1 * width


@pytest.mark.parametrize("shape", SHAPES)
def test_objects_are_centred_and_stand_upright(shape):
    seen = objects.render_objects(objects.true_object(f"a red {shape}"), camera(0.7, 0.0), size=64)
    rows, columns = seen.coverage[0].sum(1), seen.coverage[0].sum(0)
    at = torch.arange(64.0)
    assert float((columns * at).sum() / columns.sum()) == pytest.approx(31.5, abs=1.0)
    assert float((rows * at).sum() / rows.sum()) == pytest.approx(31.5, abs=6.0)
    if shape == "cone":
        low, high = rows[rows > 0][-4:].mean(), rows[rows > 0][:4].mean()
        assert low > 3 * high


def test_even_light_shows_the_colour_and_white_behind_it():
    seen = objects.render_objects(objects.true_object("a blue cube"), camera(0.3, 0.4), size=32)
    inside = seen.image01[0][:, seen.coverage[0] == 1]
    outside = seen.image01[0][:, seen.coverage[0] == 0]
    assert torch.allclose(inside, torch.tensor(COLOURS["blue"])[:, None].expand_as(inside))
    assert torch.equal(outside, torch.ones_like(outside))


def test_light_from_above_leaves_undersides_to_ambient_light():
    lit = objects.true_object("a white cone")
    lit = objects.Objects(**{**vars(lit), "ambient": torch.tensor([0.25])})
    below = objects.render_objects(lit, camera(0.0, -1.2), size=32)
    middle = below.image01[0, :, 14:18, 14:18]
    assert torch.allclose(middle, torch.full_like(middle, 0.25 * 0.93), atol=1e-3)


def test_draws_repeat_by_seed_and_say_what_they_show():
    first, second = (objects.draw_views(40, torch.Generator().manual_seed(seed)) for seed in (5, 5))
    assert torch.equal(first[0].colour01, second[0].colour01)
    drawn, cameras, words, azimuth, elevation = first
    for i, said in enumerate(words):
        shape, colour = objects.find_object(said)
        assert SHAPES[int(drawn.shape[i])] == shape
        assert float((drawn.colour01[i] - torch.tensor(COLOURS[colour])).abs().max()) <= 0.0501
    x, y, z = torch.nn.functional.normalize(cameras.camera_to_world[:, :, 3], dim=-1).T
    torch.testing.assert_close(elevation.sin(), z)
    torch.testing.assert_close(azimuth.sin() * elevation.cos(), x)
    torch.testing.assert_close(azimuth.cos() * elevation.cos(), -y)


def test_objects_stand_out_from_what_is_behind_them():
    drawn, *_ = objects.draw_views(300, torch.Generator().manual_seed(0))
    middle = drawn.background01.mean(1)
    assert float((middle - drawn.colour01).norm(dim=-1).min()) > 0.25


@pytest.mark.parametrize("caption", ["a cube", "a red dog", "a red cube and a blue ball", ""])
def test_captions_that_name_no_object(caption):
    with pytest.raises(ValueError, match=r"needs one shape of .* one colour of .* got"):
        objects.find_object(caption)


def test_objects_go_by_all_their_names():
    assert "a photo of a red ball" in wordings.captions("sphere", "red")
