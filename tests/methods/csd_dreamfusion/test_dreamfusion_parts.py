"""Prompts by view, shading, fields and cameras, each against what its words promise."""

from __future__ import annotations

import math

import pytest
import torch
from sure_prior import SurePrior

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_dreamfusion import fields, shading
from csd_nerf.methods.csd_dreamfusion.datamanager import (
    CSDDreamFusionDataManagerConfig,
    orbit_cameras,
    view_angles,
)
from csd_nerf.methods.csd_dreamfusion.optimization import warmup_cosine
from csd_nerf.methods.csd_dreamfusion.prompts import ViewPrompts, view_weights
from csd_nerf.methods.csd_dreamfusion.rays import BEYOND, surface_depth

UP = math.radians(60)


def weights(azimuth, elevation):
    rows = view_weights(torch.tensor([azimuth]), torch.tensor([elevation]), overhead=UP)
    return [round(x, 4) for x in rows[0].tolist()]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(0, [1, 0, 0]), (45, [0.5, 0.5, 0]), (90, [0, 1, 0]), (135, [0, 0.5, 0.5]), (180, [0, 0, 1])],
)
@pytest.mark.parametrize("turns", [0, 1, -2])
def test_prompts_turn_with_the_camera_either_way(degrees, expected, turns):
    for sign in (1, -1):
        azimuth = sign * math.radians(degrees) + 2 * math.pi * turns
        assert weights(azimuth, 0.0) == pytest.approx([*expected, 0], abs=1e-3)


def test_overhead_takes_over_upwards():
    assert weights(0.5, math.radians(39))[3] == 0
    assert weights(0.5, UP)[3] == pytest.approx(0.5, abs=1e-3)
    assert weights(0.5, math.radians(85)) == [0, 0, 0, 1]


def test_weights_sum_to_one_everywhere():
    azimuth, elevation = torch.linspace(-9, 9, 200), torch.linspace(-1.5, 1.5, 200)
    rows = view_weights(azimuth, elevation, overhead=UP)
    assert torch.allclose(rows.sum(1), torch.ones(200))
    assert bool((rows >= 0).all())


def test_texts_are_encoded_once_and_interpolated():
    calls = []

    class Texts(SurePrior):
        def encode_text(self, prompts, image_rows=None):
            calls.append(list(prompts))
            rows = torch.arange(float(len(prompts)))
            return {"text": rows[:, None, None].expand(-1, 2, 3), "pooled": 2 * rows[:, None]}

    prompts = ViewPrompts.encode(
        Texts(),
        "a cat",
        negative_prompt="blurry",
        template="{prompt} ({view})",
        overhead=UP,
    )
    views = ["a cat (front)", "a cat (side)", "a cat (back)", "a cat (overhead)"]
    assert calls == [views, ["blurry"]]
    texts = prompts.of_cameras(torch.tensor([math.pi, 3 * math.pi / 4]), torch.zeros(2))
    (rows,) = texts.prompts
    assert rows["text"].shape == (2, 2, 3)
    assert rows["text"][:, 0, 0].tolist() == pytest.approx([2.0, 1.5], abs=1e-5)
    assert rows["pooled"][:, 0].tolist() == pytest.approx([4.0, 3.0], abs=1e-5)
    assert texts.empty["text"].shape == (1, 2, 3)


def test_a_sphere_is_lit_as_the_cosine_says():
    normal = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    albedo = torch.rand(50, 3)
    light = shading.Light(torch.tensor([0.0, 0.0, 1.0]).expand(50, 3), ambient=0.3)
    lit = shading.shade(albedo, normal, light=light, shading="lambertian")
    for a, n, seen in zip(albedo, normal, lit, strict=True):
        assert torch.allclose(seen, a * (0.3 + 0.7 * max(float(n[2]), 0.0)), atol=1e-6)
    grey = shading.shade(albedo, normal, light=light, shading="textureless")
    assert torch.allclose(grey * albedo, lit, atol=1e-6)
    assert torch.equal(shading.shade(albedo, normal, light=light, shading="albedo"), albedo)


