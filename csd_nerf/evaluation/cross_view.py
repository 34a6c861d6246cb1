"""Measures whether views of a scene have the same colours at the same points of space.

Views are warped onto each other by depth and pose. Cameras have OpenGL axes as in nerfstudio (x
right, y up, looking along -z) and are pinholes without distortion. Image coordinates are in pixels,
x right and y down; the centre of the first pixel is at (0.5, 0.5). Distances are Euclidean, from
the camera's centre along the pixel's ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_PIXELS_AT_ONCE = 2**20
"""Pixels of the pairs that are warped together; bounds the memory."""


@dataclass(frozen=True)
class CrossViewError:
    """Disagreement between views of one scene.

    Attributes:
        error: Mean absolute difference of colours, over channels and over all pixels that both
            views of a pair see; in [0, 1], lower is better. NaN if there is no such pixel.
        seen: Share of the pairs' pixels that were compared, in [0, 1].
    """

    error: float
    seen: float


def cross_view_error(
    image01: Float[Tensor, "n 3 h w"],
    distance: Float[Tensor, "n h w"],
    camera_to_world: Float[Tensor, "n 3 4"],
    intrinsics: Float[Tensor, "n 4"],
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    tolerance: float = 0.02,
) -> CrossViewError:
    """Warp views onto each other by depth and pose, and compare their colours.

    Each pixel p of a view i is projected, by its distance, into the other view j of its pair, to
    the image point q at the distance r from j's camera. Both views see the point if
    |d_j(q) - r| <= tolerance r, where d_j are the distances of j; the error is then
    |c_i(p) - c_j(q)|. Both views of a pair are warped, so their order doesn't matter.

    Values between pixels are interpolated bilinearly. So fine texture, and also reflections, give
    some error even in consistent views; compare with the same measure of the unedited views. This
    is the warping error of Lai et al., "Learning Blind Video Temporal Consistency" (2018), with the
    scene's geometry instead of optical flow and absolute instead of squared differences.

    Args:
        image01: Views, in [0, 1].
        distance: Distance of each pixel's surface along its ray, in the unit of the poses. Pixels
            with infinite, NaN or non-positive distance, such as the sky, are not compared.
        camera_to_world: Rotation and position of each view's camera.
        intrinsics: fx, fy, cx, cy of each view in pixels.
        pairs: The pairs of views to compare; None means each view with the next one.
        tolerance: Largest relative difference of distances for pixels that show the same point.

    Raises:
        ValueError: If there is no pair, or a pair isn't of two different views.
    """
    if pairs is None:
        pairs = [(view, view + 1) for view in range(len(image01) - 1)]
    chosen = _checked(pairs, len(image01))
    both_ways = torch.cat([chosen, chosen.flip(1)]).to(image01.device)
    known = torch.where(distance.isfinite() & (distance > 0), distance, torch.nan)
    difference, seen = 0.0, 0
    for some in both_ways.split(max(1, _PIXELS_AT_ONCE // distance[0].numel())):
        here, there = some.unbind(1)
        points = _points(known[here], camera_to_world[here], intrinsics[here])
        place, away = _project(points, camera_to_world[there], intrinsics[there])
        found = _sample(known[there, None], place)[:, 0]
        # False wherever a distance is NaN.
        agree = (found - away).abs() <= tolerance * away
        colours = _sample(image01[there], place)
        error = (image01[here] - colours).abs().mean(dim=1)[agree]
        difference += float(error.sum(dtype=torch.float64))
        seen += error.numel()
    pixels = len(both_ways) * distance[0].numel()
    return CrossViewError(difference / seen if seen else float("nan"), seen / pixels)


def _checked(pairs: Sequence[tuple[int, int]], views: int) -> Int[Tensor, "p 2"]:
    if not pairs:
        raise ValueError(f"Views are compared in pairs, got none, of {views} views.")
    for pair in pairs:
        if not all(0 <= view < views for view in pair) or pair[0] == pair[1]:
            raise ValueError(
                f"A pair must be two different views from 0 to {views - 1}, got {tuple(pair)}."
            )
    return torch.tensor(pairs)


def ray_lengths(
    height: int, width: int, intrinsics: Float[Tensor, "n 4"]
) -> Float[Tensor, "n h w"]:
    """Distance from the camera to the plane z = -1 along each pixel's ray.

    It converts depth along the camera's axis to distance along the ray: distance = depth * this.
    """
    return _directions(height, width, intrinsics).norm(dim=-1)


def _directions(
    height: int, width: int, intrinsics: Float[Tensor, "n 4"]
) -> Float[Tensor, "n h w 3"]:
    """Vectors in camera axes from the camera to the plane z = -1, through the pixels' centres."""
    fx, fy, cx, cy = (value[:, None, None] for value in intrinsics.unbind(1))
    at = {"dtype": intrinsics.dtype, "device": intrinsics.device}
    x = (torch.arange(width, **at) + 0.5 - cx) / fx
    y = (torch.arange(height, **at)[:, None] + 0.5 - cy) / fy
    x, y = torch.broadcast_tensors(x, y)
    return torch.stack([x, -y, -torch.ones_like(x)], dim=-1)


def _points(
    distance: Float[Tensor, "b h w"],
    camera_to_world: Float[Tensor, "b 3 4"],
    intrinsics: Float[Tensor, "b 4"],
) -> Float[Tensor, "b h w 3"]:
    """World coordinates of the pixels' surface points."""
    height, width = distance.shape[1:]
    rays = torch.nn.functional.normalize(_directions(height, width, intrinsics), dim=-1)
    local = distance[..., None] * rays
    rotation, position = camera_to_world[..., :3], camera_to_world[:, None, None, :, 3]
    return torch.einsum("bij,bhwj->bhwi", rotation, local) + position


def _project(
    points: Float[Tensor, "b h w 3"],
    camera_to_world: Float[Tensor, "b 3 4"],
    intrinsics: Float[Tensor, "b 4"],
) -> tuple[Float[Tensor, "b h w 2"], Float[Tensor, "b h w"]]:
    """Image coordinates of world points (NaN behind the camera), and distances to the camera."""
    rotation, position = camera_to_world[..., :3], camera_to_world[:, None, None, :, 3]
    local = torch.einsum("bji,bhwj->bhwi", rotation, points - position)
    depth = torch.where(local[..., 2] < 0, -local[..., 2], torch.nan)
    fx, fy, cx, cy = (value[:, None, None] for value in intrinsics.unbind(1))
    place = torch.stack([fx * local[..., 0] / depth + cx, cy - fy * local[..., 1] / depth], -1)
    return place, local.norm(dim=-1)


def _sample(
    values: Float[Tensor, "b c h w"], place: Float[Tensor, "b h w 2"]
) -> Float[Tensor, "b c h w"]:
    """Bilinear values at image coordinates; NaN outside the image."""
    height, width = values.shape[2:]
    x, y = place.unbind(-1)
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    scale = torch.tensor([2 / width, 2 / height], dtype=place.dtype, device=place.device)
    grid = torch.where(inside[..., None], place * scale - 1, 0)
    sampled = torch.nn.functional.grid_sample(
        values, grid, padding_mode="border", align_corners=False
    )
    return torch.where(inside[:, None], sampled, torch.nan)
