from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.text_to_3d.object_truth import (
    AMBIENT,
    VIEWS,
    best_overlap,
    colour_distance,
    silhouette_overlap,
    true_views,
)

SIZE = 48


def own_coverage(prompt: str, *, scale: float = 1.0, size: int = SIZE) -> torch.Tensor:
    return true_views(prompt, size=size, scale=scale, supersample=1).coverage


def slow_overlap(masks, candidates, max_shift):
    """The definition by loops over Python sets of pixels."""

    def pixels(mask):
        return {(int(y), int(x)) for y, x in mask.nonzero()}

    best = (-1.0, 0)
    steps = range(-max_shift, max_shift + 1)
    for index, candidate in enumerate(candidates):
        for down in steps:
            for right in steps:
                values = []
                for mask, other in zip(masks, candidate, strict=True):
                    moved = {(y + down, x + right) for y, x in pixels(other)}
                    values.append(len(pixels(mask) & moved) / len(pixels(mask) | moved))
                if sum(values) / len(values) > best[0]:
                    best = (sum(values) / len(values), index)
    return best


def at_shift(masks, candidate, shift):
    """Mean intersection over union at one shift, by numpy on a wide canvas."""
    values = []
    for mask, other in zip(masks.numpy(), candidate.numpy(), strict=True):
        edge = len(mask)
        canvas, moved = np.zeros((2, 3 * edge, 3 * edge), bool)
        canvas[edge : 2 * edge, edge : 2 * edge] = mask
        down, right = edge + shift[0], edge + shift[1]
        moved[down : down + edge, right : right + edge] = other
        values.append((canvas & moved).sum() / (canvas | moved).sum())
    return float(np.mean(values))


def test_the_best_overlap_is_that_of_a_search_by_loops():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 9, 9, generator=generator) < 0.4
    candidates = torch.rand(3, 2, 9, 9, generator=generator) < torch.tensor(
        [0.2, 0.5, 0.8]
    ).reshape(3, 1, 1, 1)
    value, index, shift = best_overlap(masks, candidates, max_shift=2)
    expected, expected_index = slow_overlap(masks, candidates, 2)
    assert value == pytest.approx(expected, abs=1e-12)
    assert index == expected_index
    assert value == pytest.approx(at_shift(masks, candidates[index], shift), abs=1e-12)


@pytest.mark.parametrize("place", [(0, 0), (0, 7), (7, 0), (7, 7)])
def test_pixels_at_the_border_do_not_come_back_on_the_other_side(place):
    mask, candidate = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[0, place[0], place[1]] = candidate[0, 7 - place[0], 7 - place[1]] = True
    assert best_overlap(mask, candidate[None], max_shift=3)[0] == 0
    assert best_overlap(mask, candidate[None], max_shift=7)[0] == 1


def test_a_known_shift_is_found_with_its_sign():
    mask, candidate = torch.zeros(2, 2, 12, 12, dtype=torch.bool)
    candidate[:, 3:6, 4:9] = True
    mask[:, 5:8, 3:8] = True
    assert best_overlap(mask, candidate[None], max_shift=3) == (1.0, 0, (2, -1))


@pytest.mark.parametrize("prompt", ["a red cube", "a blue ball", "a green cone", "a pink cylinder"])
def test_a_true_object_overlaps_with_itself_at_its_own_scale_and_place(prompt):
    found = silhouette_overlap(own_coverage(prompt), prompt)
    assert found.value == 1
    assert (found.scale, found.shift) == (1.0, (0, 0))


def test_softened_edges_hardly_matter():
    soft = true_views("a red cone", size=SIZE, supersample=3).coverage
    assert silhouette_overlap(soft, "a red cone").value > 0.97


@pytest.mark.parametrize(
    ("scale", "shift"), [(0.7, (3, -5)), (1.0, (-5, 6)), (1.2, (1, -2)), (1.5, (0, 0))]
)
def test_a_shifted_and_scaled_object_overlaps_with_the_truth(scale, shift):
    # Where they are shifted, none reaches the edge, so that rolling is shifting.
    moved = own_coverage("a red cube", scale=scale).roll(shift, dims=(1, 2))
    found = silhouette_overlap(moved, "a red cube")
    assert found.value == 1
    assert (found.scale, found.shift) == (scale, shift)


def test_a_scale_between_those_tried_overlaps_nearly():
    found = silhouette_overlap(own_coverage("a red cube", scale=1.025), "a red cube")
    assert 0.93 < found.value < 1
    assert found.scale in (1.0, 1.05)


