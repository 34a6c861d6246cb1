"""Whether views of one scene show the same colours at the same places, by their depth and poses.

Cameras: OpenGL and nerfstudio axes (x right, y up, looking along -z), pinhole, without distortion.
Image coordinates: x right, y down, in pixels; the centre of the first pixel is at (0.5, 0.5).
Distances are Euclidean, from the camera's centre along the pixel's ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_PIXELS_AT_ONCE = 2**20
"""Bounds the memory of a batch of pairs."""


@dataclass(frozen=True)
class CrossViewError:
    """How far views of one scene disagree.

    Attributes:
        error: Mean absolute difference of colour over the pixels that two views see and over the
            channels, in [0, 1], lower is better; NaN if no pixel is seen twice.
        seen: Share of all pixels of the pairs, in [0, 1], that were compared.
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

    Each pixel p of a view i is put into space at its distance and projected into the other view j
    of its pair, to the place q at the distance r from j's camera. It counts as seen by both if
    |d_j(q) - r| <= tolerance r, with d_j the distance of j; its error is |c_i(p) - c_j(q)|. Both
    views of a pair are warped, so their order doesn't matter. Values between pixels are bilinear:
    fine texture leaves some error even where nothing disagrees, which the same measure of the
    unedited views shows, and so do reflections. This is the warping error of Lai et al.,
    "Learning Blind Video Temporal Consistency" (2018), with the scene's geometry in place of
    optical flow and absolute in place of squared differences.

    Args:
        image01: Views, in [0, 1].
        distance: Distance of what each pixel shows, in the poses' unit. Pixels where it is
            infinite, NaN or not positive, such as the sky, are never compared.
        camera_to_world: Rotation and position of each view.
        intrinsics: fx, fy, cx, cy of each view in pixels.
        pairs: Which views are compared; None means each view with the next one.
        tolerance: Largest relative difference of distances at one place.

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
    """Distance from the camera to the plane z = -1 through each pixel's centre.

    A depth along the camera's axis times this is the distance along the pixel's ray.
    """
    return _directions(height, width, intrinsics).norm(dim=-1)


def _directions(
    height: int, width: int, intrinsics: Float[Tensor, "n 4"]
) -> Float[Tensor, "n h w 3"]:
    """Rays through the pixels' centres in camera axes, up to the plane z = -1."""
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
    """Where the pixels lie in the world."""
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
    """Image coordinates of points, and their distance; NaN behind the camera."""
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