def test_lights_come_from_the_camera_side_more_or_less():
    generator = torch.Generator().manual_seed(0)
    eyes = torch.tensor([[0.0, -2.0, 1.0], [2.0, 0.5, 0.0]]).repeat(100, 1)
    toward = torch.nn.functional.normalize(eyes, dim=1)
    options = {"ambient": 0.1, "generator": generator}
    near = shading.draw_light(eyes, spread=0.0, **options)
    assert torch.allclose(near.toward, toward)
    drawn = shading.draw_light(eyes, spread=0.6, **options).toward
    assert torch.allclose(drawn.norm(dim=1), torch.ones(200))
    assert 0.5 < float((drawn * toward).sum(1).mean()) < 0.95
    assert len(drawn.unique(dim=0)) == 200


def test_shadings_come_as_often_as_asked():
    generator = torch.Generator().manual_seed(0)
    drawn = [shading.draw_shading((0.5, 0.5, 0.0), generator=generator) for _ in range(300)]
    assert 110 < drawn.count("albedo") < 190
    assert drawn.count("textureless") == 0


def ball(points):
    return torch.exp(-30 * (points.norm(dim=-1) - 0.5))


def test_normals_point_out_of_a_ball():
    points = 0.5 * torch.nn.functional.normalize(torch.randn(100, 3), dim=-1)
    found = fields.normals(ball, points, step=0.005)
    assert float((found * points / 0.5).sum(1).min()) > 0.999


def test_normals_can_be_trained_through_and_stay_finite_where_there_are_none():
    scale = torch.ones(3, requires_grad=True)
    points = torch.tensor([[0.3, 0.2, 0.1], [0.0, 0.0, 0.0]])
    for density in (lambda p: ball(p * scale), lambda p: torch.ones(len(p)) * scale[0]):
        found = fields.normals(density, points, step=0.02)
        (slope,) = torch.autograd.grad(found.sum(), scale)
        assert bool(found.isfinite().all())
        assert bool(slope.isfinite().all())


@pytest.mark.parametrize("kind", ["mlp", "hash"])
def test_an_untrained_field_is_a_blob_in_the_middle(kind):
    torch.manual_seed(0)
    base = (
        fields.build_mlp(blocks=5, width=32)
        if kind == "mlp"
        else fields.build_hash_grid(
            levels=2, max_res=16, log2_size=10, width=16, implementation="torch"
        )
    )
    field = fields.ObjectField(base, bias=5.0, bias_radius=0.4)
    middle, edge = field.density(torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0]]))
    assert float(middle) > 50
    assert float(edge) < 0.1
    assert sum(isinstance(m, fields.ResidualBlock) for m in field.modules()) == 5 * (kind == "mlp")
    colour = field.behind(torch.nn.functional.normalize(torch.randn(4, 3), dim=-1))
    assert colour.shape == (4, 3)
    assert 0 < float(colour.min()) < float(colour.max()) < 1


@pytest.mark.parametrize("samples", [12, 200])
def test_depth_is_where_density_reaches_the_threshold_from_whatever_side(samples):
    """A cloud whose density falls by e every tenth: 10 is reached at a known radius."""
    radius = 0.5 - 0.1 * math.log(10.0)
    distance = torch.linspace(1.5, 3.5, samples).expand(2, samples)
    # One ray through the middle, and one that passes by at 0.1 of it.
    away = torch.tensor([[0.0], [0.1]])
    density = ((0.5 - torch.hypot(distance - 2.5, away)) / 0.1).exp()
    depth = surface_depth(density, distance, threshold=10.0)
    expected = 2.5 - (radius**2 - away[:, 0].square()).sqrt()
    torch.testing.assert_close(depth, expected, atol=0.4 / samples, rtol=0)