def test_another_shape_overlaps_clearly_less():
    cube, ball = own_coverage("a red cube"), own_coverage("a red ball")
    assert 0.5 < silhouette_overlap(cube, "a red ball").value < 0.9
    assert silhouette_overlap(ball, "a red cube").value < 0.9
    assert silhouette_overlap(own_coverage("a red cone"), "a red ball").value < 0.85


def test_one_shift_holds_for_all_views():
    cube = own_coverage("a red cube")
    apart = torch.cat([cube[:6].roll(5, dims=2), cube[6:].roll(-5, dims=2)])
    assert silhouette_overlap(apart, "a red cube").value < 0.85


def test_nothing_rendered_overlaps_not_at_all():
    assert silhouette_overlap(torch.zeros(VIEWS, 16, 16), "a red cube").value == 0


def test_the_truth_is_seen_as_the_method_renders():
    """A sphere's silhouette by hand: its angle from the distance, the pinhole's focal length."""
    mask = own_coverage("a red ball", size=96)[0] > 0.5
    radius = 1.15 * 96 * 0.55 / math.sqrt(2.5**2 - 0.55**2)
    assert float(mask.sum()) == pytest.approx(math.pi * radius**2, rel=0.02)


def test_views_are_in_the_order_in_which_the_method_renders():
    """The method's cameras, and what of a cube they see: it repeats every quarter turn."""
    datamanager = pytest.importorskip("csd_nerf.methods.csd_dreamfusion.datamanager")
    from benchmarks.text_to_3d.object_truth import ELEVATION, FOCAL, RADIUS
    from csd_nerf.synthetic.cameras import Cameras
    from csd_nerf.synthetic.objects import render_objects, true_object

    azimuth = 2 * torch.pi * torch.arange(VIEWS) / VIEWS
    cameras = datamanager.orbit_cameras(
        azimuth, torch.full((VIEWS,), ELEVATION), radius=RADIUS, focal=FOCAL, size=SIZE
    )
    seen = render_objects(
        true_object("a red cube", views=VIEWS),
        Cameras(cameras.camera_to_worlds, cameras.fx[:, 0] / SIZE),
        size=SIZE,
        supersample=1,
    )
    assert (seen.coverage != own_coverage("a red cube")).float().mean() < 1e-3
    assert (seen.coverage.roll(1, 0) != own_coverage("a red cube")).float().mean() > 1e-3


def test_the_colour_is_that_of_covered_pixels_weighted_by_coverage():
    colour01 = torch.ones(2, 3, 4, 4)
    coverage = torch.zeros(2, 4, 4)
    # Red is (0.82, 0.10, 0.10): one pixel of it, one of half green's weight, one left out.
    coverage[0, 0, 0], colour01[0, :, 0, 0] = 1.0, torch.tensor([0.82, 0.10, 0.10])
    assert colour_distance(colour01, coverage, "a red cube") == pytest.approx(0, abs=1e-6)
    assert colour_distance(colour01, coverage, "a blue cube") == pytest.approx(
        math.dist((0.82, 0.10, 0.10), (0.10, 0.24, 0.82)), abs=1e-6
    )
    coverage[1, 2, 3], colour01[1, :, 2, 3] = 0.75, torch.tensor([0.12, 0.60, 0.16])
    coverage[1, 3, 3] = 0.5
    mean = [(a + 0.75 * b) / 1.75 for a, b in zip((0.82, 0.1, 0.1), (0.12, 0.6, 0.16), strict=True)]
    assert colour_distance(colour01, coverage, "a red cube") == pytest.approx(
        math.dist(mean, (0.82, 0.10, 0.10)), abs=1e-6
    )


def test_nothing_covered_has_no_colour():
    assert colour_distance(torch.ones(2, 3, 4, 4), torch.zeros(2, 4, 4), "a red cube") is None


def test_the_true_object_is_lit_from_the_upper_left_of_every_camera():
    flat, lit = (true_views("a white ball", size=32, ambient=a) for a in (1.0, AMBIENT))
    assert torch.equal(flat.coverage, lit.coverage)
    share = (lit.image01 / flat.image01)[:, 0]
    upper_left, lower_right = share[:, 12, 12], share[:, 19, 19]
    assert (upper_left > lower_right + 0.2).all()
    inside = share[flat.coverage > 0.5]
    assert inside.min() >= AMBIENT - 1e-6
    assert inside.max() == pytest.approx(1, abs=0.02)
