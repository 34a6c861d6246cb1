from __future__ import annotations

import numpy as np
import pytest
import torch
from solids import SOLIDS, gradient, march

from csd_nerf.synthetic.palette import SHAPES
from csd_nerf.synthetic.shapes import intersect, outward_normal

SLOTS = pytest.mark.parametrize("slot", range(4), ids=SHAPES)
SPHERE, CUBE, CYLINDER, CONE = range(4)


def random_rays(count: int, *, inside: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays from around a shape towards it or past it, or from points inside a solid."""
    random = np.random.default_rng(seed)
    if inside is None:
        origin = random.normal(size=(count, 3))
        origin = [0, 0, 1] + 5 * origin / np.linalg.norm(origin, axis=-1, keepdims=True)
        direction = random.uniform([-1, -1, -0.2], [1, 1, 2.2], (count, 3)) - origin
    else:
        origin = random.uniform([-1, -1, 0], [1, 1, 2], (20 * count, 3))
        origin = origin[SOLIDS[inside](origin) < -0.02][:count]
        direction = random.normal(size=origin.shape)
    return origin, direction / np.linalg.norm(direction, axis=-1, keepdims=True)


def cast(slot: int, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    rows = [torch.tensor(a, dtype=torch.float32)[None] for a in (origin, direction)]
    return intersect(slot, *rows)[0].double().numpy()


def grazes(slot: int, origin: np.ndarray, direction: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Rays that pass the surface so close that float32 may see it otherwise."""
    t = np.linspace(0, 10, 2001)[:, None, None]
    nearest = np.abs(SOLIDS[slot](origin + t * direction)).min(axis=0)
    return np.isnan(found) | (np.isinf(found) & (nearest < 5e-3))


@SLOTS
@pytest.mark.parametrize("start", ["outside", "inside"])
def test_a_ray_meets_the_surface_where_marching_finds_it(slot, start):
    origin, direction = random_rays(400, inside=slot if start == "inside" else None, seed=slot)
    expected = march(SOLIDS[slot], origin, direction)
    sure = ~grazes(slot, origin, direction, expected)
    assert sure.mean() > 0.95
    assert np.isfinite(expected[sure]).mean() > 0.3
    actual = cast(slot, origin, direction)
    # Distances agree as far as a float32 discriminant allows for slanting hits.
    np.testing.assert_allclose(actual[sure], expected[sure], atol=2e-3)
    hit = sure & np.isfinite(expected)
    assert np.median(np.abs(actual[hit] - expected[hit])) < 2e-6


@pytest.mark.parametrize(
    ("slot", "origin", "direction", "distance"),
    [
        (SPHERE, (3, 0, 1), (-1, 0, 0), 2),
        (SPHERE, (0, 0, 1), (0, 0, 1), 1),
        (SPHERE, (3, 0, 1), (1, 0, 0), np.inf),
        (SPHERE, (3, 1.01, 1), (-1, 0, 0), np.inf),
        (CUBE, (0.3, 0.2, 5), (0, 0, -1), 3.3),
        (CUBE, (0.86, 0.2, 5), (0, 0, -1), np.inf),
        (CUBE, (0.1, -4, 0.5), (0, 1, 0), 3.15),
        (CUBE, (0, 0, 0.85), (0, -1, 0), 0.85),
        (CYLINDER, (0.3, 0.2, 5), (0, 0, -1), 3),
        (CYLINDER, (0.76, 0, 5), (0, 0, -1), np.inf),
        (CYLINDER, (0.1, 0, 1), (0, 0, 1), 1),
        (CYLINDER, (0, -4, 1.99), (0, 1, 0), 3.25),
        (CYLINDER, (0, -4, 2.01), (0, 1, 0), np.inf),
        (CONE, (0.475, 0, 5), (0, 0, -1), 4),
        (CONE, (0.96, 0, 5), (0, 0, -1), np.inf),
        (CONE, (0, -4, 1), (0, 1, 0), 4 - 0.475),
        (CONE, (0, -4, 2.5), (0, 1, 0), np.inf),
        (CONE, (0, 0, 0.5), (0, 0, -1), 0.5),
    ],
)
def test_rays_along_the_axes(slot, origin, direction, distance):
    actual = cast(slot, np.array([origin]), np.array([direction]))
    np.testing.assert_allclose(actual, [distance], atol=1e-5)


@SLOTS
def test_a_ray_that_starts_on_the_surface_does_not_meet_it_there(slot):
    origin, direction = random_rays(300, inside=None, seed=9)
    distance = march(SOLIDS[slot], origin, direction)
    hit = np.isfinite(distance)
    point = origin[hit] + distance[hit, None] * direction[hit]
    again = cast(slot, point, gradient(SOLIDS[slot], point))
    assert np.isinf(again).mean() > 0.98


@SLOTS
def test_a_longer_direction_shortens_the_distance(slot):
    origin, direction = random_rays(200, inside=None, seed=5)
    once, twice = cast(slot, origin, direction), cast(slot, origin, 2 * direction)
    hit = np.isfinite(once) & np.isfinite(twice)
    np.testing.assert_allclose(2 * twice[hit], once[hit], rtol=1e-3)
    assert hit.sum() >= np.isfinite(once).sum() - 2


@SLOTS
def test_normals_are_the_gradient_of_the_implicit_function(slot):
    origin, direction = random_rays(600, inside=None, seed=20 + slot)
    distance = march(SOLIDS[slot], origin, direction)
    hit = np.isfinite(distance)
    point = origin[hit] + distance[hit, None] * direction[hit]
    expected = gradient(SOLIDS[slot], point)
    # What lies on the floor is never seen; at an edge the gradient mixes two faces.
    smooth = (np.abs(np.linalg.norm(expected, axis=-1) - 1) < 1e-6) & (point[:, 2] > 1e-2)
    smooth &= np.abs(point[:, 2] - 2) > (2e-3 if slot == CONE else 0)
    rim = (slot == CYLINDER) & (np.abs(point[:, 2] - 1.999) < 1e-3) & (expected[:, 2] == 0)
    smooth &= ~rim
    assert smooth.sum() > 100
    normal = outward_normal(slot, torch.tensor(point[smooth], dtype=torch.float32)[None])[0]
    normal = torch.nn.functional.normalize(normal, dim=-1).numpy()
    np.testing.assert_allclose(normal, expected[smooth], atol=2e-4)