def test_depth_is_beyond_where_nothing_is_and_at_the_first_sample_inside():
    distance = torch.tensor([[1.0, 2.0, 3.0]] * 3)
    density = torch.tensor([[0.0, 9.9, 0.0], [50.0, 1.0, 50.0], [0.0, 0.0, math.nan]])
    assert surface_depth(density, distance, threshold=10.0).tolist() == [BEYOND, 1.0, BEYOND]


def test_orbit_cameras_look_at_the_middle_from_where_they_say():
    azimuth, elevation = torch.tensor([0.0, 1.0, -2.5]), torch.tensor([0.0, 0.6, 1.3])
    cameras = orbit_cameras(azimuth, elevation, radius=2.5, focal=1.2, size=16)
    found = view_angles(cameras)
    assert torch.allclose(found[0], azimuth, atol=1e-5)
    assert torch.allclose(found[1], elevation, atol=1e-5)
    rays = cameras.generate_rays(torch.arange(3)[:, None])
    middle = rays.directions[7:9, 7:9].mean((0, 1))
    eye = cameras.camera_to_worlds[:, :3, 3]
    assert torch.allclose(torch.nn.functional.normalize(middle, dim=-1), -eye / 2.5, atol=1e-4)
    assert torch.allclose(eye[0], torch.tensor([0.0, -2.5, 0.0]), atol=1e-6)


def test_cameras_by_angles_are_uniform_in_their_ranges_and_look_at_the_middle():
    config = CSDDreamFusionDataManagerConfig(
        sampling="angles",
        elevation_range=(-20.0, 60.0),
        radius_range=(2.0, 4.0),
        fov_range=(20.0, 40.0),
        train_resolution=8,
    )
    manager = config.setup()
    torch.manual_seed(0)
    draws = [manager.draw_cameras(5) for _ in range(200)]
    poses = torch.cat([cameras.camera_to_worlds for cameras in draws]).double()
    eye, backward, up = poses[:, :, 3], poses[:, :, 2], poses[:, :, 1]
    radius = eye.norm(dim=1)
    torch.testing.assert_close(backward, eye / radius[:, None], atol=1e-5, rtol=0)
    assert (up[:, 2] > 0).all()
    elevation = (eye[:, 2] / radius).asin().rad2deg()
    azimuth = torch.atan2(eye[:, 0], -eye[:, 1]).rad2deg()
    # The focal length is that of half the edge, 4 pixels, at half the field of view.
    fov = torch.stack([2 * (4 / cameras.fx.double()).atan().rad2deg() for cameras in draws])
    assert (fov == fov[:, :1]).all()
    for values, low, high in (
        (elevation, -20, 60),
        (azimuth, -180, 180),
        (radius, 2, 4),
        (fov[:, 0], 20, 40),
    ):
        values = (values.flatten().sort().values - low) / (high - low)
        assert values[0] >= -1e-5
        assert values[-1] <= 1 + 1e-5
        # The distance of a uniform sample from its distribution, with a margin.
        ideal = (torch.arange(len(values)) + 0.5) / len(values)
        assert (values - ideal).abs().max() < 1.8 / len(values) ** 0.5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"elevation_range": (-90.0, 10.0)}, r"elevation_range needs -90 < low <= high < 90, got"),
        (
            {"radius_range": (3.0, 2.0)},
            r"radius_range needs 0 < low <= high < inf, got \(3.0, 2.0\)",
        ),
        ({"fov_range": (0.0, 30.0)}, r"fov_range needs 0 < low <= high < 180, got"),
    ],
)
def test_impossible_cameras_are_refused(change, text):
    with pytest.raises(MethodError, match=text):
        CSDDreamFusionDataManagerConfig(**change)


def test_the_learning_rate_rises_and_falls_as_the_paper_says():
    options = {"lr": 2e-3, "lr_start": 1e-9, "lr_final": 1e-6, "warmup": 2000, "steps": 10000}
    rate = [warmup_cosine(step, **options) for step in (0, 1000, 2000, 6000, 10000, 12000)]
    assert rate == pytest.approx([1e-9, 1e-3, 2e-3, 1.0005e-3, 1e-6, 1e-6], rel=1e-3)
