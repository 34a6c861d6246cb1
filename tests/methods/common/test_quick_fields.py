"""The compiled hash grid and the contraction against nerfstudio's own torch code."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.utils.math import Gaussians

from csd_nerf.methods.common.quick_fields import (
    CompiledHashEncoding,
    CubeContraction,
    speed_up_fields,
)


def grids(*, levels=5, log2_size=6, features=2, max_res=64):
    """The same grid twice, one of them compiled; small, so that entries collide."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(
            HashEncoding(
                num_levels=levels,
                min_res=4,
                max_res=max_res,
                log2_hashmap_size=log2_size,
                features_per_level=features,
                hash_init_scale=1.0,
                implementation="torch",
            )
        )
    speed_up_fields(made[1])
    return made


def points(n=300):
    """Random points, and some on the grid's planes, where floor and ceiling are the same."""
    some = torch.rand(n, 3, generator=torch.Generator().manual_seed(1))
    some[:20] = (some[:20] * 4).round() / 4
    some[20], some[21] = 0.0, 1.0
    return some


@pytest.mark.parametrize("features", [1, 2, 4])
def test_features_and_gradients_are_nerfstudios(features):
    theirs, ours = grids(features=features)
    weight = torch.randn(300, 5 * features, generator=torch.Generator().manual_seed(2))
    for grid in (theirs, ours):
        (grid(points()) * weight).sum().backward()
    assert torch.allclose(ours(points()), theirs(points()), atol=1e-5)
    assert torch.allclose(ours.hash_table.grad, theirs.hash_table.grad, atol=1e-4)
    assert theirs.hash_table.grad.abs().max() > 1


def test_points_may_have_any_shape():
    theirs, ours = grids()
    shaped = points().view(10, 6, 5, 3)
    assert ours(shaped).shape == theirs(shaped).shape == (10, 6, 5, 10)
    assert torch.allclose(ours(shaped), theirs(shaped), atol=1e-5)
    assert ours(torch.zeros(0, 3)).shape == (0, 10)


def test_threads_change_nothing():
    _, ours = grids()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours.hash_table.grad = None
            features = ours(points())
            features.square().sum().backward()
            found.append((features.detach(), ours.hash_table.grad))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_gradients_by_the_points_are_torchs():
    theirs, ours = grids()
    slopes = []
    for grid in (theirs, ours):
        given = points().requires_grad_()
        grid(given).square().sum().backward()
        slopes.append(given.grad)
    # On a plane of the grid both cells' slopes are right.
    assert torch.allclose(slopes[0][22:], slopes[1][22:], atol=1e-3)
    assert slopes[0].abs().max() > 0


def test_contracted_points_and_gradients_are_nerfstudios_to_the_last_bit():
    some = torch.randn(50, 40, 3, generator=torch.Generator().manual_seed(0)) * 2
    # On an edge and a corner, where two or three coordinates are the largest.
    some[0, :2] = torch.tensor([[1.5, -1.5, 0.2], [3.0, 3.0, -3.0]])
    weight = torch.randn(some.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for contraction in (SceneContraction(float("inf")), CubeContraction(float("inf"))):
        points = some.clone().requires_grad_()
        contracted = contraction(points)
        (contracted * weight).sum().backward()
        found.append((contracted, points.grad))
    for theirs, ours in zip(*found, strict=True):
        assert torch.equal(theirs, ours)
    assert found[0][0].abs().max() > 1.5
    blobs = Gaussians(mean=some[0], cov=torch.eye(3).expand(40, 3, 3).clone())
    theirs, ours = (kind(float("inf"))(blobs) for kind in (SceneContraction, CubeContraction))
    assert torch.equal(theirs.cov, ours.cov)
    assert torch.equal(theirs.mean, ours.mean)


def test_only_hash_grids_and_contractions_to_a_cube_change_and_parameters_stay():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        grids()[0], torch.nn.Linear(10, 4), SceneContraction(float("inf")), SceneContraction()
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    speed_up_fields(module)
    kinds = [CompiledHashEncoding, torch.nn.Linear, CubeContraction, SceneContraction]
    assert [type(part) for part in module] == kinds
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
